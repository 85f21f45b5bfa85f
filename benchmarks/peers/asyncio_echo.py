"""The peer of the issue's floor: a bare asyncio TLS 1.3 echo, as the standard library gives it.

Its own event loop and streams at both ends, as in asyncio's documentation, so its client is a process of its own, which
times itself when it is told to.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.peers.echo import MESSAGE, client_context, server_context
from benchmarks.serving import heard, say, until_told


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def _serve(pem: Path) -> None:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0, ssl=server_context(pem))
    say({"port": server.sockets[0].getsockname()[1]})
    await until_told()


async def _round_trip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(MESSAGE)
    await reader.readexactly(len(MESSAGE))


async def _ask(port: int) -> None:
    context = client_context()

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", port, ssl=context)

    reader, writer = await connect()
    say("ready")
    while (told := await heard()) is not None:
        took_us: list[float] = []
        for _ in range(told["count"]):
            began = time.perf_counter()
            if told["what"] == "request":
                await _round_trip(reader, writer)
            else:
                fresh = await connect()
                await _round_trip(*fresh)
            took_us.append((time.perf_counter() - began) * 1e6)
            if told["what"] == "connect":
                fresh[1].transport.abort()
        say({"p50": median(took_us)})
    writer.transport.abort()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[2])) if sys.argv[1] == "serve" else _ask(int(sys.argv[2])))
