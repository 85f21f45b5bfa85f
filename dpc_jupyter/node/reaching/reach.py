"""The ways to a peer: the ladder of them, back to a host that was lost, and to a better way than the present one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from weakref import WeakValueDictionary, ref

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from dpc_jupyter.errors import (
    AnotherNode,
    ConnectError,
    DpcError,
    HandshakeError,
    NobodyListens,
    NotAnnounced,
    PeerNotConnected,
)
from dpc_jupyter.node.asking import Requester
from dpc_jupyter.node.links import Links, Peer, PeerUri
from dpc_jupyter.node.reaching.directory import Change, Directory
from dpc_jupyter.node.reaching.ladder import Attempt, Way, climb
from dpc_jupyter.node.reaching.presence import Presence
from dpc_jupyter.node.reaching.relays import Relays
from dpc_jupyter.node.tasks import Tasks
from dpc_jupyter.protocol.invitation import Invitation
from dpc_jupyter.protocol.messages import RESUME_WITHIN_S
from dpc_jupyter.sanitize import label

# A host keeps no longer what it says to an asker that is away.
COME_BACK_S = RESUME_WITHIN_S
# A link that ends sooner counts as brief: after so many of them in a row the next is made later and later.
_STEADY_S = 30.0
_BRIEF_FREE = 4
_BRIEF_WAIT_S = 30.0
# A network that is back is found within seconds; a host that is gone is not dialled ten times a second.
_REDIAL_FIRST_S, _REDIAL_LAST_S, _REDIAL_TIMEOUT_S = 0.1, 0.5, 3.0
# A look around in the local network takes longer than a dial, which is what finds most hosts again.
_LOOK_FIRST_S, _LOOK_EVERY_S = 3.0, 10.0
# Of a link that nobody waits for: its node is restarted within seconds, or off for the night.
RELINK_FIRST_S, RELINK_LAST_S = 1.0, 120.0
# A laptop comes home, or a port is opened: nobody waits for it, and most better ways are there at once or never.
BETTER_FIRST_S, BETTER_LAST_S = 5.0, 600.0

_log = logging.getLogger(__name__)


def _may_be_back(error: BaseException) -> bool:
    """Silence may be a network that is down; where the machine says that no node is there, its memory is gone."""
    return isinstance(error, ConnectError) and not isinstance(error, NobodyListens)


def _may_be_back_over_peer(error: BaseException) -> bool:
    """Of a link that a peer carried: while that one is away, too, there is no way, or none but an old address."""
    return isinstance(error, ConnectError | PeerNotConnected)


class Reach:
    """How one node reaches its peers.

    Parameters
    ----------
    remembered : callable
        Called with a change of what is known of a peer, to be written.
    tell : callable
        As `News.tell`.
    """

    def __init__(
        self,
        links: Links,
        relays: Relays,
        directory: Directory,
        requester: Requester,
        presence: Presence,
        remembered: Callable[[Change], None],
        tell: Callable[[str, str, str], None],
    ) -> None:
        self._links = links
        self._relays = relays
        self._directory = directory
        self._requester = requester
        self._presence = presence
        self._remembered = remembered
        self._tell = tell
        self._coming_back: dict[str, asyncio.Task[None]] = {}
        self._brief: dict[str, int] = {}
        self._kept: dict[str, asyncio.Task[None]] = {}
        self._stopping = False
        self._reaching: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._attempts: dict[str, tuple[Attempt, ...]] = {}
        self._tasks = Tasks()

    async def connect(
        self, where: str, name: str | None, timeout_s: float, *, noted: bool = True, nearby: bool = True
    ) -> Peer:
        """As `CoreService.connect`; a failure is `noted` as the reason why the peer is not linked."""
        if ":" in where:  # of any scheme: what is wrong with it is said
            uri = PeerUri.parse(where)
            return self._open(await self._reach(uri.node_id, [self._direct(uri, timeout_s)], name))
        node_id = self._directory.find(where, self._links.peers)
        ways = self._ways_to(node_id, timeout_s, nearby=nearby)
        if not ways:
            raise PeerNotConnected(f"No way to {label(where)} is known: use its dpc:// address once.")
        return self._open(await self._reach(node_id, ways, name, noted=noted))

    def _open(self, peer: Peer) -> Peer:
        """The link, or what took its place; it may have ended while the other ways were being given up."""
        links = [peer, *(each for each in self._links.peers if each.node_id == peer.node_id and each.dialled)]
        if (found := next((each for each in links if not each.closed), None)) is None:
            name = self._directory.name_of(peer.node_id)
            raise ConnectError(f"The link to {name} ended as soon as it was made.")
        return found

    async def connect_by(self, invitation: Invitation, name: str | None, timeout_s: float) -> Peer:
        """Link to the host of an invitation: by the addresses that it names, and as to every other."""
        uris = [PeerUri.parse(f"dpc://{each}?node_id={invitation.node_id}") for each in invitation.addresses]
        named = [self._direct(uri, timeout_s) for uri in uris]
        ways = {way.name: way for way in (*named, *self._ways_to(invitation.node_id, timeout_s))}
        return await self._reach(invitation.node_id, list(ways.values()), name)

    def attempts(self, node_id: str) -> tuple[Attempt, ...]:
        """As `CoreService.attempts`."""
        return self._attempts.get(node_id, ())

    async def _reach(self, node_id: str, ways: Sequence[Way], name: str | None, *, noted: bool = True) -> Peer:
        # Two that connect at once share one link: a second one would replace the first.
        async with self._lock(node_id):
            peer = next((peer for peer in self._links.peers if peer.node_id == node_id and peer.dialled), None)
            if peer is None:
                try:
                    peer, self._attempts[node_id] = await climb(ways)
                except DpcError as error:
                    if noted:
                        self._directory.note_lost(node_id, str(error))
                    raise
        self._remember(peer, name)
        return peer

    def _remember(self, peer: Peer, name: str | None = None) -> None:
        # The disk is not waited for: a peer is of use before its address is safe.
        way = next((attempt.way for attempt in self.attempts(peer.node_id) if attempt.won), "")
        if (change := self._directory.remember(peer.node_id, peer.uri, peer.name, name, way)) is not None:
            self._remembered(change)

    def _lock(self, node_id: str) -> asyncio.Lock:
        return self._reaching.setdefault(node_id, asyncio.Lock())

    # The ways, best first.

    def _ways_to(self, node_id: str, timeout_s: float, *, nearby: bool = True) -> list[Way]:
        ways = [self._direct(uri, timeout_s) for uri in self._directory.uris_of(node_id)]
        if nearby and self._presence.looks_around:
            ways.append(Way("TLS in the local network", partial(self._dial_nearby, node_id, timeout_s)))
        return [*ways, *self._over_hub(node_id, timeout_s), *self._over_peers(node_id, timeout_s)]

    def _direct(self, uri: PeerUri, timeout_s: float) -> Way:
        return Way(f"TLS at {uri.host}:{uri.port}", partial(self._links.connect, uri, timeout_s))

    async def _dial_nearby(self, node_id: str, timeout_s: float) -> Peer:
        from dpc_jupyter.transports.lan import find  # zeroconf: only who looks for somebody pays for it

        found = await find(node_id)
        if not found:
            raise NotAnnounced("It is not in the local network: use its dpc:// address once.")
        try:
            peer, _ = await climb([self._direct(PeerUri(host, port, node_id), timeout_s) for host, port in found])
        except (NobodyListens, HandshakeError) as error:  # anybody announces: that says nothing of other ways
            raise NotAnnounced(str(error)) from error
        # And whoever announces may pass everything on: in this network, not for ever between two that know each other.
        peer.uri = None
        return peer

    def _over_hub(self, node_id: str, timeout_s: float) -> list[Way]:
        hub = self._presence.hub
        return [] if hub is None else [Way("WebRTC", partial(hub.dial, node_id, timeout_s), 1)]

    def _over_peers(self, node_id: str, timeout_s: float) -> list[Way]:
        return [
            Way(
                f"over {self._directory.name_of(via)}",
                partial(self._dial_over, via, node_id, timeout_s),
                2 + len(via.hops),
            )
            for via in self._links.peers
            if any(each.node_id == node_id for each in via.relays)
        ]

    async def _dial_over(self, via: Peer, node_id: str, timeout_s: float) -> Peer:
        sock = await self._relays.dial(via, node_id, timeout_s)
        return await self._links.dial_over(sock, node_id, via, timeout_s)

    # What becomes of a link.

    def peer_opened(self, peer: Peer) -> None:
        """From the node: somebody is linked, and perhaps not by the best way."""
        if peer.outgoing and peer.rank and peer.resumes:
            self._tasks.spawn(self._find_better(ref(peer)))

    def peer_silent(self, peer: Peer) -> None:
        """From the node: before it counts as gone, a request that is open tries another link."""
        if self._requester.asks(peer):
            self._tasks.spawn(self._go_around(peer))

    def peer_closed(self, peer: Peer, name: str, reason: str) -> None:
        """From the node: requests that can go on over another link wait for it; whom we dialled is dialled again."""
        if self._stopping or peer.node_id in self._coming_back:
            return
        if peer.dialled:
            brief = time.monotonic() - peer.opened_at < _STEADY_S
            self._brief[peer.node_id] = self._brief.get(peer.node_id, 0) + 1 if brief else 0
        wanted = peer.dialled and (peer.lost or peer.shut_down)
        if self._requester.waiting_for(peer.node_id):
            may_be_back = _may_be_back_over_peer if peer.hops else _may_be_back
            coming_back = self._come_back(peer.node_id, name, reason, may_be_back, wanted)
            self._coming_back[peer.node_id] = self._tasks.spawn(coming_back)
        elif wanted:
            self._keep(peer.node_id)

    def keep(self, where: str) -> None:
        """Link to a peer by its address or name, and again whenever the link breaks, until `forget`.

        Raises
        ------
        UriError, PeerNotConnected
            The address is malformed, or nobody of that name is known.
        """
        if ":" in where:
            uri = PeerUri.parse(where)
            self._directory.remember(uri.node_id, uri, "", None)
            self._keep(uri.node_id)
        else:
            self._keep(self._directory.find(where, self._links.peers))

    def forget(self, node_id: str) -> bool:
        """Its user does not want the link any more: what waits for it fails. Returns whether it was looked for."""
        tasks = (self._kept.pop(node_id, None), self._coming_back.pop(node_id, None))
        ended = [task.cancel() for task in tasks if task is not None]
        self._requester.give_up(node_id, self._directory.name_of(node_id), "disconnected by its user")
        return any(ended)

    def _keep(self, node_id: str) -> None:
        keeping = self._kept.get(node_id)
        if not self._stopping and (keeping is None or keeping.done()):
            self._kept[node_id] = self._tasks.spawn(self._link_again(node_id))

    async def _link_again(self, node_id: str) -> None:
        name = self._directory.name_of(node_id)

        def failed(state: RetryCallState) -> None:
            if state.attempt_number == 1 and state.outcome is not None:
                self._tell("peer_away", node_id, f"{name} is not reached, and looked for: {state.outcome.exception()}")

        await asyncio.sleep(self._pause_s(node_id))
        try:
            async for attempt in AsyncRetrying(
                wait=wait_random_exponential(RELINK_FIRST_S, RELINK_LAST_S, min=RELINK_FIRST_S),
                retry=retry_if_exception_type((ConnectError, PeerNotConnected, AnotherNode)),
                before_sleep=failed,
            ):
                with attempt:  # why the link ended tells more than that nobody is there since
                    await self.connect(node_id, None, _REDIAL_TIMEOUT_S, noted=False)
        except DpcError as error:  # it turned us away: that is its last word
            self._tell("peer_away", node_id, f"{name} is not linked to again: {error}")

    def _pause_s(self, node_id: str) -> float:
        """Before a peer is dialled whose links break as soon as they are made: it must not make us spin."""
        often = self._brief.get(node_id, 0) - _BRIEF_FREE
        return min(0.1 * 2.0 ** min(often, 10), _BRIEF_WAIT_S) if often > 0 else 0.0

    async def _find_better(self, link: ref[Peer]) -> None:
        """Move a link to a better way, some time after there is one; what is open goes on over it."""
        await asyncio.sleep(BETTER_FIRST_S)
        wait = wait_random_exponential(BETTER_FIRST_S, BETTER_LAST_S, min=BETTER_FIRST_S)
        async for attempt in AsyncRetrying(wait=wait, retry=retry_if_exception_type(DpcError)):
            with attempt:
                await self._improve(link())

    async def _improve(self, peer: Peer | None) -> None:
        if peer is not None and not peer.closed:
            ways = self._ways_to(peer.node_id, _REDIAL_TIMEOUT_S)
            await self._move(peer, [way for way in ways if way.rank < peer.rank])

    async def _go_around(self, silent: Peer) -> None:
        while silent.silent and not silent.closed and self._requester.asks(silent):
            with suppress(DpcError):
                await self._move(silent, self._ways_to(silent.node_id, _REDIAL_TIMEOUT_S))
                return
            await asyncio.sleep(_REDIAL_LAST_S)

    async def _move(self, peer: Peer, ways: Sequence[Way]) -> None:
        """Link to the same process anew: the links then put the one into the other's place."""
        async with self._lock(peer.node_id):
            newer, tried = await climb(ways)
        if newer.session == peer.session:
            self._attempts[peer.node_id] = tried
            self._remember(newer)

    async def _come_back(
        self, node_id: str, name: str, reason: str, may_be_back: Callable[[BaseException], bool], wanted: bool
    ) -> None:
        """Get the link to a host back that requests wait for, or fail them once."""
        look_at = time.monotonic() + _LOOK_FIRST_S
        try:
            await asyncio.sleep(self._pause_s(node_id))
            async for attempt in AsyncRetrying(
                wait=wait_random_exponential(_REDIAL_FIRST_S, _REDIAL_LAST_S),
                stop=stop_after_delay(COME_BACK_S),
                retry=retry_if_exception(may_be_back),
                reraise=True,
            ):
                with attempt:
                    for back in self._links.peers:
                        if back.node_id == node_id:
                            self._requester.resume(back)
                    if nearby := time.monotonic() > look_at:
                        look_at = time.monotonic() + _LOOK_EVERY_S
                    if self._requester.waiting_for(node_id):
                        await self._try_to_come_back(node_id, name, nearby)
        except Exception as error:  # whatever it was: nobody waits for what is looked for no more
            if not isinstance(error, DpcError):
                _log.exception("looking for %s failed", node_id)
            cause = "its node has ended" if isinstance(error, NobodyListens) else reason
            self._requester.give_up(node_id, name, cause)
        finally:
            # Also where all of them were stopped meanwhile, but not where its user has disconnected it.
            if self._coming_back.pop(node_id, None) is not None and wanted:
                self._keep(node_id)

    async def _try_to_come_back(self, node_id: str, name: str, nearby: bool) -> None:
        try:
            peer = await self.connect(node_id, None, _REDIAL_TIMEOUT_S, nearby=nearby)
            self._requester.resume(peer)  # it may be a link of theirs that ours gave way to
        except (ConnectError, PeerNotConnected) as error:
            self._requester.tell_waiting(node_id, f"{name} is away, trying again: {error}")
            raise

    async def stop(self) -> None:
        """Look for nobody any more."""
        self._stopping = True
        await self._tasks.stop()
