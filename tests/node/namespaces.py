"""Two network namespaces and a cable between them, made for one test; needs root."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

NET = "10.77.0"


def missing() -> str:
    """Why there can be none here; empty where there can."""
    if shutil.which("ip") is None:
        return "no `ip` of iproute2 here"
    probe = f"dpc-{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespaces without root ({made.stderr.strip()})"
    _ip("netns", "del", probe)
    return ""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass(frozen=True)
class Cable:
    """Ends 1 and 2, each ``eth0`` in a namespace of its own, with the addresses ``NET.1`` and ``NET.2``."""

    names: tuple[str, str]

    def inside(self, end: int) -> tuple[str, ...]:
        """What runs a command at one end."""
        return ("ip", "netns", "exec", self.names[end - 1])

    def cut(self, end: int = 1) -> None:
        """Pull it out at one end."""
        _ip("-n", self.names[end - 1], "link", "set", "eth0", "down")

    def mend(self, end: int = 1) -> None:
        """Put it back."""
        _ip("-n", self.names[end - 1], "link", "set", "eth0", "up")

    def swallow(self) -> None:
        """Lose everything on the way: neither end's own machine can tell."""
        for name, other in zip(self.names, (2, 1), strict=True):
            nobody = ("lladdr", "02:00:00:00:00:99", "nud", "permanent", "dev", "eth0")
            _ip("-n", name, "neigh", "replace", f"{NET}.{other}", *nobody)

    def spit_out(self) -> None:
        """Lose nothing any more."""
        for name, other in zip(self.names, (2, 1), strict=True):
            _ip("-n", name, "neigh", "del", f"{NET}.{other}", "dev", "eth0")

    def move(self, end: int, old: int, new: int) -> None:
        """Give one end another address."""
        _ip("-n", self.names[end - 1], "addr", "del", f"{NET}.{old}/24", "dev", "eth0")
        _ip("-n", self.names[end - 1], "addr", "add", f"{NET}.{new}/24", "dev", "eth0")


@contextmanager
def cable() -> Iterator[Cable]:
    """Make both, and take them away."""
    tag = f"dpc-{os.getpid()}-{secrets.token_hex(2)}"
    made = Cable((f"{tag}-1", f"{tag}-2"))
    try:
        for name in made.names:
            _ip("netns", "add", name)
        first, second = made.names
        _ip("link", "add", "eth0", "netns", first, "type", "veth", "peer", "name", "eth0", "netns", second)
        for end, name in enumerate(made.names, 1):
            _ip("-n", name, "addr", "add", f"{NET}.{end}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", name, "link", "set", device, "up")
        yield made
    finally:
        for name in made.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
