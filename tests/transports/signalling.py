"""Offers and answers carried in memory, as an honest hub does and as a lying one may."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dpc_jupyter.identity import Identity
from dpc_jupyter.node.links.address import machine_addresses
from dpc_jupyter.transports import webrtc
from dpc_jupyter.transports.data_channel import WebRtcStream
from dpc_jupyter.transports.gate import HalfOpen
from dpc_jupyter.transports.ice import IceConfig
from dpc_jupyter.transports.webrtc import Answerer, Payload

NOBODY = IceConfig()

# aioice leaves 127.0.0.1 out, so both ends talk over this machine's own address; no packet leaves it.
needs_an_address = pytest.mark.skipif(
    machine_addresses()[0] == "127.0.0.1", reason="WebRTC was NOT tested: this machine has no address beside loopback"
)


class Hub:
    """Carries offers to an answerer. Each of its acts can be replaced by a lie.

    Attributes
    ----------
    offers, answers : list
        What went through.
    failures : list
        What `take_offer` raised.
    """

    def __init__(self, take_offer: Callable[..., Any], sender: str) -> None:
        self.take_offer = take_offer
        self.sender = sender
        self.offers: list[Payload] = []
        self.answers: list[Payload] = []
        self.failures: list[Exception] = []
        self.on_offer: Callable[[Payload], Payload] = lambda payload: payload
        self.on_answer: Callable[[Payload], Payload] = lambda payload: payload
        self._tasks: set[asyncio.Task[None]] = set()

    async def signal(self, payload: Payload) -> Payload:
        self.offers.append(payload)
        answered: asyncio.Future[Payload] = asyncio.get_running_loop().create_future()

        async def reply(answer: Payload) -> None:
            self.answers.append(answer)
            if not answered.done():
                answered.set_result(self.on_answer(answer))

        async def take() -> None:
            try:
                await self.take_offer(self.sender, self.on_offer(payload), reply)
            except Exception as error:
                self.failures.append(error)

        task = asyncio.get_running_loop().create_task(take())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await answered

    async def settled(self) -> None:
        """Wait until every offer has led to a link or a failure."""
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def answering(
    answerer_id: Identity, sender: str, ice: IceConfig = NOBODY
) -> AsyncIterator[tuple[Hub, list[WebRtcStream]]]:
    """An answerer alone, without a node; what it accepts is let through the gate at once."""
    accepted: list[WebRtcStream] = []

    def take(stream: WebRtcStream, place: HalfOpen) -> None:
        place.done()
        accepted.append(stream)

    answerer = Answerer(answerer_id, ice, take)
    hub = Hub(answerer.take_offer, sender)
    try:
        yield hub, accepted
    finally:
        await hub.close()
        await answerer.close()
        for stream in accepted:
            await stream.give_up()


@asynccontextmanager
async def streams(
    dialler: Identity, answerer: Identity, ice: IceConfig = NOBODY
) -> AsyncIterator[tuple[WebRtcStream, WebRtcStream]]:
    """Two ends of a proven stream, the dialler's first."""
    async with answering(answerer, dialler.node_id, ice) as (hub, accepted):
        stream = await webrtc.dial(hub.signal, dialler, answerer.node_id, ice, 20.0)
        try:
            await hub.settled()
            yield stream, accepted[0]
        finally:
            await stream.give_up()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
