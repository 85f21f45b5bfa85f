"""A TLS stream inside another link: asyncio's own TLS over one end of a socket pair, its ciphertext at the other.

Whoever carries the ciphertext can delay it or end it. What it changes, drops, repeats or adds is no TLS record of this
stream, and ends it: TLS numbers and authenticates each one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol, cast

# So much may be under way in one direction before the other end has read it. HTTP/2 begins with half of it. All streams
# of a link together, in base64, stay under what a link may hold unsent, or one that reads slowly would end it.
WINDOW_BYTES = 128 * 1024
# In base64, with its frame, well under what a WebRTC message may hold.
PIECE_BYTES = 24 * 1024
# Nobody takes anything for so long: our TLS, which gives up on a silent peer sooner, may be over unseen, behind what it
# wrote and we do not read.
STALL_S = 60.0


class Carrier(Protocol):
    """What takes a tunnel's ciphertext to the other end."""

    def send_data(self, data: bytes, /) -> None:
        """Send a piece of at most `PIECE_BYTES`."""

    def send_credit(self, count_bytes: int, /) -> None:
        """Tell the other end that it may send so much more."""

    def send_close(self, reason: str, /) -> None:
        """Tell the other end that nothing more comes. Called at most once."""


class Tunnel(asyncio.Protocol):
    """The ciphertext's end of one socket pair.

    Parameters
    ----------
    carrier : Carrier
    ended : callable
        Called once when the tunnel is over.
    """

    def __init__(self, carrier: Carrier, ended: Callable[[], None]) -> None:
        self._carrier = carrier
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._out = bytearray()
        self._may_send = WINDOW_BYTES
        self._may_come = WINDOW_BYTES
        self._taken = 0
        self._full = self._closed = False
        self._stalled: asyncio.TimerHandle | None = None

    def feed(self, data: bytes) -> bool:
        """Take ciphertext from the other end; False if it is more than the other end may send."""
        if len(data) > self._may_come:
            return False
        self._may_come -= len(data)
        self._taken += len(data)
        if self._transport is not None and not self._closed:
            self._transport.write(data)
        self._give_credit()
        return True

    def credit(self, count_bytes: int) -> None:
        """The other end has read so much."""
        self._may_send = min(self._may_send + count_bytes, WINDOW_BYTES)
        self._pump()

    def close(self, reason: str, *, tell: bool = True) -> None:
        """End it; what has arrived still reaches TLS."""
        if self._closed:
            return
        self._closed = True
        self._watch_stall()
        if tell:
            self._carrier.send_close(reason)
        if self._transport is not None:
            self._transport.close()
        self._ended()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """From asyncio."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """From asyncio: ciphertext of our own TLS."""
        self._out += data
        self._pump()

    def pause_writing(self) -> None:
        """From asyncio: our TLS does not read."""
        self._full = True

    def resume_writing(self) -> None:
        """From asyncio."""
        self._full = False
        self._give_credit()

    def connection_lost(self, error: Exception | None) -> None:
        """From asyncio: our TLS is over."""
        self.close("the other end closed the connection")

    def _pump(self) -> None:
        while self._out and self._may_send and not self._closed:
            piece = bytes(self._out[: min(PIECE_BYTES, self._may_send)])
            del self._out[: len(piece)]
            self._may_send -= len(piece)
            self._carrier.send_data(piece)
        self._watch_stall()
        if self._transport is not None and not self._transport.is_closing():
            (self._transport.pause_reading if self._out else self._transport.resume_reading)()

    def _watch_stall(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
        if self._out and not self._closed:
            loop = asyncio.get_running_loop()
            self._stalled = loop.call_later(STALL_S, self.close, "the other end takes nothing any more")

    def _give_credit(self) -> None:
        if self._taken >= WINDOW_BYTES // 4 and not self._full and not self._closed:
            self._carrier.send_credit(self._taken)
            self._may_come += self._taken
            self._taken = 0


async def open_tunnel(carrier: Carrier, ended: Callable[[], None]) -> tuple[Tunnel, socket.socket]:
    """A tunnel, and the socket over which TLS is to run."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    tunnel = Tunnel(carrier, ended)
    try:
        await loop.connect_accepted_socket(lambda: tunnel, ours)
    except BaseException:
        ours.close()
        theirs.close()
        raise
    return tunnel, theirs
