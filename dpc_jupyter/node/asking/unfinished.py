"""What this user's processes have asked and not heard the end of: whoever comes after one that died can collect it."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from dpc_jupyter.errors import ConfigError
from dpc_jupyter.firewall import Document
from dpc_jupyter.home import Home
from dpc_jupyter.node.asking.request import InferenceRequest
from dpc_jupyter.node.processes import runs
from dpc_jupyter.protocol.messages import RESUME_WITHIN_S
from dpc_jupyter.sanitize import label

# Most answers are there by then, and cost the disk nothing.
NOTE_AFTER_S = 0.5
_LIMIT = 100
_DOMAIN = b"dpc-jupyter unfinished\0"


@dataclass(frozen=True, slots=True)
class UnfinishedRequest:
    """A request whose process has ended.

    Attributes
    ----------
    host, host_name : str
        The compute host's node id, and what it was called here.
    model : str
        As it was asked for; empty for the host's choice.
    asked_at : float
        Unix seconds.
    """

    request_id: str
    host: str
    host_name: str
    model: str
    asked_at: float


class Unfinished:
    """The file ``asked.json`` of a home.

    Parameters
    ----------
    home : Home
    secret : bytes
        Of this home alone: keys the fingerprints, so that the file does not tell what was asked.

    Notes
    -----
    `note`, `forget` and `look` block on the disk. No file is read to ask a question: what a process left behind was
    there when this one began.
    """

    def __init__(self, home: Home, secret: bytes) -> None:
        self._home = home
        self._key = hashlib.sha256(_DOMAIN + secret).digest()
        self._machine = platform.node()
        self._entries: Document = {}

    def fingerprint(self, host: str, request: InferenceRequest) -> str:
        """The same for the same question to the same host with the same options, and for nothing else."""
        facts = (host, request.model, request.provider, request.messages, request.options)
        text = json.dumps(msgspec.to_builtins(facts))  # the standard library's: half a character is no fault here
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def note(self, host: str, host_name: str, request: InferenceRequest) -> None:
        """A request is open."""
        entry = {
            "host": host,
            "name": host_name,
            "model": request.model or "",
            "fingerprint": self.fingerprint(host, request),
            "when": int(time.time()),
            "machine": self._machine,
            "pid": os.getpid(),
        }
        self._edit(lambda entries: dict([*entries.items(), (request.request_id, entry)][-_LIMIT:]))

    def forget(self, request_id: str) -> None:
        """It is over."""
        self._edit(lambda entries: {known: entry for known, entry in entries.items() if known != request_id})

    def look(self) -> None:
        """Read the file; one that is damaged costs an answer that could be collected, and nothing else."""
        try:
            self._entries = self._home.read_asked()
        except ConfigError:
            self._entries = {}

    def requests(self) -> tuple[UnfinishedRequest, ...]:
        """What can be collected, oldest first."""
        return tuple(
            UnfinishedRequest(
                request_id,
                str(entry.get("host")),
                label(str(entry.get("name"))),
                label(str(entry.get("model"))),
                float(entry["when"]),
            )
            for request_id, entry in self._entries.items()
            if self._is_orphan(entry)
        )

    def take(self, host: str, request: InferenceRequest) -> str | None:
        """The id under which this very question was asked by a process that has ended, once."""
        if not self._entries:
            return None
        fingerprint = self.fingerprint(host, request)
        for request_id, entry in self._entries.items():
            if self._is_orphan(entry) and hmac.compare_digest(str(entry.get("fingerprint")), fingerprint):
                self._entries = {known: other for known, other in self._entries.items() if known != request_id}
                return request_id
        return None

    def _is_orphan(self, entry: dict[str, Any]) -> bool:
        """Of a process that is no more; another machine's processes, on a shared home, cannot be seen from here."""
        pid = entry.get("pid")
        return _is_fresh(entry) and entry.get("machine") == self._machine and isinstance(pid, int) and not runs(pid)

    def _edit(self, change: Callable[[Document], Document]) -> None:
        self._home.edit_asked(
            lambda entries: change({known: entry for known, entry in entries.items() if _is_fresh(entry)})
        )


def _is_fresh(entry: dict[str, Any]) -> bool:
    when = entry.get("when")
    return isinstance(when, int | float) and 0 <= time.time() - when < RESUME_WITHIN_S
