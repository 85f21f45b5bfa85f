"""Looks at the node for all faces at once, and looks at what costs something only now and then."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from dpc_jupyter.errors import DpcError
from dpc_jupyter.jupyter.faces.state import (
    HostView,
    InvitationView,
    Pending,
    Today,
    access_view,
    host_views,
    invitation_views,
    node_view,
    pending_views,
    request_views,
    served_tokens,
    today,
)
from dpc_jupyter.jupyter.notebook import Notebook
from dpc_jupyter.jupyter.saved_host import Chosen
from dpc_jupyter.ledger import Ledger, Usage
from dpc_jupyter.node.core_service import CoreService
from dpc_jupyter.node.reaching import Directory
from dpc_jupyter.node.serving import Access
from dpc_jupyter.node.status import KnownPeer, NodeStatus, PeerStatus
from dpc_jupyter.node.thread import BackgroundNode
from dpc_jupyter.protocol.messages import ProviderInfo
from dpc_jupyter.sanitize import label

T = TypeVar("T")
_RATE_SAMPLES = 60
_USAGE_EVERY_S = 2.0
_FILE_EVERY_S = 0.5
_IDENTITY_EVERY_S = 5.0
# What peers say of their queues; a request tells its own place by itself, this is for choosing a host.
_LOAD_EVERY_S = 3.0
# An engine that hangs is asked for a second; what it listed last is shown meanwhile.
_MODELS_WAIT_S = 0.1
# Another program may hold the ledger for seconds.
_LEDGER_WAIT_S = 0.25
_FILES = ("access", "pending", "invitations", "peers")


class Watcher:
    """The state that faces see, section by section, as plain data."""

    def __init__(self, notebook: Notebook, version: str) -> None:
        self._notebook = notebook
        self._version = version
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, Any]] = {}
        self._troubles: dict[str, str] = {}
        self._local: tuple[ProviderInfo, ...] = ()
        self._rate: deque[float] = deque([0.0] * _RATE_SAMPLES, _RATE_SAMPLES)
        self._counted: tuple[float, int] = (0.0, 0)

    def state(self, *, fresh: bool = False) -> dict[str, Any]:
        """All sections, as they are now; a `fresh` one has what a call wrote to a file this moment."""
        with self._lock:
            if fresh:
                for name in _FILES:
                    self._kept.pop(name, None)
            sections: dict[str, Any] = msgspec.to_builtins(
                self._without_node() if (node := self._notebook.running) is None else self._with(node)
            )
            return sections

    def _with(self, node: BackgroundNode) -> dict[str, Any]:
        service = node.service
        status, known, local = node.run(self._ask(service))
        trouble = "; ".join(service.engine_troubles())
        day = self._every(_USAGE_EVERY_S, "usage", lambda: _day(service.ledger), list[Usage]())
        return {
            **self._hosts(host_views(local, trouble, self._steady(status.peers), known, service.attempts)),
            "requests": {"asking": request_views(status.asking), "serving": request_views(status.serving)},
            "rate": self._rates(status.tokens),
            "today": today(day),
            **self._owners(service.access, served_tokens(day)),
            "node": node_view(status, status.node_id, self._version, self._trouble),
        }

    async def _ask(self, service: CoreService) -> tuple[NodeStatus, tuple[KnownPeer, ...], tuple[ProviderInfo, ...]]:
        """On the node's loop."""
        self._every(_LOAD_EVERY_S, "load", service.refresh, None)
        with suppress(TimeoutError):
            async with asyncio.timeout(_MODELS_WAIT_S):
                self._local = await service.models()
        return service.status(), service.known(), self._local

    def _without_node(self) -> dict[str, Any]:
        home = self._notebook.home
        self._troubles.pop("usage", None)
        node_id = self._every(_IDENTITY_EVERY_S, "identity", lambda: home.load_identity().node_id, "")
        access = self._every(_FILE_EVERY_S, "access", lambda: Access(home), None) or Access(home)
        directory = self._every(_USAGE_EVERY_S, "peers", lambda: Directory(home, lambda: access.rules), None)
        known = () if directory is None else directory.peers()
        return {
            **self._hosts(host_views((), "the node is not started", (), known)),
            "requests": {"asking": [], "serving": []},
            "rate": self._rates(0),
            "today": Today(),
            **self._owners(access, {}),
            "node": node_view(None, node_id, self._version, self._trouble),
        }

    def _steady(self, peers: Sequence[PeerStatus]) -> list[PeerStatus]:
        """Round trips as of a moment ago: the section goes down whole, and not at each of many peers' beats."""
        no_rtts = dict[tuple[str, str], float | None]()
        rtts = self._every(_LOAD_EVERY_S, "rtt", lambda: {(p.node_id, p.session): p.rtt_s for p in peers}, no_rtts)
        return [replace(peer, rtt_s=rtts.get((peer.node_id, peer.session), peer.rtt_s)) for peer in peers]

    def _hosts(self, hosts: list[HostView]) -> dict[str, Any]:
        notebook = self._notebook
        chosen = Chosen(notebook.host, label(notebook.host_name), notebook.model, notebook.restored)
        return {"hosts": hosts, "chosen": chosen}

    def _owners(self, access: Access, used: Mapping[str, int]) -> dict[str, Any]:
        """What the owner of this machine decides."""
        path = str(self._notebook.home.access_path)
        return {
            "access": access_view(path, access.rules, used, dt.datetime.now(dt.UTC)),
            "pending": self._every(_FILE_EVERY_S, "pending", lambda: pending_views(access.pending()), list[Pending]()),
            "invitations": self._every(
                _FILE_EVERY_S,
                "invitations",
                lambda: invitation_views(self._notebook.invitations.all()),
                list[InvitationView](),
            ),
        }

    @property
    def _trouble(self) -> str | None:
        return "; ".join(self._troubles.values()) or None

    def _rates(self, tokens: int) -> dict[str, Any]:
        at, before = self._counted
        now = time.monotonic()
        if now - at >= 1.0:
            self._rate.append(round(max(tokens - before, 0) / (now - at), 1) if at else 0.0)
            self._counted = (now, tokens)
        return {"now": self._rate[-1], "history": list(self._rate)}

    def _every(self, period_s: float, name: str, look: Callable[[], T], otherwise: T) -> T:
        """What `look` found at most `period_s` ago. Where it fails its sentence is shown, and the rest goes on."""
        at, value = self._kept.get(name, (float("-inf"), otherwise))
        if time.monotonic() - at >= period_s:
            self._troubles.pop(name, None)
            try:
                value = look()
            except DpcError as error:
                value, self._troubles[name] = otherwise, str(error)
            self._kept[name] = (time.monotonic(), value)
        return value  # type: ignore[no-any-return]


def _day(ledger: Ledger) -> list[Usage]:
    now = time.time()
    return ledger.usage(now - now % 86_400, wait_s=_LEDGER_WAIT_S)
