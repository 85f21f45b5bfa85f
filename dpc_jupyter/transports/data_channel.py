"""A `ByteStream` over one WebRTC data channel: packing, back pressure, and how it ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dpc_jupyter.errors import ConnectError, DpcError, HandshakeError
from dpc_jupyter.transports import rtc_limits
from dpc_jupyter.transports.base import Receiver
from dpc_jupyter.transports.sdp import MESSAGE_LIMIT_BYTES

if TYPE_CHECKING:
    from aiortc import RTCDataChannel, RTCPeerConnection

LABEL = "dpc-data"
# Below the 64 KiB that any WebRTC peer takes, and small enough that a short answer is not held up by a long one.
MESSAGE_BYTES = 48 * 1024
# As asyncio's TLS streams, whose low mark is a quarter of the high one.
WRITE_HIGH_BYTES = 256 * 1024
_WRITE_LOW_BYTES = WRITE_HIGH_BYTES // 4
# aiortc cannot be told to wait, nor does its sender heed a window: what comes while nobody reads stays here, and a peer
# that sends on is cut off. Four times what the same peer may have on its way over TCP.
UNREAD_LIMIT_BYTES = 4 * 1024 * 1024
# An RSA-4096 certificate takes 2 KiB; a HELLO, which comes next, is bounded by the same.
PROOF_LIMIT_BYTES = 16 * 1024
# For the peer to take what is left and answer our closing, as over TLS.
_SHUTDOWN_S = 2.0

_NO_WAY = "no way through the network was found, or the one there was is gone"

_closing: set[asyncio.Future[None]] = set()


class WebRtcStream:
    """A `ByteStream`. Its first messages are `send_proof` and `next_proof`, and only then does it carry bytes.

    Attributes
    ----------
    peer_id : str
        The node at the other end, proven; empty until then.
    """

    kind = "WebRTC"
    hops: tuple[str, ...] = ()

    def __init__(self, connection: RTCPeerConnection) -> None:
        self.address = ""
        self.server_cert_der = b""
        self.peer_id = ""
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._channel: RTCDataChannel | None = None
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._gathering: asyncio.Task[None] | None = None
        self._proofs: asyncio.Queue[bytes | DpcError] = asyncio.Queue()
        self._proofs_awaited = 2
        self._receiver: Receiver | None = None
        self._paused = False
        self._unread = bytearray()
        self._unsent = bytearray()
        self._full = False
        self._closing: asyncio.TimerHandle | None = None
        self._broken: str | None = None
        self._ended: str | None = None
        self._gone = asyncio.Event()
        connection.on("connectionstatechange", self._state_changed)
        connection.on("datachannel", self._use)

    # The way in.

    def offer_channel(self) -> None:
        """The dialler's part: ask for the channel."""
        self._use(self._connection.createDataChannel(LABEL))

    def bound(self) -> None:
        """Put the limits in place; the connection has a transport for its channel now."""
        rtc_limits.bound(self._connection, self._deliver, self._break)

    async def gather(self) -> None:
        """Open the sockets. aioice loses those that are open when this is cancelled, so closing waits for it."""
        self._gathering = self._loop.create_task(self._connection.setLocalDescription())
        await asyncio.shield(self._gathering)
        rtc_limits.harden_sockets(self._connection)

    async def opened(self) -> None:
        """Wait for the channel.

        Raises
        ------
        ConnectError, HandshakeError
            There will be none; the sentence says why.
        """
        await asyncio.shield(self._opened)
        self.address = rtc_limits.remote_address(self._connection)

    def send_proof(self, message: bytes) -> None:
        """Send one of the two messages that prove who this end is."""
        if self._channel is not None and self._channel.readyState == "open":
            self._channel.send(message)

    async def next_proof(self) -> bytes:
        """The peer's next one; raises as `opened`."""
        found = await self._proofs.get()
        if isinstance(found, DpcError):
            raise found
        return found

    def _use(self, channel: RTCDataChannel) -> None:
        if self._channel is not None or channel.label != LABEL or not _is_reliable(channel):
            self._break("the peer opened another channel than a node does")
            return
        self._channel = channel
        channel.on("message", self._message)
        channel.on("bufferedamountlow", self._pump)
        channel.on("close", self._channel_closed)
        channel.on("open", self._channel_opened)
        if channel.readyState == "open":
            self._channel_opened()

    def _channel_opened(self) -> None:
        if not self._opened.done():
            self._opened.set_result(None)

    async def give_up(self) -> None:
        """Abort, and return when the sockets are closed."""
        self.abort()
        await self._gone.wait()

    # ByteStream.

    def attach(self, receiver: Receiver) -> None:
        """As `ByteStream.attach`."""
        self._receiver = receiver
        self._deliver()
        if self._ended is not None:
            self._tell_end(self._ended)

    def write(self, data: bytes) -> bool:
        """As `ByteStream.write`.

        While a message waits its turn, what follows collects behind it and goes out as one.
        """
        if self._closing is None and self._broken is None:
            self._unsent += data
            self._pump()
            self._full = self._full or self.unsent_bytes() > WRITE_HIGH_BYTES
        return not self._full

    def pause_reading(self) -> None:
        """As `ByteStream.pause_reading`; a peer that sends `UNREAD_LIMIT_BYTES` meanwhile is cut off."""
        self._paused = True

    def resume_reading(self) -> None:
        """As `ByteStream.resume_reading`."""
        self._paused = False
        self._deliver()

    def unsent_bytes(self) -> int:
        """As `ByteStream.unsent_bytes`."""
        return len(self._unsent) + (0 if self._channel is None else self._channel.bufferedAmount)

    def close(self) -> None:
        """As `ByteStream.close`."""
        if self._closing is None and self._broken is None:
            self._closing = self._loop.call_later(_SHUTDOWN_S, self.abort)
            self._pump()

    def abort(self) -> None:
        """As `ByteStream.abort`."""
        self._break("closed here")

    def _pump(self) -> None:
        channel = self._channel
        if channel is None or channel.readyState != "open":
            return
        # One message waits in aiortc, so that it never idles; the rest waits here, where it is packed.
        while self._unsent and not channel.bufferedAmount:
            channel.send(bytes(self._unsent[:MESSAGE_BYTES]))
            del self._unsent[:MESSAGE_BYTES]
        if self._full and self.unsent_bytes() <= _WRITE_LOW_BYTES:
            self._full = False
            if self._receiver is not None:
                self._receiver.writable()
        if self._closing is not None and not self._unsent:
            channel.close()  # which aiortc does behind the last message

    def _message(self, message: bytes | str) -> None:
        if self._broken is not None:
            return
        if isinstance(message, str):
            self._break(
                "it speaks D-PC Messenger's own WebRTC, in which only the hub says who is who; "
                "let it in by its address instead"
            )
        elif len(message) > (PROOF_LIMIT_BYTES if self._proofs_awaited else MESSAGE_LIMIT_BYTES):
            self._break("the peer sent a message that is larger than allowed")
        elif self._proofs_awaited:
            self._proofs_awaited -= 1
            self._proofs.put_nowait(message)
        else:
            self._unread += message
            if len(self._unread) > UNREAD_LIMIT_BYTES:
                self._break("the peer sent faster than it is read")

    def _deliver(self) -> None:
        if self._unread and self._receiver is not None and not self._paused:
            data, self._unread = bytes(self._unread), bytearray()
            self._receiver.data_received(data)

    # The end.

    def _channel_closed(self) -> None:
        if rtc_limits.way_is_gone(self._connection):
            self._break(_NO_WAY, ConnectError)
        else:
            self._break("closed here" if self._closing else "the peer closed the connection", ConnectError)

    def _state_changed(self) -> None:
        if self._broken is not None:
            return
        if self._connection.connectionState == "failed":
            if self._connection.iceConnectionState == "failed":
                self._break(_NO_WAY, ConnectError)
            else:
                # DTLS itself, or aiortc's comparison of the certificate with the SDP.
                self._break("it does not hold the key that its offer or answer names; someone may be in the middle")
        elif self._connection.connectionState == "closed":
            self._channel_closed()

    def _break(self, reason: str, kind: type[DpcError] = HandshakeError) -> None:
        """Nothing more goes out or comes in; the sockets close, and then it is over."""
        if self._broken is not None:
            return
        self._broken = reason
        if self._closing is not None:
            self._closing.cancel()
        self._unsent.clear()
        error = kind(f"No link over WebRTC: {reason}.")
        self._proofs.put_nowait(error)
        if not self._opened.done():
            self._opened.set_exception(error)
            self._opened.exception()  # whoever dials may have left already
        closing = self._loop.create_task(self._shut_down())
        _closing.add(closing)  # the loop itself keeps tasks weakly
        closing.add_done_callback(_closing.discard)
        # A TURN server that is gone is asked for half a minute to free its port; nobody waits here for that.
        self._loop.create_task(asyncio.wait({closing}, timeout=_SHUTDOWN_S)).add_done_callback(self._end)

    async def _shut_down(self) -> None:
        if self._gathering is not None:
            await asyncio.wait({self._gathering})
        await self._connection.close()

    def _end(self, _: object) -> None:
        self._ended = self._broken or ""
        self._gone.set()
        self._tell_end(self._ended)

    def _tell_end(self, reason: str) -> None:
        # They hold each other, as in `TlsStream.connection_lost`.
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            if self._unread:  # also while paused: it may hold the end of an answer
                data, self._unread = bytes(self._unread), bytearray()
                receiver.data_received(data)
            receiver.stream_closed(reason)


def _is_reliable(channel: RTCDataChannel) -> bool:
    return channel.ordered and channel.maxRetransmits is None and channel.maxPacketLifeTime is None
