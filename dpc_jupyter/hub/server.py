"""The hub on a port: uvicorn, set up so that one client costs little and a slow one cannot cost much."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from dpc_jupyter.errors import ConfigError
from dpc_jupyter.hub.limits import SESSIONS_LIMIT, SLOW_READER_S
from dpc_jupyter.hub.rest import Settings, create_app
from dpc_jupyter.hub.signalling.bus import answers
from dpc_jupyter.hub.storage.storage import Storage, StorageError
from dpc_jupyter.hub.wire import MESSAGE_LIMIT_BYTES
from dpc_jupyter.sanitize import label

# A client that is gone without a word (a closed laptop) is offline after both together.
_PING_EVERY_S, _PING_WAIT_S = 15.0, 10.0


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the hub listens.

    Attributes
    ----------
    certificate, key : Path or None
        PEM files; both, or neither.
    proxy : str
        The address whose ``X-Forwarded-For`` is believed; empty for none.
    """

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None
    proxy: str = ""


class _Socket(WebSocketsSansIOProtocol):
    """Whoever does not read is not read either, and after `SLOW_READER_S` is let go.

    uvicorn's own would go on to answer pings into a buffer that nobody empties.
    """

    _slow: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.pause_reading()
        self._slow = self.loop.call_later(SLOW_READER_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget()
        if not self.read_paused:
            self.transport.resume_reading()

    async def receive(self) -> Any:
        message = await super().receive()
        if not self.writable.is_set():
            self.transport.pause_reading()
        return message

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _forget(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None


async def check(settings: Settings) -> None:
    """Look whether what the hub depends on answers, and say in one line what does not.

    Raises
    ------
    ConfigError
        The database or Redis cannot be used so.
    """
    storage = Storage(settings.database)
    try:
        await storage.open()
    except StorageError as error:
        raise ConfigError(f"{error} It says: {label(str(error.__cause__), 200)}") from error
    finally:
        await storage.close()
    if settings.redis_url and not await answers(settings.redis_url):
        raise ConfigError("Redis does not answer: --redis takes a URL like redis://:password@host:6379.")


def server(settings: Settings, listen: Listen) -> uvicorn.Server:
    """A server for `serve`; its own signal handlers end it in order."""
    return uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            host=listen.host,
            port=listen.port,
            ssl_certfile=listen.certificate,
            ssl_keyfile=listen.key,
            ws=_Socket,
            ws_max_size=MESSAGE_LIMIT_BYTES,
            ws_ping_interval=_PING_EVERY_S,
            ws_ping_timeout=_PING_WAIT_S,
            ws_per_message_deflate=False,  # its tables are 64 KiB a socket, for messages of 1 KiB
            proxy_headers=bool(listen.proxy),
            forwarded_allow_ips=listen.proxy or None,
            limit_concurrency=SESSIONS_LIMIT + 1000,
            # Tokens stand in the URLs of the parent's clients, and who called whom is nobody's business.
            access_log=False,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=2,
        )
    )
