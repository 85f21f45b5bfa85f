"""Challenges and tokens of a hub: pure, from its secret and the clock.

Both are made of the secret that all processes of a hub share, so whichever one a node meets next can check them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass

import jwt

from dpc_jupyter.errors import HandshakeError
from dpc_jupyter.identity import is_node_id

CHALLENGE_S = 60
TOKEN_S = 15 * 60
SECRET_BYTES = 32
_HEAD_BYTES = 8 + 16
_MAC_BYTES = 32


@dataclass(frozen=True, slots=True)
class Token:
    """Who holds it, and until when, in unix seconds."""

    node_id: str
    expires: float


class Tokens:
    """Makes and checks what a login is made of.

    Parameters
    ----------
    secret : bytes
        `SECRET_BYTES` random bytes. Each use has a key of its own.
    origin : str
        The hub's own; tokens name it.
    clock : callable
        Unix seconds.
    """

    def __init__(self, secret: bytes, origin: str, clock: Callable[[], float]) -> None:
        self.origin = origin
        self._clock = clock
        self._challenge_key = hmac.digest(secret, b"challenge", "sha256")
        self._token_key = hmac.digest(secret, b"token", "sha256")

    def challenge(self, node_id: str) -> str:
        """A nonce for this node at this hub, good for `CHALLENGE_S`; nothing needs to be kept of it."""
        head = struct.pack(">Q", int(self._clock()) + CHALLENGE_S) + secrets.token_bytes(16)
        return base64.urlsafe_b64encode(head + self._mac(head, node_id)).decode("ascii")

    def check_challenge(self, nonce: str, node_id: str) -> int:
        """When this nonce expires, in unix seconds; until then whoever checked it keeps it from being used again.

        Raises
        ------
        HandshakeError
            It is not ours, was made for another node, or is too old.
        """
        try:
            raw = base64.b64decode(nonce, altchars=b"-_", validate=True)
        except ValueError as error:
            raise HandshakeError("The nonce is not one of this hub's.") from error
        head, mac = raw[:_HEAD_BYTES], raw[_HEAD_BYTES:]
        if len(raw) != _HEAD_BYTES + _MAC_BYTES or not hmac.compare_digest(mac, self._mac(head, node_id)):
            raise HandshakeError("The nonce is not one of this hub's, or was made for another node.")
        expires = int.from_bytes(head[:8], "big")
        if expires <= self._clock():
            raise HandshakeError("The nonce is too old: ask for a new challenge.")
        return expires

    def issue(self, node_id: str) -> str:
        """A JWT for a node that proved its key."""
        now = int(self._clock())
        claims = {"sub": node_id, "iss": self.origin, "iat": now, "exp": now + TOKEN_S}
        return jwt.encode(claims, self._token_key, algorithm="HS256")

    def check(self, token: str) -> Token:
        """Who holds this JWT.

        Raises
        ------
        HandshakeError
            It is not ours, or has expired.
        """
        try:
            claims = jwt.decode(
                token,
                self._token_key,
                algorithms=["HS256"],
                issuer=self.origin,
                # The clock is ours, so that tests can turn it; PyJWT would take the system's.
                options={"require": ["sub", "iss", "exp"], "verify_exp": False, "verify_iat": False},
            )
        except jwt.InvalidTokenError as error:
            raise HandshakeError("The token is not one of this hub's: log in.") from error
        node_id, expires = claims["sub"], claims["exp"]
        if not is_node_id(node_id) or not isinstance(expires, int) or expires <= self._clock():
            raise HandshakeError("The token has expired: log in again.")
        return Token(node_id, expires)

    def _mac(self, head: bytes, node_id: str) -> bytes:
        bound = b"".join(struct.pack(">I", len(part)) + part for part in (self.origin.encode(), node_id.encode(), head))
        return hmac.digest(self._challenge_key, bound, "sha256")


def nonce_digest(nonce: str) -> str:
    """What is kept of a used nonce.

    Of its bytes, not of its text: base64 can spell the same bytes twice.
    """
    return hashlib.sha256(base64.b64decode(nonce, altchars=b"-_")).hexdigest()
