"""Two ends of one conversation, joined in memory, and what a hostile end needs to take a place of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import dptp_v15_peer as v15
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from dpc_jupyter.identity import Identity, peer_key_from_pem
from dpc_jupyter.protocol import handshake
from dpc_jupyter.protocol.connection import Authenticated, Connection, Event
from dpc_jupyter.protocol.messages import Ext

SALT = bytes(range(32))
GUEST_EXT = Ext(1, "guest-session", stream=True)
HOST_EXT = Ext(1, "host-session", stream=True)
LegacyOk = Callable[[str], bool]


def nobody(_: str) -> bool:
    return False


def anybody(_: str) -> bool:
    return True


def client_of(
    signer: handshake.Signer,
    server: handshake.Signer,
    legacy_ok: LegacyOk = nobody,
    load_key: handshake.LoadKey = peer_key_from_pem,
) -> Connection:
    """A client that meant to reach `server`, and saw its certificate."""
    return Connection(
        signer,
        name="guest",
        ext=GUEST_EXT,
        load_key=load_key,
        legacy_ok=legacy_ok,
        server_id=server.node_id,
        server_cert_der=server.cert_der,
    )


def server_of(
    signer: handshake.Signer,
    legacy_ok: LegacyOk = nobody,
    load_key: handshake.LoadKey = peer_key_from_pem,
    salt: bytes = SALT,
) -> Connection:
    return Connection(signer, name="host", ext=HOST_EXT, load_key=load_key, legacy_ok=legacy_ok, salt=salt)


class Pair:
    """A client and a server; bytes move when told to."""

    def __init__(
        self,
        guest: handshake.Signer,
        host: handshake.Signer,
        legacy_ok: LegacyOk = nobody,
        load_key: handshake.LoadKey = peer_key_from_pem,
    ) -> None:
        self.client = client_of(guest, host, legacy_ok, load_key)
        self.server = server_of(host, legacy_ok, load_key)

    def to_client(self) -> list[Event]:
        return list(self.client.receive_data(self.server.data_to_send()))

    def to_server(self) -> list[Event]:
        return list(self.server.receive_data(self.client.data_to_send()))

    def open(self) -> Pair:
        """Shake hands."""
        self.to_client()
        self.to_server()
        self.server.admit()
        self.to_client()
        return self


def opened(server: Connection, guest: Identity, host: Identity, *, ext: bool = True) -> Connection:
    """Bring a server's end to OPEN by a client whose HELLO offers `ext` or not."""
    client = client_of(guest, host, anybody)
    list(client.receive_data(server.data_to_send()))
    hello = frames(client.data_to_send())[0]
    if not ext:
        del hello["payload"]["ext"]
    (event,) = server.receive_data(frame(hello))
    assert isinstance(event, Authenticated)
    server.admit()
    server.data_to_send()
    return server


def frame(message: object) -> bytes:
    """Any JSON value as a frame."""
    return raw_frame(json.dumps(message, separators=(",", ":")).encode())


def raw_frame(payload: bytes) -> bytes:
    return b"%010d" % len(payload) + payload


def frames(data: bytes) -> list[dict[str, Any]]:
    """The messages in well-formed frames."""
    found = []
    while data:
        end = 10 + int(data[:10])
        found.append(json.loads(data[10:end]))
        data = data[end:]
    return found


def as_v15(identity: Identity) -> v15.Identity:
    """The same identity for the v1.5 peer."""
    key = load_pem_private_key(identity.key_pem, None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return v15.Identity(key, identity.cert_pem.decode(), identity.node_id, identity.node_id)
