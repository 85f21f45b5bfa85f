"""Challenge, HELLO, ACK, and the channel binding ``cb`` version 1, as pure functions.

Why each step is there (protocol.md section 2): the client checks the server's key hash before it sends a byte; the
server's nonce commits to its own certificate, so that a host cannot pass on another host's challenge; and the client
signs both ids with that nonce, so that its proof serves for this link alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Callable
from typing import Protocol

from dpc_jupyter.errors import HandshakeError
from dpc_jupyter.protocol.messages import CbOffer, CbProof, Ext, Hello, HelloChallenge

NONCE_BYTES = 32
SALT_BYTES = 32
_NONCE_DOMAIN = b"dptp-cb1-nonce\0"
_HELLO_DOMAIN = b"dptp-cb1-hello\0"


class Signer(Protocol):
    """This node's identity, as far as a handshake needs it."""

    @property
    def node_id(self) -> str: ...  # noqa: D102
    @property
    def cert_pem(self) -> bytes: ...  # noqa: D102
    @property
    def cert_der(self) -> bytes: ...  # noqa: D102
    def sign(self, data: bytes, /) -> bytes: ...  # noqa: D102


class Verifier(Protocol):
    """A peer's public key and the node id that it hashes to."""

    @property
    def node_id(self) -> str: ...  # noqa: D102
    def verify(self, signature: bytes, data: bytes, /) -> bool: ...  # noqa: D102


LoadKey = Callable[[str], Verifier]


def _decode_base64(text: str, what: str, length_bytes: int | None = None) -> bytes:
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise HandshakeError(f"The peer's {what} is not base64.") from error
    if length_bytes is not None and len(found) != length_bytes:
        raise HandshakeError(f"The peer's {what} has {len(found)} bytes instead of {length_bytes}.")
    return found


def _encode_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def cert_hash(cert_der: bytes) -> bytes:
    """SHA-256 of a certificate's DER: RFC 5929 ``tls-server-end-point`` for the certificates that DPTP makes."""
    return hashlib.sha256(cert_der).digest()


def bound_nonce(server_cert_hash: bytes, salt: bytes) -> bytes:
    """The 32-byte nonce that a server with this certificate must send for this salt."""
    return hashlib.sha256(_NONCE_DOMAIN + server_cert_hash + salt).digest()


def signed_bytes(nonce: bytes, server_cert_hash: bytes, client_id: str, server_id: str) -> bytes:
    """What the client signs: fixed-length hashes, then both ids with their lengths."""
    ids = b"".join(struct.pack(">H", len(part)) + part for part in (client_id.encode(), server_id.encode()))
    return _HELLO_DOMAIN + nonce + server_cert_hash + ids


def nonce_of(challenge: HelloChallenge) -> bytes:
    """The raw nonce in a challenge; HandshakeError where there is none."""
    return _decode_base64(challenge.nonce, "nonce", NONCE_BYTES)


def make_challenge(server_cert_der: bytes, salt: bytes) -> tuple[HelloChallenge, bytes]:
    """Server: the challenge for `SALT_BYTES` random bytes, and the raw nonce in it."""
    nonce = bound_nonce(cert_hash(server_cert_der), salt)
    return HelloChallenge(_encode_base64(nonce), CbOffer(1, _encode_base64(salt))), nonce


def answer_challenge(
    challenge: HelloChallenge,
    signer: Signer,
    *,
    name: str,
    ext: Ext,
    server_id: str,
    server_cert_der: bytes,
    legacy_ok: bool,
) -> Hello:
    """Client: check that the nonce was made for the certificate that we saw, then sign.

    Raises
    ------
    HandshakeError
        The nonce belongs to another certificate (someone is in the middle), or the server offers no channel
        binding and is not marked ``legacy_ok``. Nothing has been signed then.
    """
    nonce = nonce_of(challenge)
    proof = None
    if challenge.cb is not None and challenge.cb.v == 1:
        salt = _decode_base64(challenge.cb.salt, "salt", SALT_BYTES)
        seen = cert_hash(server_cert_der)
        if not hmac.compare_digest(nonce, bound_nonce(seen, salt)):
            raise HandshakeError(
                f"{server_id} sent a challenge made for another TLS certificate: someone may be in the middle. "
                "Nothing was signed."
            )
        proof = CbProof(1, _encode_base64(signer.sign(signed_bytes(nonce, seen, signer.node_id, server_id))))
    elif not legacy_ok:
        raise HandshakeError(legacy_sentence(server_id))
    return Hello(
        node_id=signer.node_id,
        name=name,
        cert_pem=signer.cert_pem.decode("ascii"),
        nonce_signature=_encode_base64(signer.sign(nonce)),
        cb=proof,
        ext=ext,
    )


def check_hello(
    hello: Hello,
    nonce: bytes,
    *,
    load_key: LoadKey,
    server_id: str,
    server_cert_der: bytes,
    legacy_ok: Callable[[str], bool],
) -> Verifier:
    """Server: who the client has proved to be.

    Raises
    ------
    HandshakeError
        The id is not the key's hash, a signature fails, or the channel binding is missing from a peer that is
        not marked ``legacy_ok``.
    """
    key = load_key(hello.cert_pem)
    if key.node_id != hello.node_id:
        raise HandshakeError("The HELLO names a node that its key is not.")
    if not key.verify(_decode_base64(hello.nonce_signature, "signature"), nonce):
        raise HandshakeError(f"{hello.node_id} did not sign our challenge.")
    if hello.cb is None or hello.cb.v != 1:
        if not legacy_ok(hello.node_id):
            raise HandshakeError(legacy_sentence(hello.node_id))
    elif not key.verify(
        _decode_base64(hello.cb.sig, "channel binding"),
        signed_bytes(nonce, cert_hash(server_cert_der), hello.node_id, server_id),
    ):
        raise HandshakeError(f"{hello.node_id} signed for another connection: someone may be in the middle.")
    return key


def legacy_sentence(node_id: str) -> str:
    """Why a peer without channel binding is turned away, and how its owner's friend lets it in."""
    return (
        f"{node_id} offers no channel binding (cb 1), so nothing proves that nobody sits in the middle. "
        f'To accept this one peer all the same, set "legacy_ok": true for it under "nodes" in the access file.'
    )


# WebRTC: what a data channel carries before anything else, one introduction and one proof each way.

_INTRODUCTION = b"dptp-rtc1\0"
_CHANNEL_DOMAIN = b"dptp-rtc1-channel\0"
FINGERPRINT_BYTES = 32
DIALLER, ANSWERER = 0, 1

Ends = tuple[bytes, bytes]
"""Something of each end: the dialler's, then the answerer's."""


def introduction(nonce: bytes, cert_der: bytes) -> bytes:
    """The first message of either end: `NONCE_BYTES` fresh random bytes, and the node's certificate."""
    return _INTRODUCTION + nonce + cert_der


def read_introduction(message: bytes) -> tuple[bytes, bytes]:
    """The peer's nonce and certificate; what the certificate is worth is not looked at.

    Raises
    ------
    HandshakeError
        It is something else.
    """
    start = len(_INTRODUCTION)
    if not message.startswith(_INTRODUCTION) or len(message) <= start + NONCE_BYTES:
        raise HandshakeError("The peer opened a WebRTC channel, but does not prove who it is.")
    return message[start : start + NONCE_BYTES], message[start + NONCE_BYTES :]


def channel_bytes(signer: int, ids: tuple[str, str], nonces: Ends, fingerprints: Ends) -> bytes:
    """What an end of a data channel signs with its node key.

    Every field has one length or states it, so two different channels never have the same bytes.

    Parameters
    ----------
    signer : int
        `DIALLER` or `ANSWERER`: a proof sent back to who made it is worth nothing.
    ids : tuple of str
        The node ids of both ends.
    nonces : Ends
        `NONCE_BYTES` each: what is recorded is of no use later.
    fingerprints : Ends
        SHA-256 of the certificate that each end showed in DTLS, `FINGERPRINT_BYTES` each: whoever is in the middle has
        shown another one to at least one of them.
    """
    if {len(nonce) for nonce in nonces} != {NONCE_BYTES} or {len(each) for each in fingerprints} != {FINGERPRINT_BYTES}:
        raise ValueError("nonces and fingerprints have a fixed length")
    framed = b"".join(struct.pack(">H", len(part)) + part for part in (each.encode() for each in ids))
    return _CHANNEL_DOMAIN + bytes([signer]) + framed + b"".join(nonces) + b"".join(fingerprints)
