"""The stub as an OpenAI-compatible HTTP server, and the client of every row that speaks HTTP.

The server is written by hand on uvloop's protocols, with its JSON ready made: less work for a token than vLLM's own
(uvicorn and Starlette) does, so that what stands beside ours is the transport and not a framework. The client is httpx
with httpx-sse; OpenAI's own Python client is httpx with a reader of its own.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator
from typing import Any, cast

import httpx
from httpx_sse import aconnect_sse

from benchmarks.peers.base import PROMPT
from benchmarks.serving import run, say, until_told
from benchmarks.stub import MODEL, Paces, now_ns, token

_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: benchmark-stub\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_BEGIN = f'data: {{{{"id":"stub","object":"chat.completion.chunk","created":0,"model":"{MODEL}","choices":'
_CHUNK = (_BEGIN + '[{{"index":0,"delta":{{"content":"{}"}},"finish_reason":null}}]}}\n\n').format
_LAST = (
    _BEGIN + '[{{"index":0,"delta":{{}},"finish_reason":"stop"}}],'
    '"usage":{{"prompt_tokens":1,"completion_tokens":{},"total_tokens":{}}}}}\n\ndata: [DONE]\n\n'
).format
_MODELS = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "nobody"}]}).encode()


def _chunked(text: str) -> bytes:
    return b"%x\r\n%s\r\n" % (len(text), text.encode("ascii"))


class _Server(asyncio.Protocol):
    def __init__(self, paces: Paces) -> None:
        self._paces = paces
        self._received = bytearray()
        self._answer: asyncio.Task[None] | None = None
        self._has_room = asyncio.Event()
        self._has_room.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, _: Exception | None) -> None:
        if self._answer is not None:
            self._answer.cancel()

    def pause_writing(self) -> None:
        self._has_room.clear()

    def resume_writing(self) -> None:
        self._has_room.set()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = bytes(self._received).partition(b"\r\n\r\n")
        if not found:
            return
        lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        length = int(lengths[0].split(b":")[1]) if lengths else 0
        if len(rest) < length:
            return
        self._received.clear()
        if head.startswith(b"GET"):
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_MODELS)
                + _MODELS
            )
        else:
            asked = json.loads(rest[:length])
            self._answer = asyncio.get_running_loop().create_task(
                self._stream(asked.get("max_tokens") or 1, asked.get("seed") or 0)
            )

    async def _stream(self, count: int, per_s: int) -> None:
        write = self._transport.write
        write(_HEAD)
        if per_s:
            pace = self._paces.at(per_s)
            first = pace.count + 1
            for number in range(first, first + count):
                write(_chunked(_CHUNK(await pace.token(number))))
        else:
            for number in range(count):
                write(_chunked(_CHUNK(token(now_ns()))))
                if not number:
                    await asyncio.sleep(0)  # as in our host: the first token leaves at once
                if not self._has_room.is_set():
                    await self._has_room.wait()
        write(_chunked(_LAST(count, count + 1)) + b"0\r\n\r\n")


class HttpAsker:
    """A client with its pool of connections.

    Parameters
    ----------
    base_url : str
        With ``/v1``.
    context : ssl.SSLContext, optional
        For ``https``.
    """

    def __init__(self, name: str, base_url: str, context: ssl.SSLContext | None = None, key: str = "") -> None:
        self.name = name
        self._client = httpx.AsyncClient(
            base_url=base_url,
            verify=context or False,
            trust_env=False,
            timeout=httpx.Timeout(60.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )

    async def ask(self, tokens: int, per_s: int = 0) -> AsyncGenerator[str, None]:
        """As `Asker.ask`."""
        body: dict[str, Any] = {
            "model": MODEL,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": tokens,
            "seed": per_s,
            "stream": True,
        }
        async with aconnect_sse(self._client, "POST", "chat/completions", json=body) as source:
            source.response.raise_for_status()
            async for event in source.aiter_sse():
                if event.data == "[DONE]":
                    continue  # only a response read to its end leaves a connection to use again
                choices = json.loads(event.data)["choices"]
                if choices and (text := choices[0]["delta"].get("content")):
                    yield text

    async def close(self) -> None:
        """As `Asker.close`."""
        await self._client.aclose()


async def _main() -> None:
    paces = Paces()
    server = await asyncio.get_running_loop().create_server(lambda: _Server(paces), "127.0.0.1", 0, backlog=512)
    say({"port": server.sockets[0].getsockname()[1]})
    await until_told()


if __name__ == "__main__":
    run(_main)
