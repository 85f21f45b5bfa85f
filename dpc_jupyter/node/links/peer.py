"""One link to one peer: pumps bytes between a stream and a conversation, and keeps the link alive."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

from dpc_jupyter.errors import LocalProtocolError, RemoteProtocolError
from dpc_jupyter.node.links import liveness
from dpc_jupyter.node.links.address import PeerUri
from dpc_jupyter.node.links.liveness import Liveness, Verdict
from dpc_jupyter.protocol.connection import Authenticated, BadRequest, Connection, Event
from dpc_jupyter.protocol.messages import (
    SHUTTING_DOWN,
    Goodbye,
    Load,
    Message,
    Ping,
    Pong,
    ProviderInfo,
    ProvidersResponse,
    RelayPeer,
    RelayPeers,
    RemoteInferenceChunk,
    RemoteInferenceResponse,
    RemoteInferenceStatus,
    Unknown,
)
from dpc_jupyter.sanitize import label
from dpc_jupyter.transports.base import ByteStream

# What outboxes put into one turn of the loop, about: an asker that comes back for many long answers gets them in turns.
_TURN_BYTES = 256 * 1024
# Answers wait in their outboxes, not here: what piles up beyond this is replies that the peer asks for and never reads.
UNSENT_LIMIT_BYTES = 4 * 1024 * 1024
# So many bytes count as one frame more: parsing a hostile mebibyte takes as long as refusing 300 requests.
FRAME_BYTES = 8 * 1024
# What this node asked for is not counted, however much it is.
_ANSWERS = (RemoteInferenceChunk, RemoteInferenceStatus, RemoteInferenceResponse)

_REFUSED_LINGER_S = 0.3
# uvloop hands over up to 8 MiB of one socket in a turn of its loop: one peer's frames must not hold up the others'.
READ_TURN_S = 0.002


class Owner(Protocol):
    """The node, as far as a link needs it."""

    def peer_authenticated(self, peer: Peer, /) -> None:
        """The peer proved its id; a server must admit or refuse it now."""

    def spend(self, peer: Peer, frames: float, /) -> float:
        """Take frames out of its node's budget; returns the seconds to read no more of it."""

    def peer_said(self, peer: Peer, message: Message | BadRequest, /) -> None:
        """A message came over an open link."""

    def peer_silent(self, peer: Peer, /) -> None:
        """It is open, and says nothing."""

    def peer_closed(self, peer: Peer, reason: str, /) -> None:
        """The link ended. Called once, for every link."""

    def stream_gone(self, peer: Peer, /) -> None:
        """Its stream has drained and closed, some time after. Called once, for every link."""


class Outbox(Protocol):
    """Something with text to send when the link has room."""

    def emit(self) -> None:
        """Send what has collected, by `Peer.send`."""


class Peer:
    """One authenticated link, or one that is about to be.

    Attributes
    ----------
    node_id : str
        Proven; empty until then.
    name : str
        What the peer calls itself, sanitized; proves nothing.
    session : str
        Which of its running nodes this is; empty for a DPTP v1.5 peer.
    outgoing : bool
        We dialled this link.
    dialled : bool
        We dialled this node: by this link, or by one that this one took the place of.
    opened_at : float
        When its peer proved its id; monotonic seconds.
    offers : tuple of ProviderInfo
        The models that the peer last said we may use.
    relays : tuple of RelayPeer
        Those to whom the peer last said it would relay us.
    uri : PeerUri or None
        Where it was dialled directly.
    rtt_s : float or None
        Round trip in seconds, of the last PING.
    stranger : bool
        Nobody has let this node in: it may send little, and more ends the link.
    asked : bool
        We have sent it a request: its answers are wanted, late ones too.
    resumes : bool
        Both sides can go on with a request over another link.
    invites : bool
        It takes invitations.
    brought : bool
        The peer sent a part of an answer, a request, or a part of a relayed stream over this link.
    lost : bool
        The link broke: neither side ended it in order, and its peer may come back.
    shut_down : bool
        It said goodbye because its node ended.
    """

    def __init__(self, stream: ByteStream, connection: Connection, owner: Owner, *, outgoing: bool) -> None:
        self._stream = stream
        self._connection = connection
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._outboxes: dict[Outbox, None] = {}
        self._flush_due = False
        self._has_room = True
        self._liveness = Liveness()
        self._inbox: list[bytes] = []
        self._events: Iterator[Event] | None = None
        self._paused = False
        self._stream_ended: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wait_s = 0.0
        self.stranger = self.asked = self.resumes = self.invites = self.brought = self.lost = self.shut_down = False
        self.closed = False
        self.outgoing = self.dialled = outgoing
        self.opened_at = 0.0
        self.node_id = self.name = self.session = ""
        self.load: Load | None = None
        self._pinged_at = -1.0
        self.offers: tuple[ProviderInfo, ...] = ()
        self.relays: tuple[RelayPeer, ...] = ()
        self.uri: PeerUri | None = None
        self.rtt_s: float | None = None

    @property
    def kind(self) -> str:
        """How the peer is reached: ``TLS``, ``WebRTC`` or ``relay``."""
        return self._stream.kind

    @property
    def address(self) -> str:
        """Where it is."""
        return self._stream.address

    @property
    def hops(self) -> tuple[str, ...]:
        """The nodes that carry the link, nearest first; empty where nobody does."""
        return self._stream.hops

    @property
    def rank(self) -> int:
        """How good the way is: 0 directly by TLS, 1 by WebRTC, and more with each node that carries it."""
        return 1 + len(self.hops) if self.hops else int(self.kind == "WebRTC")

    @property
    def extended(self) -> bool:
        """Whether it streams, queues and cancels, or is a plain DPTP v1.5 peer."""
        return self._connection.extended

    @property
    def binding(self) -> bytes:
        """What this link alone has; see `Connection.binding`."""
        return self._connection.binding

    def start(self) -> None:
        """Begin the conversation."""
        self._schedule()
        self._stream.attach(self)

    def send(self, message: Message) -> None:
        """Send with everything else that this turn of the loop produces; nothing when the link has ended.

        Raises
        ------
        LocalProtocolError
            The message is too large or not legal now.
        """
        if not self.closed:
            self._connection.send(message)
            self._schedule()

    def send_when_room(self, outbox: Outbox) -> None:
        """Call `outbox.emit` at the end of this turn, or once the peer has read enough; not if the link has ended."""
        if not self.closed:
            self._outboxes[outbox] = None
            self._schedule()

    def forget(self, outbox: Outbox) -> None:
        """It has moved to another link."""
        self._outboxes.pop(outbox, None)

    @property
    def has_room(self) -> bool:
        """Whether the peer keeps up with what is sent; a link that has ended takes everything."""
        return self._has_room

    @property
    def silent(self) -> bool:
        """Whether it has said nothing for some time, and not answered a PING."""
        return self._liveness.silent

    def admit(self) -> None:
        """Server: let the authenticated peer in."""
        self._connection.admit()
        self._opened()

    def refuse(self, sentence: str) -> None:
        """Server: turn it away, and say why."""
        self._connection.refuse(sentence)
        self.close(sentence)
        # Long enough to read why; whoever does not hang up must not hold a descriptor.
        self._loop.call_later(_REFUSED_LINGER_S, self._stream.abort)

    def close(self, reason: str, *, lost: bool = False) -> None:
        """End the link in order, telling an extended peer why; `lost` if it goes on over a better one."""
        if self.closed:
            return
        self.lost = lost
        if self.extended and self.node_id and not lost:  # it might read a goodbye before it knows the better one
            with contextlib.suppress(LocalProtocolError):  # refused, or already said
                self._connection.send(Goodbye(reason[:256]))
        self._hang_up(reason)

    def abort(self, reason: str) -> None:
        """End the link now."""
        self._stream.abort()
        self._end(reason)

    def data_received(self, data: bytes) -> None:
        """From the stream."""
        self._liveness.heard()
        if not (self.closed or self.asked):
            self.spend(len(data) / FRAME_BYTES)
        if self.closed:
            return
        self._inbox.append(data)
        if not self._paused:
            self._read()

    def _read(self) -> None:
        """Work off what came, for one turn at most: the next one is everybody else's."""
        until = time.monotonic() + READ_TURN_S
        try:
            while self._events is not None or self._inbox:
                if self._events is None:
                    self._events = self._connection.receive_data(b"".join(self._inbox))
                    self._inbox.clear()
                for event in self._events:
                    self._take(event)
                    if self.closed:
                        return
                    if self._wait_s and self._stream_ended is not None:
                        self._end(self._stream_ended)
                        return
                    if self._wait_s or time.monotonic() > until:
                        self._pause()
                        return
                self._events = None
        except RemoteProtocolError as error:
            self.lost = False
            self._hang_up(label(str(error), 1200))  # a refusal quotes the peer
            return
        if self._stream_ended is not None:
            self._end(self._stream_ended)
            return
        if self._paused:
            self._paused = False
            self._stream.resume_reading()
        self._schedule()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._stream.pause_reading()
        self._schedule()
        # A node over its budget waits: an honest one that asks in a loop loses time and no answer. Only time ends the
        # wait, so two that wait for each other cannot be stuck.
        wait_s, self._wait_s = self._wait_s, 0.0
        self._loop.call_later(wait_s, self._read)

    def writable(self) -> None:
        """From the stream."""
        self._has_room = True
        self._schedule()

    def stream_closed(self, reason: str) -> None:
        """From the stream."""
        self._stream_ended = reason
        if self.closed:
            self._owner.stream_gone(self)
            return
        self.lost = True
        if self.asked:
            self._read()  # what came before the end may hold the end of an answer
        else:
            self._end(reason)  # whoever has gone waits for no reply

    def _hang_up(self, reason: str) -> None:
        self._outboxes.clear()  # nothing may be said behind a goodbye
        self._flush()
        self._stream.close()
        self._end(reason)

    def _end(self, reason: str) -> None:
        """Over for everyone here, at once; the stream may still drain, for seconds if the peer does not read."""
        if self.closed:
            return
        self.closed = True
        self._inbox.clear()
        self._events = None
        self._outboxes.clear()
        self._has_room = True
        if self._timer is not None:
            self._timer.cancel()
        self._owner.peer_closed(self, reason)
        if self._stream_ended is not None:
            self._owner.stream_gone(self)

    def _take(self, event: Event) -> None:
        if not (self.asked and isinstance(event, _ANSWERS)):
            # A list of models or nodes costs by its length: each one is checked and cleaned.
            self.spend(1.0 + _listed(event) / 8)
        if self.closed:
            return
        if isinstance(event, Authenticated):
            self.node_id, self.name = event.node_id, label(event.name)
            self.session = "" if event.ext is None else event.ext.session
            self.resumes = event.ext is not None and event.ext.resume
            self.invites = event.ext is not None and event.ext.invite
            self.opened_at = time.monotonic()
            self._owner.peer_authenticated(self)
            if self.outgoing:
                self._opened()
        elif isinstance(event, Ping):
            self.send(Pong(event.timestamp))
        elif isinstance(event, Pong):
            if event.timestamp == self._pinged_at:  # any other is no echo of ours
                self.rtt_s = time.monotonic() - self._pinged_at
        elif isinstance(event, Goodbye):
            self.lost, self.shut_down = False, event.reason == SHUTTING_DOWN
            self._hang_up(f"it said goodbye: {label(event.reason, 200) or 'no reason'}")
        elif not isinstance(event, Unknown):
            self._owner.peer_said(self, event)

    def spend(self, frames: float) -> None:
        """Count what costs as much as so many frames against the node's budget."""
        if not self.node_id:
            return  # the gate bounds who has proved nothing yet
        self._wait_s = self._owner.spend(self, frames)
        if self._wait_s and self.stranger:
            self.abort("it was not let in, and sent too much")

    def _opened(self) -> None:
        self._schedule()
        if self.extended and not self.closed:
            self._keep_alive()

    def _keep_alive(self) -> None:
        verdict = self._liveness.beat(listening=not self._paused)
        if verdict is Verdict.DEAD:
            self.lost = True
            self.abort(f"it was silent for {liveness.SILENCE_S:g} s")
            return
        self._pinged_at = time.monotonic()
        self.send(Ping(self._pinged_at))
        self._timer = self._loop.call_later(liveness.PING_EVERY_S, self._keep_alive)
        if verdict is Verdict.SILENT:
            self._owner.peer_silent(self)

    def _schedule(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        # Stays set until the outboxes have emitted, or each of them would ask for another, empty turn.
        if self.closed:
            return
        try:
            if self._outboxes and self._has_room:
                outboxes, self._outboxes = iter(list(self._outboxes)), {}
                for outbox in outboxes:
                    outbox.emit()
                    if self._connection.unsent_bytes > _TURN_BYTES:
                        break
                self._outboxes = dict.fromkeys(outboxes) | self._outboxes  # who has not had a turn comes first
        finally:
            self._flush_due = False
        if self._outboxes and self._has_room:
            self._schedule()  # one of them has more than it may send in a turn
        data = self._connection.data_to_send()
        if data and not self._stream.write(data):
            self._has_room = False
            if self._stream.unsent_bytes() > UNSENT_LIMIT_BYTES:
                self.abort("it does not read what it asks for")


def _listed(event: Event) -> int:
    if isinstance(event, ProvidersResponse):
        return len(event.providers)
    return len(event.nodes) if isinstance(event, RelayPeers) else 0
