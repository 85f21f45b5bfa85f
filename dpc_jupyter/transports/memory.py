"""Two joined ends in one process, for tests."""

from __future__ import annotations

import asyncio

from dpc_jupyter.transports.base import Receiver


class MemoryStream:
    """One end of `pair`. Bytes arrive on a later turn of the loop, as they do from a socket."""

    kind = "memory"
    hops: tuple[str, ...] = ()

    def __init__(self, address: str, server_cert_der: bytes) -> None:
        self.address = address
        self.server_cert_der = server_cert_der
        self.other: MemoryStream
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver | None = None
        self._early: list[bytes] = []
        self._closed = False

    def attach(self, receiver: Receiver) -> None:
        """As `ByteStream.attach`."""
        self._receiver = receiver
        early, self._early = self._early, []
        for data in early:
            self._loop.call_soon(receiver.data_received, data)

    def _deliver(self, data: bytes) -> None:
        if self._closed:
            return
        if self._receiver is None:
            self._early.append(data)
        else:
            self._receiver.data_received(data)

    def write(self, data: bytes) -> bool:
        """As `ByteStream.write`; never full."""
        if data and not self._closed:
            self._loop.call_soon(self.other._deliver, bytes(data))
        return True

    def pause_reading(self) -> None:
        """Does nothing: a test's memory is not a hostile network."""

    def resume_reading(self) -> None:
        """Does nothing."""

    def unsent_bytes(self) -> int:
        """Always none."""
        return 0

    def close(self) -> None:
        """End both sides once what is written has arrived."""
        self._loop.call_soon(self._end, "closed here")
        self._loop.call_soon(self.other._end, "the peer closed the connection")

    abort = close

    def _end(self, reason: str) -> None:
        if not self._closed:
            self._closed = True
            if self._receiver is not None:
                self._receiver.stream_closed(reason)


def pair(server_cert_der: bytes) -> tuple[MemoryStream, MemoryStream]:
    """Two ends, the client's first; both see the same server certificate."""
    client, server = MemoryStream("memory:server", server_cert_der), MemoryStream("memory:client", server_cert_der)
    client.other, server.other = server, client
    return client, server
