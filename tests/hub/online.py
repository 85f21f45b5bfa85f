"""`HubClient`s of tests, and what they have heard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from node.waiting import until

from dpc_jupyter.hub.client.client import HubClient, HubState, Signal
from dpc_jupyter.identity import Identity


class Node:
    """A client with everything that it was told."""

    def __init__(self, url: str, identity: Identity, name: str = "node", session: str = "s", **more: Any) -> None:
        self.signals: list[Signal] = []
        self.refused: list[tuple[str, str]] = []
        self.states: list[HubState] = []
        self.node_id = identity.node_id
        self.client = HubClient(
            url,
            identity,
            name,
            session,
            on_signal=self.signals.append,
            on_refused=lambda target, sentence: self.refused.append((target, sentence)),
            on_state=self.states.append,
            **more,
        )

    async def online(self, within_s: float = 20.0) -> float:
        return await until(lambda: self.client.state.online, within_s)

    async def offline(self) -> str:
        await until(lambda: not self.client.state.online)
        return self.client.state.reason


@asynccontextmanager
async def online(
    url: str, identity: Identity, name: str = "node", session: str = "s", **more: Any
) -> AsyncIterator[Node]:
    node = Node(url, identity, name, session, **more)
    node.client.start()
    try:
        await node.online()
        yield node
    finally:
        await node.client.close()


async def found(node: Node, name: str, within_s: float = 20.0, *, gone: bool = False) -> None:
    """Search until another node is found, or is found no more; slowly, for searches are counted."""
    began = time.monotonic()
    while bool(await node.client.search(name=name)) is gone:
        assert time.monotonic() - began < within_s
        await asyncio.sleep(0.6)
