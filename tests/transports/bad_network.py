"""A network as bad as they come, made of callbacks: it loses, delays, and hands over one byte at a time."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from dpc_jupyter.transports.base import ByteStream, Receiver
from dpc_jupyter.transports.data_channel import WebRtcStream


def worsen(stream: WebRtcStream, *, loss: float, delay_s: float, chance: random.Random) -> list[int]:
    """Lose some of the datagrams that reach this end, and deliver the others late. Counts: arrived, lost."""
    loop, counts = asyncio.get_running_loop(), [0, 0]

    def later(take: Any) -> Any:
        def datagram_received(data: bytes, address: Any) -> None:
            lost = chance.random() < loss
            counts[lost] += 1
            if not lost:
                loop.call_later(delay_s, take, data, address)

        return datagram_received

    sctp: Any = stream._connection.sctp
    for protocol in sctp.transport.transport._connection._protocols:
        protocol.datagram_received = later(protocol.datagram_received)
    return counts


class ByteByByte:
    """A stream whose receiver gets every byte by itself."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._receiver: Receiver

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def attach(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._stream.attach(self)

    def data_received(self, data: bytes, /) -> None:
        for index in range(len(data)):
            self._receiver.data_received(data[index : index + 1])

    def stream_closed(self, reason: str, /) -> None:
        self._receiver.stream_closed(reason)

    def writable(self) -> None:
        self._receiver.writable()
