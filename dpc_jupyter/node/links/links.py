"""Who is linked to this node: listening, dialling, admission, and the table of peers."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from typing import Any, Protocol

from dpc_jupyter.errors import AnotherNode, ConnectError, HandshakeError
from dpc_jupyter.identity import Identity, PeerKey, peer_key_from_der, peer_key_from_pem
from dpc_jupyter.node.links.address import PeerUri, is_any_address, machine_addresses
from dpc_jupyter.node.links.peer import Peer
from dpc_jupyter.protocol.connection import BadRequest, Connection
from dpc_jupyter.protocol.handshake import SALT_BYTES, LoadKey
from dpc_jupyter.protocol.messages import Ext, GetProviders, Message
from dpc_jupyter.scheduling import FrameBudget
from dpc_jupyter.transports.base import ByteStream
from dpc_jupyter.transports.data_channel import WebRtcStream
from dpc_jupyter.transports.gate import HalfOpen
from dpc_jupyter.transports.ice import IceConfig
from dpc_jupyter.transports.tls import Listener, TlsStream, client_context, dial, dial_over, server_context
from dpc_jupyter.transports.webrtc import Answerer, Reply, Signal
from dpc_jupyter.transports.webrtc import dial as dial_webrtc

# A lab's worth; each link costs about 350 KiB.
PEERS_LIMIT = 1024
# Links, those that drain, and those at the gate: a bound on file descriptors, whatever peers do.
STREAMS_LIMIT = PEERS_LIMIT + 256
# One user with that many notebooks open at once is a script.
SESSIONS_PER_NODE = 16
# Nodes that nobody has let in may knock, so that the owner sees them; the oldest makes room for the newest.
STRANGERS_LIMIT = 16
STRANGER_SESSIONS = 2
# Frames of one node over all of its links, answers to our requests apart. A thousand a second cost less than a tenth of
# a core, and are as many requests as an access file can allow.
FRAMES_PER_S = 1000.0
FRAMES_AT_ONCE = 2000.0
# A D-PC Messenger sends 3 frames on connecting, and a stranger's one question a second is answered.
STRANGER_FRAMES_PER_S = 5.0
STRANGER_FRAMES_AT_ONCE = 20.0
# Two links of one pair of processes that are both younger than this were dialled at the same moment.
_AT_ONCE_S = 2.0
# For the last words of every link when the node stops.
_FAREWELL_S = 1.0


class Node(Protocol):
    """What the links tell the node that they belong to."""

    def is_known(self, node_id: str, /) -> bool:
        """Whether the access file lets this node in."""

    def legacy_ok(self, node_id: str, /) -> bool:
        """Whether this node may come without channel binding."""

    def peer_opened(self, peer: Peer, /) -> None:
        """A link is open."""

    def peer_said(self, peer: Peer, message: Message | BadRequest, /) -> None:
        """A message came."""

    def peer_silent(self, peer: Peer, /) -> None:
        """An open link says nothing; it may be gone."""

    def peer_replaced(self, older: Peer, newer: Peer, /) -> None:
        """An open link ended: `newer`, to the same process of the same node, takes its place."""

    def peer_closed(self, peer: Peer, reason: str, /) -> None:
        """An open link ended."""


class Links:
    """The links of one node. Peers are keyed by node id, session and who dialled: closing one touches no other."""

    def __init__(
        self,
        identity: Identity,
        name: str,
        session: str,
        node: Node,
        ice: IceConfig = IceConfig(),  # noqa: B008
    ) -> None:
        self._identity = identity
        self._name = name
        self._ext = Ext(1, session, stream=True, resume=True, invite=True)
        self._node = node
        self._client_context = client_context()
        self._listener: Listener | None = None
        self._inner: Listener | None = None  # for those whom a relay brings; the other one's gate is its own
        self._ice = ice
        self._answerer = Answerer(identity, ice, self._answered, self.knows)
        self._half_open: dict[Peer, HalfOpen] = {}
        self._dialling: dict[Peer, asyncio.Future[Peer]] = {}
        self._peers: dict[tuple[str, str, bool], Peer] = {}
        self._opened: set[Peer] = set()
        self._streams: set[Peer] = set()
        self._frames = FrameBudget(time.monotonic, FRAMES_PER_S, FRAMES_AT_ONCE)
        self._stranger_frames = FrameBudget(time.monotonic, STRANGER_FRAMES_PER_S, STRANGER_FRAMES_AT_ONCE)
        self._all_gone = asyncio.Event()
        self.uri: PeerUri | None = None

    @property
    def peers(self) -> list[Peer]:
        """Every open link, oldest first."""
        return list(self._peers.values())

    def of(self, node_id: str) -> Peer | None:
        """The link by which to ask a node: one that offers models first, then one that we dialled, then the newest."""
        links = [peer for peer in self._peers.values() if peer.node_id == node_id]
        return max(reversed(links), key=lambda peer: (bool(peer.offers), peer.dialled), default=None)

    def knows(self, node_id: str) -> bool:
        """Whether the owner lets this node in."""
        return self._node.is_known(node_id)

    def listen(self, host: str, port: int) -> PeerUri:
        """Accept peers.

        Raises
        ------
        ConnectError
            No port near the wanted one is free.
        """
        context = server_context(self._identity.key_pem, self._identity.cert_pem)
        listener = Listener(context, self._identity.cert_der, self._accepted)
        listener.start(host, port)
        self._listener = listener
        shown = machine_addresses()[0] if is_any_address(host) else host
        self.uri = PeerUri(shown, listener.port, self._identity.node_id)
        return self.uri

    async def connect(self, uri: PeerUri, timeout_s: float) -> Peer:
        """Dial a peer and finish the handshake.

        Raises
        ------
        ConnectError
            Nobody answers there.
        HandshakeError
            Somebody else answers there, or the peer turned us away; the sentence says which.
        """
        stream = await dial(uri.host, uri.port, self._client_context, timeout_s)
        peer = await self._speak_to(uri.node_id, stream, f"at {uri.host}:{uri.port}", timeout_s)
        peer.uri = uri
        return peer

    async def dial_over(self, sock: socket.socket, node_id: str, via: Peer, timeout_s: float) -> Peer:
        """Reach a node through a socket whose other end a peer carries to it; errors as `connect`."""
        stream = TlsStream(f"over {via.node_id}", hops=(via.node_id, *via.hops))
        await dial_over(sock, stream, self._client_context, timeout_s)
        return await self._speak_to(node_id, stream, f"over {via.node_id}", timeout_s)

    def accept_over(self, sock: socket.socket, via: Peer) -> None:
        """Be reached through such a socket."""
        hops = (via.node_id, *via.hops)
        self._inner_listener().take(sock, via.node_id, TlsStream(f"over {via.node_id}", self._identity.cert_der, hops))

    def _inner_listener(self) -> Listener:
        if self._inner is None:
            context = server_context(self._identity.key_pem, self._identity.cert_pem)
            self._inner = Listener(context, self._identity.cert_der, self._accepted)
        return self._inner

    async def _speak_to(self, node_id: str, stream: TlsStream, where: str, timeout_s: float) -> Peer:
        try:
            found = peer_key_from_der(stream.server_cert_der).node_id
            if found != node_id:
                raise AnotherNode(
                    f"What answers {where} is {found}, not {node_id}. Nothing was sent. "
                    "Ask the host's owner for its present address."
                )
        except BaseException:
            stream.abort()
            raise
        return await self._finish_handshake(self.adopt_client(stream, node_id), node_id, timeout_s)

    async def dial_webrtc(self, node_id: str, signal: Signal, timeout_s: float) -> Peer:
        """Reach a node by WebRTC: `signal` carries our offer to it and returns its answer.

        Raises
        ------
        ConnectError
            It does not answer, or no way through the network was found.
        HandshakeError
            Somebody else answered, or the peer turned us away; the sentence says which.
        """
        stream = await dial_webrtc(signal, self._identity, node_id, self._ice, timeout_s)
        return await self._finish_handshake(self.adopt_client(stream, node_id), node_id, timeout_s)

    async def take_offer(self, sender_node_id: str, payload: object, reply: Reply) -> None:
        """Answer an offer that a hub brought; returns when the link is handed on, or there is none.

        Raises
        ------
        ConnectError, HandshakeError
            As `Answerer.take_offer`. The offer is a stranger's: nobody has to be told.
        """
        await self._answerer.take_offer(sender_node_id, payload, reply)

    async def _finish_handshake(self, peer: Peer, node_id: str, timeout_s: float) -> Peer:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._dialling[peer]
        except TimeoutError as error:
            raise ConnectError(f"{node_id} did not finish its handshake within {timeout_s:g} s.") from error
        finally:
            del self._dialling[peer]
            if (peer.node_id, peer.session, True) not in self._peers:
                peer.abort("the handshake did not finish")

    def adopt_client(self, stream: ByteStream, server_id: str) -> Peer:
        """Speak first on a stream whose server's key hash has been compared with `server_id`."""
        connection = self._connection(server_id=server_id, server_cert_der=stream.server_cert_der)
        peer = Peer(stream, connection, self, outgoing=True)
        self._streams.add(peer)
        self._dialling[peer] = asyncio.get_running_loop().create_future()
        peer.start()
        return peer

    def adopt_server(self, stream: ByteStream, client_id: str = "") -> Peer:
        """Challenge whoever is at the other end of a stream that reached us; given, it may be `client_id` alone."""

        def load_key(certificate: str) -> PeerKey:
            key = peer_key_from_pem(certificate)
            if client_id not in ("", key.node_id):
                raise HandshakeError(f"{client_id} opened this link, and now it says HELLO as {key.node_id}.")
            return key

        connection = self._connection(salt=secrets.token_bytes(SALT_BYTES), load_key=load_key)
        peer = Peer(stream, connection, self, outgoing=False)
        self._streams.add(peer)
        peer.start()
        return peer

    def _connection(self, load_key: LoadKey = peer_key_from_pem, **role: Any) -> Connection:
        return Connection(
            self._identity,
            name=self._name,
            ext=self._ext,
            load_key=load_key,
            legacy_ok=self._node.legacy_ok,
            **role,
        )

    def reconsider(self) -> None:
        """The rules changed: who is a stranger may have, too."""
        for peer in self.peers:
            peer.stranger = not peer.dialled and not self._node.is_known(peer.node_id)

    async def close(self, reason: str) -> None:
        """Stop listening, and say goodbye to everyone."""
        for listener in filter(None, (self._listener, self._inner)):
            await listener.close()
        await self._answerer.close()
        for peer in list(self._streams):
            peer.close(reason)
        try:
            async with asyncio.timeout(_FAREWELL_S):
                while self._streams:
                    self._all_gone.clear()
                    await self._all_gone.wait()
        except TimeoutError:
            for peer in self._streams:
                peer.abort(reason)
        await asyncio.sleep(0)  # for the transports' own last callbacks

    def _answered(self, stream: WebRtcStream, half_open: HalfOpen) -> None:
        self._accepted(stream, half_open, stream.peer_id)

    def _accepted(self, stream: ByteStream, half_open: HalfOpen, client_id: str = "") -> None:
        if len(self._streams) >= STREAMS_LIMIT:
            stream.abort()
            half_open.done()
            return
        peer = self.adopt_server(stream, client_id)
        if peer in self._streams:
            self._half_open[peer] = half_open
        else:
            half_open.done()

    def peer_authenticated(self, peer: Peer) -> None:
        """From a link: its peer proved its id."""
        if not peer.outgoing:
            peer.stranger = not self._node.is_known(peer.node_id)
            if sentence := self._no_place_for(peer):
                peer.refuse(sentence)  # keeps its place at the gate until its socket is gone
                return
            peer.admit()
            self._leave_gate(peer)
        older = self._older(peer)
        unheard = older is not None and older.stranger and peer.dialled
        if older is not None:
            older.dialled = peer.dialled = older.dialled or peer.dialled
            for each in (older, peer):
                each.stranger = each.stranger and not each.dialled
        stays = peer if older is None or not self._is_better(older, peer) else older
        if (waiting := self._dialling.get(peer)) is not None and not waiting.done():
            waiting.set_result(stays)
        if stays is not peer:
            peer.close("the link that its peer dialled at the same moment stays", lost=True)
            if unheard:  # what it offered before we dialled it was a stranger's
                stays.send(GetProviders())
            return
        if older is not None:
            del self._peers[_key(older)]
        self._peers[_key(peer)] = peer
        self._opened.add(peer)
        self._node.peer_opened(peer)
        if older is not None:
            self._opened.remove(older)
            older.close("a newer link of the same session takes its place", lost=True)
            self._node.peer_replaced(older, peer)

    def _older(self, peer: Peer) -> Peer | None:
        """The open link to the same process that `peer` would be one too many beside."""
        if (older := self._peers.get(_key(peer))) is not None:
            return older
        if peer.session == self._ext.session:
            return None  # the other end of the same link: this node is linked to itself
        other = self._peers.get((peer.node_id, peer.session, not peer.outgoing))
        # One on a worse way than ours was dialled because the peer finds ours dead, or has none: that one is no twin.
        return other if other is not None and other.resumes and peer.rank <= other.rank else None

    def _is_better(self, older: Peer, newer: Peer) -> bool:
        """Of two that were dialled at the same moment both ends keep the same one; else an old one may be dead."""
        if (
            older.outgoing == newer.outgoing
            or newer.rank < older.rank
            or time.monotonic() > older.opened_at + _AT_ONCE_S
        ):
            return False
        return older.outgoing == (self._identity.node_id < older.node_id)

    def spend(self, peer: Peer, frames: float) -> float:
        """From a link."""
        budget = self._stranger_frames if peer.stranger else self._frames
        return budget.spend(peer.node_id, frames)

    def peer_said(self, peer: Peer, message: Message | BadRequest) -> None:
        """From a link."""
        self._node.peer_said(peer, message)

    def peer_silent(self, peer: Peer) -> None:
        """From a link."""
        self._node.peer_silent(peer)

    def peer_closed(self, peer: Peer, reason: str) -> None:
        """From a link."""
        if (waiting := self._dialling.get(peer)) is not None and not waiting.done():
            kind = ConnectError if peer.lost else HandshakeError  # a network that broke is no refusal
            waiting.set_exception(kind(f"No link to {peer.address}: {reason}"))
        if self._peers.get(_key(peer)) is peer:
            del self._peers[_key(peer)]
        if peer in self._opened:
            self._opened.remove(peer)
            self._node.peer_closed(peer, reason)

    def stream_gone(self, peer: Peer) -> None:
        """From a link."""
        self._leave_gate(peer)
        self._streams.discard(peer)
        if not self._streams:
            self._all_gone.set()

    def _leave_gate(self, peer: Peer) -> None:
        if (half_open := self._half_open.pop(peer, None)) is not None:
            half_open.done()

    def _no_place_for(self, newcomer: Peer) -> str:
        inbound = [peer for peer in self._peers.values() if not peer.outgoing]
        own = [peer for peer in inbound if peer.node_id == newcomer.node_id and peer.session != newcomer.session]
        if len(own) >= (STRANGER_SESSIONS if newcomer.stranger else SESSIONS_PER_NODE):
            return f"Your node has {len(own)} connections here already; close one."
        if newcomer.stranger:
            strangers = [peer for peer in inbound if peer.stranger]
            if len(strangers) >= STRANGERS_LIMIT:
                strangers[0].abort("another node that is not let in needed the place")
        elif len(inbound) >= PEERS_LIMIT:
            return f"This host holds {PEERS_LIMIT} connections and takes no more now; try again later."
        return ""


def _key(peer: Peer) -> tuple[str, str, bool]:
    return peer.node_id, peer.session, peer.outgoing
