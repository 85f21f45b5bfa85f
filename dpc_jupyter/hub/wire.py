"""What a node and a hub say to each other, as data: the login's signed bytes, and the messages of ``/ws/signal``.

The messages keep the shape of D-PC Messenger's hub; `target_session` and `sender_session` are ours, and absent for it.
"""

from __future__ import annotations

import re
import struct
from typing import Any
from urllib.parse import urlsplit

import msgspec

from dpc_jupyter.errors import UriError

# An SDP with one data channel is about 1 KiB; the parent's aiortc refuses messages over 64 KiB on its channel too.
PAYLOAD_LIMIT_BYTES = 64 * 1024
# With the envelope around it: ids, a session, and the field names.
MESSAGE_LIMIT_BYTES = PAYLOAD_LIMIT_BYTES + 1024
# Of all lists of an advert together: what a lab of a hundred people and twenty models needs, several times.
WORDS_LIMIT, OFFERS_LIMIT = 1024, 64
# Of a search: what is more should be narrowed.
FOUND_LIMIT = 100
# Models, and groups, of each node that is found.
FOUND_WORDS = 32
SESSION = r"[0-9A-Za-z_.-]{0,64}"
# Close codes for private use (RFC 6455 section 7.4.2), after the HTTP statuses that mean the same.
EXPIRED, REPLACED = 4401, 4409
# Why a node is not online yet, before the first word of its hub.
CALLING = "It is being called."
_DOMAIN = b"dpc-hub1-login\0"
_HOST = re.compile(r"[0-9a-z_:-]{1,63}(\.[0-9a-z_-]{1,63})*\.?")  # labels as long as DNS has them
_PORTS = {"http": 80, "https": 443}


def is_session(text: str) -> bool:
    """Whether this may name a session; the empty one is D-PC Messenger's."""
    return re.fullmatch(SESSION, text) is not None


def origin_of(url: str) -> str:
    """``https://hub.lab:8890`` of a hub's URL, in one spelling: lower case, without a default port.

    Raises
    ------
    UriError
        It is no ``http`` or ``https`` URL, or has more than host and port.
    """
    shape = "A hub's address looks like https://hub.example.org:8890."
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise UriError(f"{url[:200]!r} is no address ({error}). {shape}") from error
    host = (parts.hostname or "").lower()
    extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None
    if parts.scheme not in _PORTS or not _HOST.fullmatch(host) or extra:
        raise UriError(f"{url[:200]!r} is no address of a hub. {shape}")
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + ("" if port in (None, _PORTS[parts.scheme]) else f":{port}")


def signed_bytes(origin: str, node_id: str, nonce: str) -> bytes:
    """What a node signs to log in, each field with its length.

    The origin is the one that the node dialled, so that a hub cannot use the signature at another hub.
    """
    fields = (origin.encode(), node_id.encode(), nonce.encode())
    return _DOMAIN + b"".join(struct.pack(">I", len(field)) + field for field in fields)


class SignalToHub(msgspec.Struct, frozen=True, tag="signal", tag_field="type"):
    """A node's message for another. The payload passes as it is written: the hub does not look into it.

    Attributes
    ----------
    target_session : str
        The one session that is meant. Without it an offer goes to every session that takes offers, anything else
        to all.
    """

    target_node_id: str
    payload: msgspec.Raw
    target_session: str = ""


class TokenToHub(msgspec.Struct, frozen=True, tag="token", tag_field="type"):
    """A newer token, so that the session goes on when the one that opened it expires."""

    token: str


class SignalFromHub(msgspec.Struct, frozen=True, tag="signal", tag_field="type", omit_defaults=True):
    """A message as it is delivered: the sender is whom the hub saw prove its key."""

    sender_node_id: str
    payload: msgspec.Raw
    sender_session: str = ""


class ErrorFromHub(msgspec.Struct, frozen=True, tag="error", tag_field="type", omit_defaults=True):
    """A message was not delivered; `target_node_id` is empty where it could not be read."""

    target_node_id: str
    error: str
    target_session: str = ""


class SignalHeard(msgspec.Struct, frozen=True, tag="signal", tag_field="type"):
    """`SignalFromHub`, as a node reads it."""

    sender_node_id: str
    payload: dict[str, Any]
    sender_session: str = ""


class _Head(msgspec.Struct):
    type: str = ""


_TO_HUB: msgspec.json.Decoder[SignalToHub | TokenToHub] = msgspec.json.Decoder(SignalToHub | TokenToHub)
_HEAD = msgspec.json.Decoder(_Head)
encode = msgspec.json.Encoder().encode


def decode_to_hub(text: str) -> SignalToHub | TokenToHub:
    """Read a node's message.

    Raises
    ------
    ValueError
        It is none, or its payload is no object or too long.
    """
    message = _TO_HUB.decode(text)
    if isinstance(message, SignalToHub) and len(message.payload) > PAYLOAD_LIMIT_BYTES:
        raise ValueError(f"A payload has at most {PAYLOAD_LIMIT_BYTES} bytes.")
    return message


def is_offer(payload: msgspec.Raw) -> bool:
    """Whether a payload calls itself an offer; raises ValueError if it is no object."""
    return _HEAD.decode(payload).type == "offer"
