"""Calls over a hub: an offer out and its answer back, or an offer in. The hub carries both, and is believed nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from dpc_jupyter.errors import ConnectError, DpcError
from dpc_jupyter.hub.client.client import Advert, FoundNode, HubClient, HubState, Signal
from dpc_jupyter.identity import Identity
from dpc_jupyter.node.links import Links, Peer
from dpc_jupyter.node.reaching.network import Network
from dpc_jupyter.node.tasks import Tasks

# Offers that are being answered at once, half of them of nodes that nobody let in; the links' own gate counts what they
# cost further on.
_OFFERS_LIMIT = 64


class Rendezvous:
    """This node at its hub.

    Parameters
    ----------
    network : Network
        With a hub.
    takes_offers : bool
        Whether others may call this session; one that only asks may not be called.
    changed : callable
        Told of each new `HubState`.
    """

    def __init__(
        self,
        network: Network,
        identity: Identity,
        name: str,
        session: str,
        links: Links,
        *,
        takes_offers: bool,
        changed: Callable[[HubState], None],
    ) -> None:
        self._links = links
        self._awaited: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._tasks = Tasks()
        self._first_word = asyncio.Event()

        def on_state(state: HubState) -> None:
            self._first_word.set()
            changed(state)

        self._hub = HubClient(
            network.hub,
            identity,
            name,
            session,
            on_signal=self._take,
            on_refused=self._refused,
            on_state=on_state,
            takes_offers=takes_offers,
            trust=network.trust,
            awaits=lambda node_id: node_id in self._awaited or links.knows(node_id),
        )

    @property
    def state(self) -> HubState:
        """Whether this node can be found and called."""
        return self._hub.state

    def start(self) -> None:
        """Go online, and come back after each break."""
        self._hub.start()

    async def advertise(self, advert: Advert | None) -> None:
        """Let this be found."""
        await self._hub.advertise(advert)

    async def search(self, *, model: str = "", name: str = "", group: str = "") -> tuple[FoundNode, ...]:
        """As `HubClient.search`."""
        return await self._hub.search(model=model, name=name, group=group)

    async def dial(self, node_id: str, timeout_s: float) -> Peer:
        """Call a node, and link to it by WebRTC.

        Raises
        ------
        ConnectError
            The hub or the node is not online, or no way through the network was found.
        HandshakeError
            Somebody else answered, or the peer turned us away.
        """
        if node_id in self._awaited:
            raise ConnectError("It is being called already.")
        with suppress(TimeoutError):  # a node that has just started is not offline, it is on its way
            async with asyncio.timeout(timeout_s):
                await self._first_word.wait()
        return await self._links.dial_webrtc(node_id, lambda offer: self._call(node_id, offer), timeout_s)

    async def _call(self, node_id: str, offer: dict[str, Any]) -> dict[str, Any]:
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._awaited[node_id] = answer
        try:
            await self._hub.signal(node_id, offer)
            return await answer
        finally:
            del self._awaited[node_id]

    def _take(self, signal: Signal) -> None:
        if signal.payload.get("type") == "offer":
            if len(self._tasks) < (_OFFERS_LIMIT if self._links.knows(signal.sender_node_id) else _OFFERS_LIMIT // 2):
                self._tasks.spawn(self._answer(signal))
        elif (awaited := self._awaited.get(signal.sender_node_id)) is not None and not awaited.done():
            awaited.set_result(signal.payload)

    async def _answer(self, signal: Signal) -> None:
        async def reply(answer: dict[str, Any]) -> None:
            await self._hub.signal(signal.sender_node_id, answer, session=signal.sender_session)

        with suppress(DpcError):  # a stranger's offer: nobody has to be told
            await self._links.take_offer(signal.sender_node_id, signal.payload, reply)

    def _refused(self, node_id: str, sentence: str) -> None:
        if (awaited := self._awaited.get(node_id)) is not None and not awaited.done():
            awaited.set_exception(ConnectError(sentence))

    async def close(self) -> None:
        """Go offline."""
        await self._tasks.stop()
        await self._hub.close()
