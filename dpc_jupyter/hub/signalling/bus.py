"""From one process of the hub to another, through Redis pub/sub. A process without it is alone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

import msgspec
import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import RedisError

_CHANNEL = "dpc-hub:"
_TIMEOUT_S = 2.0
_log = logging.getLogger(__name__)


class Parcel(msgspec.Struct, frozen=True):
    """A message for a websocket of another process."""

    connection: str
    text: str


async def answers(url: str) -> bool:
    """Whether a Redis answers at this URL."""
    try:
        async with redis.Redis.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S) as found:
            return bool(await found.ping())
    except (RedisError, OSError, ValueError):
        return False


class Bus:
    """Redis, as far as a hub needs it.

    Parameters
    ----------
    url : str
        ``redis://`` or ``rediss://``.
    hub_id : str
        This process: the channel that it hears.
    deliver : callable
        Takes every `Parcel` for us.
    """

    def __init__(self, url: str, hub_id: str, deliver: Callable[[Parcel], None]) -> None:
        self._redis = redis.Redis.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
        # Whoever only listens waits for ever, and comes back for ever.
        self._heard = redis.Redis.from_url(
            url,
            socket_connect_timeout=_TIMEOUT_S,
            health_check_interval=5,
            retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), retries=-1),
        )
        self._hub_id = hub_id
        self._deliver = deliver

    async def ping(self) -> bool:
        """Whether Redis answers."""
        try:
            return bool(await self._redis.ping())
        except (RedisError, OSError):
            return False

    async def publish(self, hub_id: str, parcel: Parcel) -> bool:
        """Send to another process; False if Redis does not answer, or that process does not listen: it has died."""
        try:
            return bool(await self._redis.publish(_CHANNEL + hub_id, msgspec.json.encode(parcel)))
        except (RedisError, OSError):
            return False

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Deliver what comes for us, until the block ends."""
        async with self._heard.pubsub(ignore_subscribe_messages=True) as heard:
            await heard.subscribe(_CHANNEL + self._hub_id)
            task = asyncio.create_task(self._listen(heard))
            try:
                yield
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self._heard.aclose()
        await self._redis.aclose()

    async def _listen(self, heard: redis.client.PubSub) -> None:
        async for message in heard.listen():
            try:
                self._deliver(msgspec.json.decode(message["data"], type=Parcel))
            except msgspec.MsgspecError:
                _log.warning("What came through Redis is no message of a hub of this version.")
