"""Where the nodes of this home listen: one process serves, and another may write the invitation to it."""

from __future__ import annotations

import ipaddress
import os
import platform
import socket
from typing import Any

from dpc_jupyter.home import Home
from dpc_jupyter.node.links import is_any_address, machine_addresses
from dpc_jupyter.node.processes import runs

_LIMIT = 16


class Whereabouts:
    """The file ``listening.json`` of a home: one entry for each session that listens. Methods block on the disk."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._machine = platform.node()

    def note(self, session: str, host: str, port: int) -> None:
        """A node listens; `host` as it was told, empty for every address."""
        entry = {
            "addresses": _reached_at(host, port),
            "any": is_any_address(host),
            "port": port,
            "machine": self._machine,
            "pid": os.getpid(),
        }
        self._home.edit_listening(lambda entries: dict([*self._live(entries).items(), (session, entry)][-_LIMIT:]))

    def forget(self, session: str) -> None:
        """It listens no more."""
        self._home.edit_listening(lambda entries: {k: v for k, v in self._live(entries).items() if k != session})

    def addresses(self) -> list[str]:
        """``host:port`` of every node of this home that listens, the newest node's first."""
        found: dict[str, None] = {}
        for entry in reversed(self._live(self._home.read_listening()).values()):
            port, said = entry.get("port"), entry.get("addresses")
            if entry.get("any") and entry.get("machine") == self._machine and isinstance(port, int):
                said = _reached_at("", port)  # a laptop has moved since
            found.update(dict.fromkeys(each for each in said or () if isinstance(each, str)))
        return list(found)

    def _live(self, entries: dict[str, Any]) -> dict[str, Any]:
        """Without those of processes that have died; of another machine's, on a shared home, nothing is known here."""
        return {
            session: entry
            for session, entry in entries.items()
            if entry.get("machine") != self._machine or (isinstance(pid := entry.get("pid"), int) and runs(pid))
        }


def _reached_at(host: str, port: int) -> list[str]:
    hosts = list(dict.fromkeys([*machine_addresses(), *_named_addresses()])) if is_any_address(host) else [host]
    return [f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in hosts]


def _named_addresses() -> list[str]:
    """What the machine's own name stands for: other networks that it is in, where its hosts file or DNS knows them."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)}
    except OSError:
        return []
    return sorted(each for each in found if not (ip := ipaddress.ip_address(each)).is_loopback and not ip.is_link_local)
