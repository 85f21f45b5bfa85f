"""Addresses: a peer's ``dpc://`` address, and the addresses of this machine."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from dpc_jupyter.errors import UriError
from dpc_jupyter.identity import is_node_id
from dpc_jupyter.sanitize import label
from dpc_jupyter.transports.tls import DEFAULT_PORT


@dataclass(frozen=True, slots=True)
class PeerUri:
    """A ``dpc://host:port?node_id=...`` address (DPTP v1.5 section 1)."""

    host: str
    port: int
    node_id: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"dpc://{host}:{self.port}?node_id={self.node_id}"

    @classmethod
    def parse(cls, text: str) -> PeerUri:
        """Read an address.

        Raises
        ------
        UriError
            It is not one; the sentence shows the shape.
        """
        shape = "An address looks like dpc://host:8889?node_id=dpc-node-<32 hex digits>; the host's owner can copy it."
        try:
            parts = urlsplit(text.strip())
            port = parts.port or DEFAULT_PORT
        except ValueError as error:
            raise UriError(f"{label(text)!r} is no address ({error}). {shape}") from error
        ids = parse_qs(parts.query).get("node_id", [])
        if parts.scheme != "dpc" or not parts.hostname or len(ids) != 1 or not is_node_id(ids[0]):
            raise UriError(f"{label(text)!r} is no address. {shape}")
        return cls(parts.hostname, port, ids[0])


def machine_addresses() -> list[str]:
    """The addresses that this machine uses for the network, IPv4 first; a datagram socket's connect sends nothing."""
    targets: list[tuple[socket.AddressFamily, str]] = [
        (socket.AF_INET, "192.0.2.1"),  # documentation addresses (RFC 5737, RFC 3849)
        (socket.AF_INET6, "2001:db8::1"),
    ]
    found = []
    for family, target in targets:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 9))
                found.append(str(probe.getsockname()[0]))
        except OSError:
            continue
    return found or ["127.0.0.1"]


def is_any_address(host: str) -> bool:
    """Whether a listener on this host takes every address of the machine."""
    try:
        return not host or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
