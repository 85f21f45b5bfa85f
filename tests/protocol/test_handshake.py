"""Channel binding: what is hashed, what is signed, and everything an attacker may put in its place."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import dptp_v15_peer as v15
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from dpc_jupyter.errors import HandshakeError, RemoteProtocolError
from dpc_jupyter.identity import Identity
from dpc_jupyter.protocol import handshake
from dpc_jupyter.protocol.connection import Authenticated, Connection, State
from protocol.ends import SALT, Pair, anybody, as_v15, client_of, frame, frames, nobody, server_of

Payload = dict[str, Any]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def hello_of(guest: Identity, host: Identity, **changes: Any) -> Payload:
    """A HELLO that `host` with `SALT` would accept, with some fields changed (None takes a field away)."""
    pair = Pair(guest, host)
    pair.to_client()
    (hello,) = frames(pair.client.data_to_send())
    payload = {key: value for key, value in (hello["payload"] | changes).items() if value is not None}
    return {"command": "HELLO", "payload": payload}


def proof(guest: Identity, nonce: bytes, cert_hash: bytes, client_id: str, server_id: str) -> Payload:
    """`cb` made by the formula of protocol.md, not by the package."""
    ids = b"".join(len(part).to_bytes(2, "big") + part.encode() for part in (client_id, server_id))
    return {"v": 1, "sig": b64(guest.sign(b"dptp-cb1-hello\0" + nonce + cert_hash + ids))}


def refused(server: Connection, message: Payload, match: str) -> None:
    """The server refuses, says so to the peer, and has nobody authenticated."""
    server.data_to_send()
    with pytest.raises(RemoteProtocolError, match=match):
        list(server.receive_data(frame(message)))
    assert server.state is State.CLOSED and not server.extended
    (ack,) = frames(server.data_to_send())
    assert ack["command"] == "HELLO_ACK" and ack["status"] == "ERROR" and ack["error"]


def test_the_nonce_commits_to_the_servers_certificate(host_id: Identity) -> None:
    (challenge,) = frames(server_of(host_id).data_to_send())
    cert_hash = hashlib.sha256(host_id.cert_der).digest()
    nonce = hashlib.sha256(b"dptp-cb1-nonce\0" + cert_hash + SALT).digest()
    assert challenge["payload"] == {"nonce": b64(nonce), "cb": {"v": 1, "salt": b64(SALT)}}


def test_a_server_accepts_what_the_formula_gives(guest_id: Identity, host_id: Identity) -> None:
    cert_hash = hashlib.sha256(host_id.cert_der).digest()
    nonce = hashlib.sha256(b"dptp-cb1-nonce\0" + cert_hash + SALT).digest()
    cb = proof(guest_id, nonce, cert_hash, guest_id.node_id, host_id.node_id)
    signature = b64(v15.sign_nonce(as_v15(guest_id).key, nonce))
    (event,) = server_of(host_id).receive_data(frame(hello_of(guest_id, host_id, cb=cb, nonce_signature=signature)))
    assert isinstance(event, Authenticated) and event.node_id == guest_id.node_id


def test_a_clients_nonce_signature_is_one_that_v15_accepts(guest_id: Identity, host_id: Identity) -> None:
    hello = hello_of(guest_id, host_id)["payload"]
    cert_hash = hashlib.sha256(host_id.cert_der).digest()
    assert v15.hello_fault(hello, hashlib.sha256(b"dptp-cb1-nonce\0" + cert_hash + SALT).digest()) is None


def test_two_servers_with_the_same_salt_challenge_differently(host_id: Identity, evil_id: Identity) -> None:
    assert server_of(host_id).data_to_send() != server_of(evil_id).data_to_send()


# The client's side.


def challenged(guest: Identity, host: Identity, payload: Payload, *, legacy: bool = False) -> Connection:
    client = client_of(guest, host, anybody if legacy else nobody)
    list(client.receive_data(frame({"command": "HELLO_CHALLENGE", "payload": payload})))
    return client


def challenge_of(host: Identity, salt: bytes = SALT) -> Payload:
    payload: Payload = frames(server_of(host, salt=salt).data_to_send())[0]["payload"]
    return payload


class Watched:
    """An identity that tells whether it signed."""

    def __init__(self, inner: Identity) -> None:
        self.node_id, self.cert_pem, self.cert_der = inner.node_id, inner.cert_pem, inner.cert_der
        self._inner, self.signed = inner, 0

    def sign(self, data: bytes, /) -> bytes:
        self.signed += 1
        return self._inner.sign(data)


@pytest.fixture
def watched(guest_id: Identity) -> Watched:
    return Watched(guest_id)


def refuses_to_sign(watched: Watched, host: Identity, payload: Payload, match: str, *, legacy: bool = False) -> None:
    client = client_of(watched, host, anybody if legacy else nobody)
    with pytest.raises(HandshakeError, match=match):
        list(client.receive_data(frame({"command": "HELLO_CHALLENGE", "payload": payload})))
    assert watched.signed == 0
    assert client.data_to_send() == b""
    assert client.state is State.CLOSED


def test_a_client_does_not_sign_another_hosts_challenge(watched: Watched, host_id: Identity, evil_id: Identity) -> None:
    refuses_to_sign(watched, evil_id, challenge_of(host_id), "another TLS certificate")


def test_a_mark_of_legacy_ok_does_not_make_it_sign_another_hosts_bound_challenge(
    watched: Watched, host_id: Identity, evil_id: Identity
) -> None:
    refuses_to_sign(watched, evil_id, challenge_of(host_id), "another TLS certificate", legacy=True)


def test_a_client_does_not_sign_a_challenge_without_binding(watched: Watched, host_id: Identity) -> None:
    refuses_to_sign(watched, host_id, {"nonce": challenge_of(host_id)["nonce"]}, "offers no channel binding")


@pytest.mark.parametrize("version", [0, 2, -1, 10**30])
def test_another_version_of_the_binding_is_no_binding(watched: Watched, host_id: Identity, version: int) -> None:
    payload = challenge_of(host_id)
    payload["cb"]["v"] = version
    refuses_to_sign(watched, host_id, payload, "offers no channel binding")


@pytest.mark.parametrize("nonce", [b"", b"short", bytes(31), bytes(33), bytes(64)])
def test_a_nonce_is_32_bytes(watched: Watched, host_id: Identity, nonce: bytes) -> None:
    refuses_to_sign(watched, host_id, challenge_of(host_id) | {"nonce": b64(nonce)}, "instead of 32")


def test_a_salt_is_32_bytes(watched: Watched, host_id: Identity) -> None:
    salt = bytes(31)
    nonce = hashlib.sha256(b"dptp-cb1-nonce\0" + hashlib.sha256(host_id.cert_der).digest() + salt).digest()
    refuses_to_sign(watched, host_id, {"nonce": b64(nonce), "cb": {"v": 1, "salt": b64(salt)}}, "instead of 32")


@pytest.mark.parametrize("text", ["*" * 44, "é" * 44, "A" * 43, b64(bytes(32)) + "\n", " " + b64(bytes(32))])
def test_a_nonce_is_strict_base64(watched: Watched, host_id: Identity, text: str) -> None:
    refuses_to_sign(watched, host_id, challenge_of(host_id) | {"nonce": text}, "base64|instead of 32")


def test_a_stale_salt_does_not_fit_the_nonce(watched: Watched, host_id: Identity) -> None:
    payload = challenge_of(host_id) | {"cb": challenge_of(host_id, bytes(32))["cb"]}
    refuses_to_sign(watched, host_id, payload, "another TLS certificate")


def test_a_legacy_server_is_signed_for_only_without_a_binding_proof(guest_id: Identity, host_id: Identity) -> None:
    (hello,) = frames(challenged(guest_id, host_id, {"nonce": b64(bytes(32))}, legacy=True).data_to_send())
    assert "cb" not in hello["payload"]
    assert v15.hello_fault(hello["payload"], bytes(32)) is None


def test_the_mark_is_looked_up_for_the_node_that_was_meant(guest_id: Identity, host_id: Identity) -> None:
    asked: list[str] = []

    def legacy_ok(node_id: str) -> bool:
        asked.append(node_id)
        return True

    client = client_of(guest_id, host_id, legacy_ok)
    list(client.receive_data(frame({"command": "HELLO_CHALLENGE", "payload": {"nonce": b64(bytes(32))}})))
    assert asked == [host_id.node_id]


# The server's side.


@pytest.fixture
def server(host_id: Identity) -> Connection:
    return server_of(host_id)


def test_a_hello_without_its_binding_is_refused_with_the_reason(
    server: Connection, guest_id: Identity, host_id: Identity
) -> None:
    refused(server, {"command": "HELLO", "payload": hello_of(guest_id, host_id)["payload"] | {"cb": None}}, "legacy_ok")


@pytest.mark.parametrize("version", [0, 2, -1])
def test_a_hello_with_another_binding_version_is_refused(
    server: Connection, guest_id: Identity, host_id: Identity, version: int
) -> None:
    hello = hello_of(guest_id, host_id)
    hello["payload"]["cb"]["v"] = version
    refused(server, hello, "offers no channel binding")


def test_a_marked_node_without_binding_is_let_in_and_only_that_one(
    guest_id: Identity, host_id: Identity, evil_id: Identity
) -> None:
    server = server_of(host_id, lambda node_id: node_id == guest_id.node_id)
    (event,) = server.receive_data(frame(hello_of(guest_id, host_id, cb=None, ext=None)))
    assert isinstance(event, Authenticated) and event.ext is None
    other = server_of(host_id, lambda node_id: node_id == guest_id.node_id)
    refused(other, hello_of(evil_id, host_id, cb=None), "offers no channel binding")


def test_a_marked_node_still_has_to_sign(guest_id: Identity, host_id: Identity, evil_id: Identity) -> None:
    forged = b64(evil_id.sign(base64.b64decode(challenge_of(host_id)["nonce"])))
    server = server_of(host_id, anybody)
    refused(server, hello_of(guest_id, host_id, cb=None, nonce_signature=forged), "did not sign our challenge")


def test_a_marked_node_that_offers_a_binding_must_offer_a_true_one(guest_id: Identity, host_id: Identity) -> None:
    server = server_of(host_id, anybody)
    refused(server, hello_of(guest_id, host_id, cb={"v": 1, "sig": b64(bytes(256))}), "another connection")


def test_a_proof_for_another_certificate_is_refused(
    server: Connection, guest_id: Identity, host_id: Identity, evil_id: Identity
) -> None:
    cert_hash = hashlib.sha256(evil_id.cert_der).digest()
    nonce = base64.b64decode(challenge_of(host_id)["nonce"])
    cb = proof(guest_id, nonce, cert_hash, guest_id.node_id, host_id.node_id)
    refused(server, hello_of(guest_id, host_id, cb=cb), "another connection")


def test_a_proof_for_another_server_is_refused(
    server: Connection, guest_id: Identity, host_id: Identity, evil_id: Identity
) -> None:
    cert_hash = hashlib.sha256(host_id.cert_der).digest()
    nonce = base64.b64decode(challenge_of(host_id)["nonce"])
    cb = proof(guest_id, nonce, cert_hash, guest_id.node_id, evil_id.node_id)
    refused(server, hello_of(guest_id, host_id, cb=cb), "another connection")


def test_a_proof_for_another_client_is_refused(
    server: Connection, guest_id: Identity, host_id: Identity, evil_id: Identity
) -> None:
    cert_hash = hashlib.sha256(host_id.cert_der).digest()
    nonce = base64.b64decode(challenge_of(host_id)["nonce"])
    cb = proof(guest_id, nonce, cert_hash, evil_id.node_id, host_id.node_id)
    refused(server, hello_of(guest_id, host_id, cb=cb), "another connection")


def test_a_proof_over_another_nonce_is_refused(server: Connection, guest_id: Identity, host_id: Identity) -> None:
    cert_hash = hashlib.sha256(host_id.cert_der).digest()
    cb = proof(guest_id, bytes(32), cert_hash, guest_id.node_id, host_id.node_id)
    refused(server, hello_of(guest_id, host_id, cb=cb), "another connection")


def test_a_proof_by_another_key_is_refused(
    server: Connection, guest_id: Identity, host_id: Identity, evil_id: Identity
) -> None:
    cert_hash = hashlib.sha256(host_id.cert_der).digest()
    nonce = base64.b64decode(challenge_of(host_id)["nonce"])
    cb = proof(evil_id, nonce, cert_hash, guest_id.node_id, host_id.node_id)
    refused(server, hello_of(guest_id, host_id, cb=cb), "another connection")


def test_the_nonce_signature_does_not_serve_as_a_binding_proof(
    server: Connection, guest_id: Identity, host_id: Identity
) -> None:
    hello = hello_of(guest_id, host_id)
    hello["payload"]["cb"]["sig"] = hello["payload"]["nonce_signature"]
    refused(server, hello, "another connection")


def test_a_binding_proof_does_not_serve_as_the_nonce_signature(
    server: Connection, guest_id: Identity, host_id: Identity
) -> None:
    hello = hello_of(guest_id, host_id)
    hello["payload"]["nonce_signature"] = hello["payload"]["cb"]["sig"]
    refused(server, hello, "did not sign our challenge")


def test_a_hello_that_names_another_node_is_refused(
    server: Connection, guest_id: Identity, host_id: Identity, evil_id: Identity
) -> None:
    refused(server, hello_of(evil_id, host_id, node_id=guest_id.node_id), "names a node that its key is not")


def test_a_hello_with_another_nodes_certificate_is_refused(
    server: Connection, guest_id: Identity, host_id: Identity, evil_id: Identity
) -> None:
    stolen = {"node_id": guest_id.node_id, "cert_pem": guest_id.cert_pem.decode()}
    refused(server, hello_of(evil_id, host_id, **stolen), "did not sign our challenge")


def test_a_hello_whose_certificate_lies_about_its_cn_is_refused(
    server: Connection, guest_id: Identity, host_id: Identity, evil_id: Identity
) -> None:
    liar = v15.make_identity(common_name=guest_id.node_id, key=as_v15(evil_id).key)
    refused(server, hello_of(evil_id, host_id, cert_pem=liar.cert_pem), "claims to be someone else")
    again = server_of(host_id)
    refused(again, hello_of(evil_id, host_id, cert_pem=liar.cert_pem, node_id=guest_id.node_id), "someone else")


def test_an_unsigned_hello_is_refused(server: Connection, guest_id: Identity, host_id: Identity) -> None:
    refused(server, hello_of(guest_id, host_id, nonce_signature=None), "HELLO is malformed")


@pytest.mark.parametrize("signature", ["", "AAAA", b64(bytes(256)), "*", "é", b64(bytes(700))])
def test_a_senseless_signature_is_refused(
    server: Connection, guest_id: Identity, host_id: Identity, signature: str
) -> None:
    refused(server, hello_of(guest_id, host_id, nonce_signature=signature), "did not sign|not base64")


def test_a_signature_of_another_padding_is_refused(server: Connection, guest_id: Identity, host_id: Identity) -> None:
    nonce = base64.b64decode(challenge_of(host_id)["nonce"])
    pkcs1 = as_v15(guest_id).key.sign(nonce, padding.PKCS1v15(), hashes.SHA256())
    refused(server, hello_of(guest_id, host_id, nonce_signature=b64(pkcs1)), "did not sign our challenge")


def test_a_replayed_hello_is_refused(guest_id: Identity, host_id: Identity) -> None:
    hello = hello_of(guest_id, host_id)
    (event,) = server_of(host_id).receive_data(frame(hello))
    assert isinstance(event, Authenticated)
    refused(server_of(host_id, salt=bytes(32)), hello, "did not sign our challenge")


def test_a_replayed_v15_hello_is_refused(guest_id: Identity, host_id: Identity) -> None:
    hello = hello_of(guest_id, host_id, cb=None)
    (event,) = server_of(host_id, anybody).receive_data(frame(hello))
    assert isinstance(event, Authenticated)
    refused(server_of(host_id, anybody, salt=bytes(32)), hello, "did not sign our challenge")


def test_a_hello_for_one_host_does_not_serve_at_another_with_the_same_salt(
    guest_id: Identity, host_id: Identity, evil_id: Identity
) -> None:
    refused(server_of(host_id), hello_of(guest_id, evil_id), "did not sign our challenge")


def test_the_signed_bytes_cannot_be_shifted_between_fields() -> None:
    nonce, cert_hash = bytes(32), bytes(range(32))
    seen = {
        handshake.signed_bytes(nonce, cert_hash, *ids) for ids in (("ab", "c"), ("a", "bc"), ("", "abc"), ("abc", ""))
    }
    assert len(seen) == 4
    assert handshake.signed_bytes(nonce, cert_hash, "ab", "c") == (
        b"dptp-cb1-hello\0" + nonce + cert_hash + b"\0\2ab" + b"\0\1c"
    )


def test_every_salt_gives_another_nonce(host_id: Identity) -> None:
    assert len({handshake.make_challenge(host_id.cert_der, bytes([n]) * 32)[1] for n in range(8)}) == 8


def test_the_client_is_whoever_its_key_is_whatever_name_it_gives(guest_id: Identity, host_id: Identity) -> None:
    (event,) = server_of(host_id).receive_data(frame(hello_of(guest_id, host_id, name=host_id.node_id)))
    assert isinstance(event, Authenticated)
    assert (event.node_id, event.name) == (guest_id.node_id, host_id.node_id)


# WebRTC: what each end of a data channel signs.


def channel(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "signer": handshake.DIALLER,
        "ids": ("ab", "c"),
        "nonces": (bytes([1]) * 32, bytes([2]) * 32),
        "fingerprints": (bytes([3]) * 32, bytes([4]) * 32),
    }
    return handshake.channel_bytes(**fields | changes)


def test_what_is_signed_for_a_channel_is_this() -> None:
    assert channel() == (b"dptp-rtc1-channel\0\0" + b"\0\2ab\0\1c" + b"\1" * 32 + b"\2" * 32 + b"\3" * 32 + b"\4" * 32)


@pytest.mark.parametrize(
    "changes",
    [
        {"signer": handshake.ANSWERER},
        {"ids": ("a", "bc")},
        {"ids": ("c", "ab")},
        {"nonces": (bytes([2]) * 32, bytes([1]) * 32)},
        {"nonces": (bytes([1]) * 32, bytes([9]) * 32)},
        {"fingerprints": (bytes([4]) * 32, bytes([3]) * 32)},
        {"fingerprints": (bytes([3]) * 32, bytes([9]) * 32)},
    ],
)
def test_no_two_channels_have_the_same_signed_bytes(changes: dict[str, Any]) -> None:
    assert channel(**changes) != channel()


@pytest.mark.parametrize(
    "changes", [{"nonces": (b"", bytes(64))}, {"fingerprints": (bytes(31), bytes(33))}, {"nonces": (b"", b"")}]
)
def test_fields_of_another_length_are_never_signed(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="fixed length"):
        channel(**changes)


def test_an_introduction_carries_a_nonce_and_a_certificate_and_nothing_else_passes_for_one() -> None:
    assert handshake.read_introduction(handshake.introduction(bytes(32), b"cert")) == (bytes(32), b"cert")
    for other in (b"", b"dptp-rtc1\0", handshake.introduction(bytes(32), b""), b"0000000002{}" * 9):
        with pytest.raises(HandshakeError, match="does not prove who it is"):
            handshake.read_introduction(other)
