"""A stub HTTP server: it answers from a table and says nothing of its own. No engine runs behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Reply:
    """What a route answers: the pieces one by one, then the end of the body, silence, or a dead connection."""

    pieces: tuple[bytes, ...] = ()
    status: int = 200
    content_type: str = "application/json"
    then: Literal["end", "hang", "cut"] = "end"


def as_json(body: object, status: int = 200) -> Reply:
    return Reply((json.dumps(body).encode(),), status)


@dataclass
class StubServer:
    """Counts and keeps what it was asked; `hung_up` is set when a client leaves a hanging reply."""

    routes: dict[str, Reply]
    asked: list[tuple[str, Any]] = field(default_factory=list)
    headers: list[bytes] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked_of(self, path: str) -> list[Any]:
        return [body for asked, body in self.asked if asked == path]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")),
            0,
        )
        body = await reader.readexactly(length)
        path = head.split(b" ", 2)[1].decode()
        self.headers.append(head)
        self.asked.append((path, json.loads(body) if body else None))
        reply = self.routes.get(path, Reply((b"404 page not found",), 404, "text/plain"))
        writer.write(
            b"HTTP/1.1 %d X\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n"
            % (reply.status, reply.content_type.encode())
        )
        for piece in reply.pieces:
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0)
        if reply.then == "hang":
            await reader.read()
            self.hung_up.set()
        if reply.then != "end":
            return False
        writer.write(b"0\r\n\r\n")
        return b"connection: close" not in head.lower()


@asynccontextmanager
async def stub_server(routes: dict[str, Reply]) -> AsyncIterator[StubServer]:
    stub = StubServer(routes)
    server = await asyncio.start_server(stub.serve, "127.0.0.1", 0)
    stub.port = server.sockets[0].getsockname()[1]
    try:
        yield stub
    finally:
        server.close()
