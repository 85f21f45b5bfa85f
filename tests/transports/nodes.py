"""A node reduced to its links: what it was told is kept, and nothing is answered."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from dpc_jupyter.identity import Identity
from dpc_jupyter.node.links.address import PeerUri
from dpc_jupyter.node.links.links import Links
from dpc_jupyter.node.links.peer import Peer
from dpc_jupyter.protocol.connection import BadRequest
from dpc_jupyter.protocol.messages import Message

LOOPBACK = "127.0.0.1"


async def until(condition: Callable[[], object], what: str = "it", limit_s: float = 10.0) -> None:
    """Wait for something that must come true; no test depends on how soon."""
    ends = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < ends, f"{what} did not come true within {limit_s:g} s"
        await asyncio.sleep(0.01)


class Ear:
    """A receiver that remembers."""

    def __init__(self) -> None:
        self.heard = b""
        self.ends: list[str] = []
        self.drained = 0

    def data_received(self, data: bytes, /) -> None:
        self.heard += data

    def stream_closed(self, reason: str, /) -> None:
        self.ends.append(reason)

    def writable(self) -> None:
        self.drained += 1


class Stub:
    """What `Links` tells its node."""

    def __init__(self, identity: Identity, session: str, legacy: set[str]) -> None:
        self.identity = identity
        self.legacy = legacy
        self.strangers: set[str] = set()
        self.opened: list[Peer] = []
        self.closed: list[tuple[str, str]] = []
        self.said: list[tuple[str, Message | BadRequest]] = []
        self.links = Links(identity, "a stub", session, self)

    def is_known(self, node_id: str, /) -> bool:
        return node_id not in self.strangers

    def legacy_ok(self, node_id: str, /) -> bool:
        return node_id in self.legacy

    def peer_opened(self, peer: Peer, /) -> None:
        self.opened.append(peer)

    def peer_said(self, peer: Peer, message: Message | BadRequest, /) -> None:
        self.said.append((peer.node_id, message))

    def peer_silent(self, peer: Peer, /) -> None:
        pass

    def peer_replaced(self, older: Peer, newer: Peer, /) -> None: ...

    def peer_closed(self, peer: Peer, reason: str, /) -> None:
        self.closed.append((peer.node_id, reason))

    @property
    def uri(self) -> PeerUri:
        assert self.links.uri is not None
        return self.links.uri

    @property
    def half_open(self) -> int:
        listener = self.links._listener
        assert listener is not None
        return listener.half_open

    async def connect(self, uri: PeerUri, timeout_s: float = 10.0) -> Peer:
        return await self.links.connect(uri, timeout_s)


@asynccontextmanager
async def node(
    identity: Identity,
    *,
    listen: str | None = LOOPBACK,
    port: int = 0,
    session: str = "session-1",
    legacy: set[str] | None = None,
) -> AsyncIterator[Stub]:
    """A node that listens (or only dials, with `listen` None) and is gone without a trace afterwards."""
    stub = Stub(identity, session, set() if legacy is None else legacy)
    if listen is not None:
        stub.links.listen(listen, port)
    try:
        yield stub
    finally:
        await stub.links.close("the test is over")


class Recorder:
    """A server that speaks no protocol at all: it keeps what it is sent, byte by byte."""

    def __init__(self) -> None:
        self.data = b""
        self.connections = 0
        self.ended = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(OSError):
            while data := await reader.read(65536):
                self.data += data
        self.ended += 1
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def recorder(context: ssl.SSLContext | None) -> AsyncIterator[Recorder]:
    """A recording server on loopback, with TLS or without."""
    found = Recorder()
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        work: Coroutine[Any, Any, None] = found.serve(reader, writer)
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, LOOPBACK, 0, ssl=context)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.05)
