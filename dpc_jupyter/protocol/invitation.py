"""Invitations: the line that one person pastes, and the proof of its secret over one link, as pure functions.

The secret is never sent: what goes over the wire is an HMAC over this very link's channel binding, so that whoever sees
or is sent it can do nothing with it at another link, in another name, or at another host.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import struct
from dataclasses import dataclass, field

from dpc_jupyter.errors import InvitationError

PREFIX = "dpc-invite:"
VERSION = 1
# Nobody guesses 2**128, and the line stays short.
SECRET_BYTES = 16
ID_BYTES = 8
# A machine with more addresses than this has some that nobody uses.
ADDRESSES_LIMIT = 6
_NODE = "dpc-node-"
_NODE_BYTES = 16
_CHECK_BYTES = 4
_DOMAIN = b"dpc-jupyter invitation 1\0"
_ADDRESS = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]{1,32})?\]):[0-9]{1,5}")
_HUB = re.compile(r"https?://[A-Za-z0-9._\[\]:-]{1,270}")
# What mail and chat put around and into a long line: spaces and breaks, quotes of all kinds, marks of a quoted text.
_LITTER = re.compile("[\\s\u00ad\u200b-\u200f\u2028\u2029\u2060\ufeff\"'`\u00ab\u00bb\u2018-\u201f\u2039\u203a<>|*]+")
_COPY = f"Copy the whole line, from {PREFIX} to its end, or ask for a new one."


@dataclass(frozen=True, slots=True)
class Invitation:
    """What the line holds.

    Attributes
    ----------
    node_id : str
        The host's.
    invite_id : str
        16 hex digits; no secret.
    secret : bytes
        `SECRET_BYTES` random bytes.
    addresses : tuple of str
        ``host:port`` of the host, the likeliest first; an IPv6 address in brackets.
    hub : str
        The hub that it is called over, ``https://host:port``: the one way where no address leads to it, and the one
        that lasts where it moves.
    """

    node_id: str
    invite_id: str
    secret: bytes = field(repr=False)
    addresses: tuple[str, ...] = ()
    hub: str = ""

    def __str__(self) -> str:
        """One word of letters, digits, ``-`` and ``_`` behind `PREFIX`: no shell or magic reads anything into it."""
        packed = bytes([VERSION]) + bytes.fromhex(self.node_id.removeprefix(_NODE) + self.invite_id) + self.secret
        packed += " ".join([*self.addresses, *([self.hub] if self.hub else [])]).encode("ascii")
        return PREFIX + base64.urlsafe_b64encode(packed + _check(packed)).decode("ascii").rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Invitation:
        """Read a line as people paste it: with quotes around it, and broken by a chat or mail.

        Raises
        ------
        InvitationError
            It is none, or not whole, or of a later version; the sentence says what to do.
        """
        _, prefix, code = _LITTER.sub("", text).partition(PREFIX)
        if not prefix:
            raise InvitationError(f"That is no invitation: one begins with {PREFIX}. {_COPY}")
        code = code.rstrip(".,;:!?)]}")  # of the sentence that it stood in
        try:
            data = base64.b64decode(code + "=" * (-len(code) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise InvitationError(f"This invitation is damaged: it holds what no invitation holds. {_COPY}") from None
        packed, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
        if not packed or not hmac.compare_digest(_check(packed), check):
            raise InvitationError(f"This invitation is not whole, or has a wrong letter. {_COPY}")
        if packed[0] != VERSION:
            raise InvitationError(
                f"This invitation is of version {packed[0]}, and this dpc-jupyter reads version {VERSION}: "
                "update the older side."
            )
        node, rest = packed[1 : 1 + _NODE_BYTES], packed[1 + _NODE_BYTES :]
        invite_id, secret, addresses = rest[:ID_BYTES], rest[ID_BYTES:][:SECRET_BYTES], rest[ID_BYTES + SECRET_BYTES :]
        found = addresses.decode("ascii", "replace").split(" ")
        hub = found.pop() if _HUB.fullmatch(found[-1]) else ""
        if len(secret) < SECRET_BYTES or len(found) > ADDRESSES_LIMIT or not all(map(is_address, found)):
            raise InvitationError(f"This invitation names no address to go to. {_COPY}")
        return cls(_NODE + node.hex(), invite_id.hex(), secret, tuple(found), hub)


def is_address(text: str) -> bool:
    """Whether this is a ``host:port`` that an invitation can carry."""
    return _ADDRESS.fullmatch(text) is not None and 0 < int(text.rpartition(":")[2]) < 2**16


def proof(secret: bytes, binding: bytes, joiner_id: str, host_id: str, invite_id: str) -> str:
    """HMAC-SHA256 of the secret over what it is meant for, as hex.

    Parameters
    ----------
    binding : bytes
        `Connection.binding` of the link that it goes over.
    joiner_id, host_id : str
        Both ends as proved by the handshake.
    """
    parts = (binding, joiner_id.encode(), host_id.encode(), invite_id.encode())
    said = b"".join(struct.pack(">H", len(part)) + part for part in parts)
    return hmac.new(secret, _DOMAIN + said, hashlib.sha256).hexdigest()


def proves(claimed: str, secret: bytes, binding: bytes, joiner_id: str, host_id: str, invite_id: str) -> bool:
    """Whether a claimed proof is that of `proof`, in a time that tells nothing about it."""
    return hmac.compare_digest(claimed.encode(), proof(secret, binding, joiner_id, host_id, invite_id).encode())


def _check(packed: bytes) -> bytes:
    """Against slips of a hand, not of an attacker: whoever writes a line chooses all of it."""
    return hashlib.sha256(packed).digest()[:_CHECK_BYTES]
