"""Signals from one session to another, in this process or the next one; and the heartbeat that keeps presences true."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Sequence

from dpc_jupyter.hub.metrics import Metrics
from dpc_jupyter.hub.signalling.bus import Bus, Parcel
from dpc_jupyter.hub.signalling.sessions import Session, Sessions
from dpc_jupyter.hub.storage.storage import BEAT_S, FORGET_HUB_S, Place, Storage, StorageError
from dpc_jupyter.hub.wire import ErrorFromHub, SignalFromHub, SignalToHub, encode, is_offer
from dpc_jupyter.identity import is_node_id

_log = logging.getLogger(__name__)


class Switchboard:
    """The signalling of one process.

    Parameters
    ----------
    redis_url : str
        Empty: this process is the hub's only one.
    """

    def __init__(self, storage: Storage, metrics: Metrics, redis_url: str = "") -> None:
        self.hub_id = secrets.token_hex(8)
        self.sessions = Sessions()
        self._storage = storage
        self._metrics = metrics
        self._bus = Bus(redis_url, self.hub_id, self._deliver_parcel) if redis_url else None
        self._connections = 0

    async def redis_answers(self) -> bool | None:
        """None where there is none."""
        return None if self._bus is None else await self._bus.ping()

    def new_connection(self) -> str:
        """A name for a websocket, of its own in the whole hub."""
        self._connections += 1
        return f"{self.hub_id}.{self._connections}"

    async def enter(self, session: Session) -> Session | None:
        """Put a session on the board, for everybody in the hub; returns the one of this process that it replaces.

        Raises
        ------
        StorageError
            The others could not be told; it is not on the board then.
        """
        await self._storage.enter(session.node_id, self._place(session))
        before = self.sessions.add(session)
        self._metrics.online.set(len(self.sessions))
        return before

    async def leave(self, session: Session) -> None:
        """Take it off."""
        self.sessions.remove(session)
        self._metrics.online.set(len(self.sessions))
        # A row that stays shows a node online until its hub is restarted: no reason to fail here.
        with contextlib.suppress(StorageError):
            await self._storage.exit(session.connection)

    async def route(self, sender: Session, signal: SignalToHub) -> None:
        """Bring a signal to its target, or tell the sender why not."""
        began = time.perf_counter()
        try:
            problem = await self._bring(sender, signal)
        except StorageError as error:
            problem = str(error)
        if problem:
            self._metrics.refuse("signal")
            self.refuse(sender, problem, signal.target_node_id, signal.target_session)
        else:
            self._metrics.signals.inc()
            self._metrics.routing.observe(time.perf_counter() - began)

    def refuse(self, sender: Session, problem: str, target: str = "", target_session: str = "") -> None:
        """Tell a sender that its message went nowhere."""
        if not is_node_id(target):
            target = target_session = ""
        sender.deliver(encode(ErrorFromHub(target, problem, target_session)).decode())

    async def _bring(self, sender: Session, signal: SignalToHub) -> str:
        try:
            offer = is_offer(signal.payload)
        except ValueError:
            return "The payload is no JSON object."
        places = await self._places_of(signal.target_node_id)
        if signal.target_session:
            places = [place for place in places if place.session == signal.target_session]
        elif offer:
            places = [place for place in places if place.takes_offers]
        if not places:
            return f"{signal.target_node_id} is not online." if is_node_id(signal.target_node_id) else "No such node."
        text = encode(SignalFromHub(sender.node_id, signal.payload, sender.name)).decode()
        taken = [await self._hand_over(place, text) for place in places]
        return "" if any(taken) else f"{signal.target_node_id} does not take messages now."

    async def _places_of(self, node_id: str) -> Sequence[Place]:
        if self._bus is None:
            return [self._place(session) for session in self.sessions.of(node_id)]
        return await self._storage.places_of(node_id)

    async def _hand_over(self, place: Place, text: str) -> bool:
        if place.hub_id != self.hub_id:
            assert self._bus is not None
            return await self._bus.publish(place.hub_id, Parcel(place.connection, text))
        session = self.sessions.by_connection(place.connection)
        return session is not None and session.deliver(text)

    def _deliver_parcel(self, parcel: Parcel) -> None:
        session = self.sessions.by_connection(parcel.connection)
        if session is None or not session.deliver(parcel.text):
            self._metrics.refuse("parcel")

    def _place(self, session: Session) -> Place:
        return Place(session.name, self.hub_id, session.connection, session.takes_offers)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Be one of the hub's processes, until the block ends."""
        await self._storage.beat(self.hub_id)
        async with contextlib.AsyncExitStack() as stack:
            if self._bus is not None:
                await stack.enter_async_context(self._bus.listening())
            beating = asyncio.create_task(self._beat())
            try:
                yield
            finally:
                beating.cancel()
                await asyncio.gather(beating, return_exceptions=True)
                with contextlib.suppress(StorageError):
                    await self._storage.leave(self.hub_id)

    async def _beat(self) -> None:
        forgotten_at = float("-inf")
        while True:
            try:
                if not await self._storage.beat(self.hub_id):
                    # The machine slept, or the database was made anew: the others took us for dead.
                    for session in self.sessions:
                        await self._storage.enter(session.node_id, self._place(session))
                if time.monotonic() - forgotten_at > FORGET_HUB_S:
                    forgotten_at = time.monotonic()
                    await self._storage.forget()
            except StorageError as error:
                _log.warning("%s Others take this process for dead until it does.", error)
            await asyncio.sleep(BEAT_S)
