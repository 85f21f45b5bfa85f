"""Who may use which models now: told to peers, pushed when it changes, and heard from them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable

import msgspec
from msgspec import UNSET

from dpc_jupyter.errors import DpcError
from dpc_jupyter.node.links import Peer
from dpc_jupyter.node.serving.host import Host
from dpc_jupyter.node.tasks import Tasks
from dpc_jupyter.protocol.messages import GetProviders, ProviderInfo, ProvidersResponse
from dpc_jupyter.sanitize import label

# What a PROVIDERS_RESPONSE may hold; Ollama's whole public library has about 200 names.
OFFERS_LIMIT = 512

_log = logging.getLogger(__name__)


class Offers:
    """The model lists that go over the links of one node, in both directions."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._told: dict[Peer, tuple[ProviderInfo, ...]] = {}
        self._telling: dict[Peer, bool] = {}
        self._awaited: dict[Peer, asyncio.Event] = {}
        self._tasks = Tasks()

    async def ask(self, peer: Peer, timeout_s: float) -> tuple[ProviderInfo, ...]:
        """Ask a peer; after `timeout_s` what it said last counts."""
        answered = self._awaited.setdefault(peer, asyncio.Event())
        peer.send(GetProviders())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await answered.wait()
        return peer.offers

    def refresh(self, peers: Iterable[Peer]) -> None:
        """Ask every peer that is a host for its models and its load."""
        for peer in peers:
            if peer.dialled or peer.offers:
                peer.send(GetProviders())

    def take(self, peer: Peer, said: ProvidersResponse) -> bool:
        """A peer says what we may use; returns whether that is news."""
        if peer.stranger:
            return False  # nobody here knows it: it must not stand among the hosts, under whatever name
        peer.load = None if said.load is UNSET else said.load
        cleaned = tuple(
            msgspec.structs.replace(o, alias=label(o.alias, 128), model=label(o.model, 256), type=label(o.type))
            for o in said.providers
        )
        changed, peer.offers = cleaned != peer.offers, cleaned
        self._answered(peer)
        return changed

    def answer(self, peer: Peer) -> None:
        """Tell a peer that asked what it may use; one answer for all that it asks before that goes out."""
        self._tell_soon(peer, asked=True)

    def push(self) -> None:
        """Tell every peer that asked once, if its list has changed."""
        for peer in list(self._told):
            self._tell_soon(peer, asked=False)

    def forget(self, peer: Peer) -> None:
        """Its link has ended."""
        self._told.pop(peer, None)
        self._answered(peer)

    async def stop(self) -> None:
        """End what is under way."""
        await self._tasks.stop()

    def _answered(self, peer: Peer) -> None:
        if (waiting := self._awaited.pop(peer, None)) is not None:
            waiting.set()

    def _tell_soon(self, peer: Peer, *, asked: bool) -> None:
        if peer in self._telling:
            self._telling[peer] |= asked
            return
        self._telling[peer] = asked
        self._tasks.spawn(self._tell(peer))

    async def _tell(self, peer: Peer) -> None:
        try:
            offers = await self._host.offers_for(peer.node_id)
        except DpcError as error:
            _log.warning("models cannot be listed: %s", error)
            offers = ()
        finally:
            asked = self._telling.pop(peer)
        if not peer.closed and (asked or offers != self._told.get(peer)):
            self._told[peer] = offers
            told = peer.extended and self._host.lets_in(peer.node_id)
            peer.send(ProvidersResponse(offers[:OFFERS_LIMIT], self._host.load() if told else UNSET))
