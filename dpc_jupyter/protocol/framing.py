"""Bytes to frames and back, with strict limits (DPTP v1.5 section 1).

A frame is its payload's length as 10 ASCII digits, then that many bytes of UTF-8 JSON holding one object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from dpc_jupyter import strict_json
from dpc_jupyter.errors import LocalProtocolError, RemoteProtocolError

HEADER_BYTES = 10
# A HELLO with an RSA-4096 certificate takes 4 KiB. OpenSSH bounds its pre-authentication packets at 32 KiB.
LIMIT_BEFORE_AUTHENTICATION_BYTES = 16 * 1024
# A 200 kB prompt with a phone-sized picture fits. gRPC's default is 4 MiB, websockets' and nginx's are 1 MiB.
LIMIT_BYTES = 1024 * 1024
# The deepest DPTP message has 6 levels. JSON parsers in the field stop at 32 (Redis) to 1000 (nlohmann, Python).
MAX_DEPTH = 32
# What is left of a payload without its strings. 1,024 turns take 20 kB of it, 512 offered models 40 kB; a mebibyte of
# nothing but brackets would hold a node up for most of a second.
STRUCTURE_LIMIT_BYTES = 64 * 1024

_HEADER = re.compile(rb"[0-9]{10}")
# Possessive, and an unterminated string runs to the end: on hostile text the search stays linear.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_AS_SQUARE = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def encode_frame(payload: bytes) -> bytes:
    """Put the length header before a payload.

    Raises
    ------
    LocalProtocolError
        The payload is over `LIMIT_BYTES`, which every peer refuses.
    """
    if len(payload) > LIMIT_BYTES:
        raise LocalProtocolError(
            f"This message has {len(payload):,} bytes; a frame holds {LIMIT_BYTES:,}. "
            "Shorten the prompt, or send a smaller image."
        )
    return b"%010d" % len(payload) + payload


class FrameDecoder:
    """Collects bytes and gives back whole payloads; holds at most one frame of `limit_bytes` and one read.

    Attributes
    ----------
    limit_bytes : int
        Raised by the connection once the peer is authenticated.
    """

    def __init__(self, limit_bytes: int = LIMIT_BEFORE_AUTHENTICATION_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield every payload that is complete once `data` is added.

        Raises
        ------
        RemoteProtocolError
            The header is not ten digits, or announces more than `limit_bytes`. Nothing of it is buffered.
        """
        buffer = self._buffer
        buffer += data
        while len(buffer) >= HEADER_BYTES:
            header = bytes(buffer[:HEADER_BYTES])
            if not _HEADER.fullmatch(header):
                raise RemoteProtocolError("The peer does not speak DPTP: a frame's header is ten digits.")
            end = HEADER_BYTES + int(header)
            if end - HEADER_BYTES > self.limit_bytes:
                raise RemoteProtocolError(
                    f"The peer announced a frame of {int(header):,} bytes; the limit is {self.limit_bytes:,}."
                )
            if len(buffer) < end:
                return
            payload = bytes(buffer[HEADER_BYTES:end])
            del buffer[:end]
            yield payload


def _check_structure(payload: bytes) -> None:
    structure = _STRING.sub(b"", payload)
    if len(structure) > STRUCTURE_LIMIT_BYTES:
        raise ValueError("more structure than any message has")
    # Each pass takes the innermost level away, in C. What is not balanced is not JSON either.
    brackets = structure.translate(_AS_SQUARE, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise ValueError(f"nested deeper than {MAX_DEPTH}, or not balanced")


def decode_object(payload: bytes) -> dict[str, Any]:
    """Parse one payload strictly.

    Raises
    ------
    RemoteProtocolError
        Not UTF-8, not JSON, not an object, NaN or infinite, a duplicate key, a lone surrogate, too deep, or over
        `STRUCTURE_LIMIT_BYTES`.
    """
    try:
        if len(payload) > STRUCTURE_LIMIT_BYTES or payload.count(b"[") + payload.count(b"{") > MAX_DEPTH:
            _check_structure(payload)
        found = strict_json.loads(payload.decode("utf-8"))
        if b"\\u" in payload:
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        # UnicodeError is a ValueError. Its text is not repeated: it may quote the peer's bytes.
        raise RemoteProtocolError("The peer sent a frame that is not strict JSON.") from error
    if not isinstance(found, dict):
        raise RemoteProtocolError("The peer sent a frame that is not a JSON object.")
    return found
