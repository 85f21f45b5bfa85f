"""Reaching a peer through another one: as an end of the stream, and as the one in the middle who carries ciphertext.

A link over a relay is a link like any other: the TLS handshake of its two ends runs inside the stream. Over such a link
its far end may relay further, each hop a stream inside a stream, so every relay knows and allows its own neighbour.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import secrets
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from dpc_jupyter.errors import ConnectError
from dpc_jupyter.firewall import Rules
from dpc_jupyter.node.links import Peer
from dpc_jupyter.node.tasks import Tasks
from dpc_jupyter.protocol.messages import (
    Message,
    RelayClose,
    RelayCredit,
    RelayData,
    RelayOpen,
    RelayOpened,
    RelayPeer,
    RelayPeers,
)
from dpc_jupyter.sanitize import label
from dpc_jupyter.transports.relay import WINDOW_BYTES, Tunnel, open_tunnel

# A stream through three nodes is encrypted four times; nobody needs more, and loops end.
HOPS_LIMIT = 3
# Streams over one link in all, whoever opened them: each may hold WINDOW_BYTES twice.
STREAMS_LIMIT = 16
_NO = "It does not relay you there."

RELAY_MESSAGES = (RelayPeers, RelayOpen, RelayOpened, RelayData, RelayCredit, RelayClose)


class _End:
    """Our end of one stream over a link: what its `Tunnel` sends by."""

    def __init__(self, peer: Peer, relay_id: str) -> None:
        self.tunnel: Tunnel | None = None
        self.peer = peer
        self.relay_id = relay_id
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.over = ""

    def send_data(self, data: bytes) -> None:
        self.peer.send(RelayData(self.relay_id, base64.b64encode(data).decode()))

    def send_credit(self, count_bytes: int) -> None:
        self.peer.send(RelayCredit(self.relay_id, count_bytes))

    def send_close(self, reason: str) -> None:
        self.peer.send(RelayClose(self.relay_id, reason[:256]))

    def is_over(self, reason: str) -> None:
        """The other side ended it."""
        self.over = reason
        if self.tunnel is not None:
            self.tunnel.close(reason, tell=False)
        if not self.opened.done():
            self.opened.set_exception(ConnectError(reason))


@dataclass(eq=False, slots=True)
class _Way:
    """One side of a stream that we carry: whose it is, and what may still come from this side."""

    peer: Peer
    relay_id: str
    opener: str
    target: str
    other: _Way | None = None
    may_come: int = WINDOW_BYTES


class Relays:
    """All streams over links of one node, as an end and in the middle.

    Parameters
    ----------
    own_id : str
    rules : callable
        The rules in force now.
    links : callable
        Every open link, oldest first.
    name_of : callable
        What a node is called here.
    accept : callable
        Run TLS, as the one who is dialled, over this socket that came by this peer.
    """

    def __init__(
        self,
        own_id: str,
        rules: Callable[[], Rules],
        links: Callable[[], list[Peer]],
        name_of: Callable[[Peer], str],
        accept: Callable[[socket.socket, Peer], None],
    ) -> None:
        self._own_id = own_id
        self._rules = rules
        self._links = links
        self._name_of = name_of
        self._accept = accept
        self._ends: dict[tuple[Peer, str], _End] = {}
        self._ways: dict[tuple[Peer, str], _Way] = {}
        self._bytes_of = Counter[str]()
        self._day = dt.date.min
        self._names: dict[str, str] = {}
        self._told: dict[Peer, dict[str, str]] = {}  # from which names
        self._tasks = Tasks()

    # As an end.

    async def dial(self, via: Peer, target: str, timeout_s: float) -> socket.socket:
        """Ask a peer for a stream to `target`; returns the socket that TLS is to run over.

        Raises
        ------
        ConnectError
            The peer does not relay us there, or nobody answered.
        """
        name = self._name_of(via)
        if target in (self._own_id, via.node_id, *via.hops) or len(via.hops) >= HOPS_LIMIT:
            raise ConnectError(f"{target} is not to be reached over {name}: {HOPS_LIMIT} hops at most, and no loop.")
        end = _End(via, secrets.token_hex(16))
        tunnel, sock = await self._tunnel(end)
        via.send(RelayOpen(end.relay_id, target))
        try:
            async with asyncio.timeout(timeout_s):
                await end.opened
        except BaseException as error:
            tunnel.close("not wanted any more")
            sock.close()
            if isinstance(error, TimeoutError):
                raise ConnectError(f"Nothing came back over {name} within {timeout_s:g} s.") from error
            if isinstance(error, ConnectError):
                raise ConnectError(f"Not over {name}: {label(str(error), 300)}") from None
            raise
        return sock

    async def _tunnel(self, end: _End) -> tuple[Tunnel, socket.socket]:
        key = (end.peer, end.relay_id)

        def forget() -> None:
            self._ends.pop(key, None)

        self._ends[key] = end
        try:
            end.tunnel, sock = await open_tunnel(end, forget)
        except BaseException:
            forget()
            raise
        return end.tunnel, sock

    async def _be_dialled(self, end: _End) -> None:
        tunnel, sock = await self._tunnel(end)
        if end.over:  # while it was made
            tunnel.close(end.over, tell=False)
            sock.close()
            return
        end.peer.send(RelayOpened(end.relay_id))
        self._accept(sock, end.peer)

    # What peers say.

    def take(self, peer: Peer, message: Message) -> None:
        """One of `RELAY_MESSAGES` came. What names no stream of this link is late, and ignored."""
        if isinstance(message, RelayPeers):
            if not peer.stranger:
                peer.relays = tuple(RelayPeer(each.node_id, label(each.name)) for each in message.nodes)
            return
        assert isinstance(message, RelayOpen | RelayOpened | RelayData | RelayCredit | RelayClose)
        key = (peer, message.relay_id)
        if isinstance(message, RelayOpen):
            if key not in self._ends and key not in self._ways:
                self._open(peer, message)
        elif (end := self._ends.get(key)) is not None:
            self._at_end(end, message)
        elif (way := self._ways.get(key)) is not None:
            self._pass_on(way, message)

    def _at_end(self, end: _End, message: RelayOpened | RelayData | RelayCredit | RelayClose) -> None:
        if isinstance(message, RelayClose):
            end.is_over(message.reason or "it was closed")
        elif end.tunnel is None:
            return  # nothing was opened yet: whoever speaks now is early
        elif isinstance(message, RelayOpened):
            if not end.opened.done():
                end.opened.set_result(None)
        elif isinstance(message, RelayCredit):
            end.tunnel.credit(message.count_bytes)
        else:
            try:
                taken = end.tunnel.feed(base64.b64decode(message.data, validate=True))
            except ValueError:  # half of it binascii.Error, which is one
                taken = False
            if not taken:
                end.tunnel.close("more came than may, or something else")

    # In the middle.

    def _open(self, peer: Peer, message: RelayOpen) -> None:
        if message.target == self._own_id:
            if peer.stranger or self._count(peer) >= STREAMS_LIMIT:
                peer.send(RelayClose(message.relay_id, _NO))
            else:
                end = self._ends[peer, message.relay_id] = _End(peer, message.relay_id)  # counted from now on
                end.opened.set_result(None)
                self._tasks.spawn(self._be_dialled(end))
            return
        onward = self._onward(peer, message.target)
        if onward is None:
            peer.send(RelayClose(message.relay_id, _NO))
            return
        way = _Way(peer, message.relay_id, peer.node_id, message.target)
        other = _Way(onward, secrets.token_hex(16), peer.node_id, message.target, way)
        way.other = other
        self._ways[peer, way.relay_id], self._ways[onward, other.relay_id] = way, other
        onward.send(RelayOpen(other.relay_id, message.target))

    def _onward(self, peer: Peer, target: str) -> Peer | None:
        """The link to `target`, if this peer may use it for one more stream."""
        mine = sum(way.opener == peer.node_id for way in self._ways.values()) // 2
        if not self._may(peer.node_id, target) or mine >= self._rules().relay.sessions:
            return None
        if self._used_today(peer.node_id) >= self._rules().relay.bytes_per_day or self._count(peer) >= STREAMS_LIMIT:
            return None
        for link in reversed(self._links()):
            if link.node_id == target and link.extended and not link.hops and self._count(link) < STREAMS_LIMIT:
                return link
        return None

    def _may(self, opener: str, target: str) -> bool:
        rules, now = self._rules(), dt.datetime.now(dt.UTC)
        return opener != target and rules.may_relay(opener, now) and rules.may_relay(target, now)

    def _pass_on(self, way: _Way, message: RelayOpened | RelayData | RelayCredit | RelayClose) -> None:
        other = way.other
        assert other is not None
        if isinstance(message, RelayData):
            if not message.data.isascii():
                self._end_way(way, "something else than ciphertext came")
                return
            size = len(message.data) * 3 // 4 - message.data[-2:].count("=")
            way.may_come -= size
            self._bytes_of[way.opener] += size
            if way.may_come < 0:
                self._end_way(way, "more came than may")
            elif self._used_today(way.opener) > self._rules().relay.bytes_per_day:
                self._end_way(way, "the relay's limit for a day is reached")
            else:
                other.peer.send(RelayData(other.relay_id, message.data))
        elif isinstance(message, RelayCredit):
            other.may_come = min(other.may_come + message.count_bytes, WINDOW_BYTES)
            other.peer.send(RelayCredit(other.relay_id, message.count_bytes))
        elif isinstance(message, RelayOpened):
            if way.peer.node_id == way.target:
                other.peer.send(RelayOpened(other.relay_id))
        else:
            self._forget(way)
            other.peer.send(RelayClose(other.relay_id, message.reason))

    def _used_today(self, opener: str) -> int:
        today = dt.datetime.now(dt.UTC).date()
        if today != self._day:
            self._day = today
            self._bytes_of.clear()
        return self._bytes_of[opener]

    def _count(self, peer: Peer) -> int:
        return sum(held is peer for held, _ in [*self._ends, *self._ways])

    def _end_way(self, way: _Way, reason: str) -> None:
        self._forget(way)
        for side in (way, way.other):
            if side is not None:
                side.peer.send(RelayClose(side.relay_id, reason))

    def _forget(self, way: _Way) -> None:
        for side in (way, way.other):
            if side is not None:
                self._ways.pop((side.peer, side.relay_id), None)

    # What changes.

    def peer_closed(self, peer: Peer) -> None:
        """A link ended, and every stream over it."""
        self._told.pop(peer, None)
        for end in [end for (held, _), end in self._ends.items() if held is peer]:
            end.is_over(f"{self._name_of(peer)} is gone")
        for way in [way for (held, _), way in self._ways.items() if held is peer]:
            self._end_way(way, "the link to the other side ended")

    def reconsider(self) -> None:
        """Some time has passed: end what the rules no longer allow, and tell who has come and gone.

        Not when it happens: one that comes and goes without end would spend what this node may send to all the others.
        """
        for way in list(self._ways.values()):
            if (way.peer, way.relay_id) in self._ways and not self._may(way.opener, way.target):
                self._end_way(way, "the relay's owner does not allow it any more")
        self._tell()

    def _tell(self) -> None:
        """Tell each peer whom we would relay it to, if that has changed."""
        rules, now = self._rules(), dt.datetime.now(dt.UTC)
        links = [peer for peer in self._links() if peer.extended]
        allowed = {peer.node_id for peer in links if rules.may_relay(peer.node_id, now)}
        names = {peer.node_id: self._name_of(peer)[:128] for peer in links if not peer.hops and peer.node_id in allowed}
        if names != self._names:
            self._names = names
        for peer in links:
            told = self._names if peer.node_id in allowed else {}
            if told is not self._told.get(peer) and (told or self._told.get(peer)):
                self._told[peer] = told
                others = [RelayPeer(node_id, name) for node_id, name in told.items() if node_id != peer.node_id]
                peer.send(RelayPeers(tuple(others[:1024])))

    async def stop(self) -> None:
        """End everything."""
        await self._tasks.stop()
        for end in list(self._ends.values()):
            if end.tunnel is not None:
                end.tunnel.close("the node is shutting down")
        self._ends.clear()
        self._ways.clear()
        self._told.clear()
