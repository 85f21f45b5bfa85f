"""The machine's floor: a TLS 1.3 echo of two callbacks on the node's own event loop (uvloop), certificate RSA-2048."""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path
from typing import cast

from benchmarks.serving import run, say, until_told

# About what a short request weighs on the wire.
MESSAGE = b"m" * 400


class _Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


class EchoClient(asyncio.Protocol):
    """One connection; `round_trip` sends a message and waits until it is back."""

    def __init__(self) -> None:
        self._missing = 0
        self._back: asyncio.Future[None] | None = None

    @classmethod
    async def connect(cls, port: int) -> EchoClient:
        """TCP and the TLS handshake."""
        context = client_context()
        _, client = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port, ssl=context)
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """From asyncio."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """From asyncio."""
        self._missing -= len(data)
        if self._missing <= 0 and self._back is not None:
            self._back.set_result(None)

    async def round_trip(self) -> None:
        """There and back."""
        self._back = asyncio.get_running_loop().create_future()
        self._missing = len(MESSAGE)
        self._transport.write(MESSAGE)
        await self._back

    def close(self) -> None:
        """End the connection."""
        self._transport.close()


def client_context() -> ssl.SSLContext:
    """TLS 1.3, and no authority to ask."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def server_context(pem: Path) -> ssl.SSLContext:
    """TLS 1.3 with the key and certificate of `pem`, and no tickets, as a node."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.load_cert_chain(pem)
    return context


async def _main() -> None:
    context = server_context(Path(sys.argv[1]))
    server = await asyncio.get_running_loop().create_server(_Echo, "127.0.0.1", 0, ssl=context)
    say({"port": server.sockets[0].getsockname()[1]})
    await until_told()


if __name__ == "__main__":
    run(_main)
