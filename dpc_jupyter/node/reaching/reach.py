"""Reach peers: do for each of them what its machine (`wanted`) decides."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from dpc_jupyter.errors import AnotherNode, ConnectError, DpcError, NobodyListens, PeerNotConnected
from dpc_jupyter.node.links import Links, Peer, PeerUri
from dpc_jupyter.node.reaching.directory import Change, Directory
from dpc_jupyter.node.reaching.ladder import Attempt, Way, climb
from dpc_jupyter.node.reaching.wanted import (
    DIALS,
    LINKED,
    PAUSES,
    Action,
    Closed,
    Connect,
    Dial,
    Disconnect,
    Event,
    Fail,
    Failed,
    Failure,
    Keep,
    Lost,
    Now,
    Opened,
    Pause,
    Silent,
    State,
    Tell,
    TellWaiting,
    Timer,
    Wanted,
    step,
)
from dpc_jupyter.node.reaching.ways import Ways
from dpc_jupyter.protocol.invitation import Invitation
from dpc_jupyter.sanitize import is_word, label

# Of a dial that no user waits for: the next one may find what has changed since.
REDIAL_TIMEOUT_S = 3.0

_log = logging.getLogger(__name__)


class Waiting(Protocol):
    """The requests of this node, as far as reaching needs to know them."""

    def waiting_for(self, node_id: str, /) -> bool:
        """Return whether a request waits for its host to come back."""

    def asks(self, peer: Peer, /) -> bool:
        """Return whether a request is open over this link that could go on over another."""

    def resume(self, peer: Peer, /) -> None:
        """Go on over this link with what waits for its node."""

    def tell_waiting(self, node_id: str, note: str, /) -> None:
        """Show a note to those who wait."""

    def give_up(self, node_id: str, host_name: str, reason: str, /) -> None:
        """Fail what waits."""


class Reach:
    """How one node reaches its peers.

    Parameters
    ----------
    waiting : Waiting
        The requests that may wait for a peer.
    remembered : callable
        Called with a change of what is known of a peer, to be written.
    tell : callable
        As `News.tell`.
    """

    def __init__(
        self,
        links: Links,
        ways: Ways,
        directory: Directory,
        waiting: Waiting,
        remembered: Callable[[Change], None],
        tell: Callable[[str, str, str], None],
    ) -> None:
        self._links = links
        self._ways = ways
        self._directory = directory
        self._waiting = waiting
        self._remembered = remembered
        self._tell = tell
        self._wanted: dict[str, Wanted] = {}
        self._dials: dict[str, asyncio.Task[Peer]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._users_ways: dict[str, Sequence[Way]] = {}
        self._attempts: dict[str, tuple[Attempt, ...]] = {}
        self._forgotten = Counter[str]()
        self._stopping = False

    def attempts(self, node_id: str) -> tuple[Attempt, ...]:
        """As `CoreService.attempts`."""
        return self._attempts.get(node_id, ())

    # What users want.

    async def connect(self, where: str, name: str | None, timeout_s: float) -> Peer:
        """As `CoreService.connect`; returns the link."""
        if ":" in where:  # any scheme: `parse` says what is wrong with it
            uri = PeerUri.parse(where)
            return await self._connect(uri.node_id, [self._ways.direct(uri, timeout_s)], name)
        node_id = self._directory.find(where, self._links.peers)
        ways = self._ways.to(node_id, timeout_s)
        if not ways:
            raise PeerNotConnected(_no_way(label(where)))
        return await self._connect(node_id, ways, name)

    async def connect_by(self, invitation: Invitation, name: str | None, timeout_s: float) -> Peer:
        """Link to the host of an invitation, by the addresses that it names and by every other way."""
        uris = [PeerUri.parse(f"dpc://{each}?node_id={invitation.node_id}") for each in invitation.addresses]
        named = [self._ways.direct(uri, timeout_s) for uri in uris]
        ways = {way.name: way for way in (*named, *self._ways.to(invitation.node_id, timeout_s))}
        return await self._connect(invitation.node_id, list(ways.values()), name)

    async def link_to(self, who: str, timeout_s: float) -> Peer:
        """As `CoreService.link_to`; returns the link."""
        if ":" not in who:
            peer = self._links.of(self._directory.find(who, self._links.peers))
            if peer is not None:
                return peer
        return await self.connect(who, None, timeout_s)

    def linked(self, who: str) -> Peer:
        """Return the open link to a peer, by its name or node id.

        Raises
        ------
        PeerNotConnected
            There is none, or nobody of that name is known.
        """
        node_id = self._directory.find(who, self._links.peers)
        if (peer := self._links.of(node_id)) is not None:
            return peer
        name = self._directory.name_of(node_id)
        word = name if is_word(name) else node_id
        raise PeerNotConnected(f"Peer {name} is not connected. Try %dpc_connect {word}, or pick another host.")

    def disconnect(self, who: str) -> None:
        """As `CoreService.disconnect`."""
        node_id = self._directory.find(who, self._links.peers)
        dialled = self._forget(node_id)
        links = [peer for peer in self._links.peers if peer.node_id == node_id]
        if not links and not dialled:
            raise PeerNotConnected(f"Peer {label(who)} is not connected.")
        for peer in links:
            peer.close("disconnected by its user")
        self._directory.note_lost(node_id, "")  # it is no failure: there is no reason to show

    def keep(self, where: str) -> None:
        """Link to a peer by its address or name, and again whenever the link breaks, until `disconnect`.

        Raises
        ------
        UriError, PeerNotConnected
            The address is malformed, or nobody of that name is known.
        """
        if ":" in where:
            uri = PeerUri.parse(where)
            self._directory.remember(uri.node_id, uri, "", None)
            node_id = uri.node_id
        else:
            node_id = self._directory.find(where, self._links.peers)
        self._step(node_id, Keep())

    def _forget(self, node_id: str) -> bool:
        """End what is done to reach a peer, and fail what waits for it. Return whether anything was."""
        wanted = self._wanted.get(node_id, Wanted())
        self._forgotten[node_id] += 1
        self._step(node_id, Disconnect())
        return wanted.state not in LINKED | {State.UNWANTED}

    async def _connect(self, node_id: str, ways: Sequence[Way], name: str | None) -> Peer:
        # Two that connect at once share one dial: a second link would replace the first.
        forgotten = self._forgotten[node_id]
        while (peer := self._link_to(node_id)) is None:
            others = self._dials.get(node_id)
            if others is None:
                self._users_ways[node_id] = ways
                self._step(node_id, Connect())
            dial = others or self._dials.get(node_id)
            if dial is None:
                raise ConnectError("The node is shutting down.")
            try:
                await asyncio.wait([dial])
            except asyncio.CancelledError:
                if others is None:
                    dial.cancel()
                raise
            if self._forgotten[node_id] != forgotten or (dial.cancelled() and others is None):
                raise ConnectError(f"{self._directory.name_of(node_id)} was disconnected meanwhile.")
            if others is None and self._link_to(node_id) is None:
                raise ConnectError(_ended_at_once(self._directory.name_of(dial.result())))
        self._remember(peer, name)
        return peer

    def _link_to(self, node_id: str) -> Peer | None:
        return next((peer for peer in self._links.peers if peer.node_id == node_id and peer.dialled), None)

    def _open(self, peer: Peer) -> Peer | None:
        """Return the link, or what took its place; it may have ended while other dials were being stopped."""
        return self._link_to(peer.node_id) if peer.closed else peer

    def _remember(self, peer: Peer, name: str | None = None) -> None:
        # The disk is not waited for: a peer is of use before its address is safe.
        way = next((attempt.way for attempt in self.attempts(peer.node_id) if attempt.won), "")
        if (change := self._directory.remember(peer.node_id, peer.uri, peer.name, name, way)) is not None:
            self._remembered(change)

    # What becomes of a link.

    def peer_silent(self, peer: Peer) -> None:
        """Dial another link beside a silent one, before it counts as lost, if a request is open on it."""
        if self._is_silent(peer):
            self._step(peer.node_id, Silent())

    def peer_closed(self, peer: Peer, reason: str) -> None:
        """Take note of a link that has ended: what waits may go on by another one, or a new one is dialled."""
        for other in self._links.peers:
            if other.node_id == peer.node_id:
                self._waiting.resume(other)
        if self._link_to(peer.node_id) is not None:
            return
        if peer.dialled or self._waiting.waiting_for(peer.node_id):
            if peer.lost or peer.shut_down:
                lasted_s = time.monotonic() - peer.opened_at
                lost = Lost(reason, peer.dialled, bool(peer.hops), peer.brought, lasted_s)
                self._step(peer.node_id, lost)
            else:
                self._step(peer.node_id, Closed())

    def _is_silent(self, peer: Peer) -> bool:
        return peer.silent and not peer.closed and self._waiting.asks(peer)

    # The machine of each peer.

    def _step(self, node_id: str, event: Event) -> None:
        if self._stopping:
            return
        before = self._wanted.get(node_id, Wanted())
        silent = any(self._is_silent(peer) for peer in self._links.peers if peer.node_id == node_id)
        waits = self._waiting.waiting_for(node_id)
        chance = random.random()  # noqa: S311  spreads dials in time, and guards nothing
        wanted, actions = step(before, event, Now(time.monotonic(), chance, waits, silent))
        self._wanted[node_id] = wanted
        if wanted == Wanted():
            del self._wanted[node_id]
        if wanted.state not in PAUSES or any(isinstance(action, Pause) for action in actions):
            self._stop_timer(node_id)
        if wanted.state not in DIALS and (dial := self._dials.pop(node_id, None)) is not None:
            dial.cancel()
        for action in actions:
            self._do(node_id, action)

    def _do(self, node_id: str, action: Action) -> None:
        name = self._directory.name_of(node_id)
        match action:
            case Dial():
                self._dial(node_id, action)
            case Pause():
                loop = asyncio.get_running_loop()
                self._timers[node_id] = loop.call_later(action.seconds, self._step, node_id, Timer())
            case Fail():
                self._waiting.give_up(node_id, name, action.reason)
            case TellWaiting():
                self._waiting.tell_waiting(node_id, f"{name} is unreachable, trying again: {action.sentence}")
            case Tell(final=True):
                self._tell("peer_away", node_id, f"{name} is not dialled again: {action.sentence}")
            case Tell():
                self._tell("peer_away", node_id, f"{name} is unreachable, trying again: {action.sentence}")

    def _dial(self, node_id: str, action: Dial) -> None:
        before = self._dials.pop(node_id, None)
        if before is not None:
            before.cancel()
        dial = asyncio.get_running_loop().create_task(self._climb(node_id, action, before))
        self._dials[node_id] = dial
        dial.add_done_callback(lambda dial: self._dialled(node_id, action, dial))

    async def _climb(self, node_id: str, action: Dial, before: asyncio.Task[Peer] | None) -> Peer:
        if before is not None:
            await asyncio.wait([before])
        ways = self._ways_for(node_id, action)
        if not ways:
            raise PeerNotConnected(
                f"No way to {self._directory.name_of(node_id)} is known: use its dpc:// address once."
            )
        peer, self._attempts[node_id] = await climb(ways)
        return peer

    def _ways_for(self, node_id: str, action: Dial) -> Sequence[Way]:
        if action.why is State.ASKED:
            return self._users_ways.pop(node_id)
        ways = self._ways.to(node_id, REDIAL_TIMEOUT_S, nearby=action.nearby)
        if action.why is State.IMPROVING and (link := self._link_to(node_id)) is not None:
            return [way for way in ways if way.rank < link.rank]
        return ways

    def _dialled(self, node_id: str, action: Dial, dial: asyncio.Task[Peer]) -> None:
        error = None if dial.cancelled() else dial.exception()
        if self._dials.get(node_id) is not dial:
            return  # the machine has ended it
        del self._dials[node_id]
        if dial.cancelled():
            self._step(node_id, Failed(Failure.SILENCE, "The dial was stopped."))
        elif error is not None:
            if not isinstance(error, DpcError):
                _log.error("dialling %s failed", node_id, exc_info=error)
            elif action.why in (State.ASKED, State.RESUMING):  # else the reason of the loss tells more
                self._directory.note_lost(node_id, str(error))
            self._step(node_id, Failed(_failure(error), str(error)))
        elif (peer := self._open(dial.result())) is None:
            self._step(node_id, Failed(Failure.SILENCE, _ended_at_once(self._directory.name_of(node_id))))
        else:
            self._remember(peer)
            self._waiting.resume(peer)  # it may be a link of theirs that ours gave way to
            self._step(node_id, Opened(worse=peer.outgoing and peer.rank > 0 and peer.resumes))

    def _stop_timer(self, node_id: str) -> None:
        if (timer := self._timers.pop(node_id, None)) is not None:
            timer.cancel()

    async def stop(self) -> None:
        """End every dial, and begin none."""
        self._stopping = True
        for node_id in list(self._timers):
            self._stop_timer(node_id)
        dials = list(self._dials.values())
        for dial in dials:
            dial.cancel()
        await asyncio.gather(*dials, return_exceptions=True)
        self._wanted.clear()


def _failure(error: BaseException) -> Failure:
    if isinstance(error, NobodyListens):
        return Failure.NOBODY
    if isinstance(error, PeerNotConnected):
        return Failure.NO_WAY
    if isinstance(error, ConnectError):
        return Failure.SILENCE
    return Failure.ANOTHER if isinstance(error, AnotherNode) else Failure.REFUSED


def _ended_at_once(name: str) -> str:
    return f"The link to {name} ended as soon as it was made."


def _no_way(name: str) -> str:
    return f"No way to {name} is known: use its dpc:// address once."
