"""Who is linked to this node: listening, dialling, admission, and the table of peers."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any, Protocol
from weakref import WeakValueDictionary

from dpc_jupyter.errors import ConnectError, HandshakeError
from dpc_jupyter.identity import Identity, peer_key_from_der, peer_key_from_pem
from dpc_jupyter.node.directory import PeerUri, is_any_address
from dpc_jupyter.node.peer import Peer
from dpc_jupyter.node.whereabouts import machine_addresses
from dpc_jupyter.protocol.connection import BadRequest, Connection
from dpc_jupyter.protocol.handshake import SALT_BYTES
from dpc_jupyter.protocol.messages import Ext, Message
from dpc_jupyter.scheduling import FrameBudget
from dpc_jupyter.transports.base import ByteStream
from dpc_jupyter.transports.tls import HalfOpen, Listener, TlsStream, client_context, dial, server_context

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

    def peer_closed(self, peer: Peer, reason: str, /) -> None:
        """An open link ended."""


class Links:
    """The links of one node. Peers are keyed by node id, session and who dialled: closing one touches no other."""

    def __init__(self, identity: Identity, name: str, session: str, node: Node) -> None:
        self._identity = identity
        self._name = name
        self._ext = Ext(1, session, stream=True, resume=True, invite=True)
        self._node = node
        self._client_context = client_context()
        self._listener: Listener | None = None
        self._half_open: dict[Peer, HalfOpen] = {}
        self._dialling: dict[Peer, asyncio.Future[Peer]] = {}
        self._connecting: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
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
        """The link by which to ask a node: one that offers models before one that does not, then the newest."""
        links = [peer for peer in self._peers.values() if peer.node_id == node_id]
        return max(reversed(links), key=lambda peer: (bool(peer.offers), peer.outgoing), default=None)

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
        # Two that connect at once share one link: a second one would replace the first.
        async with self._connecting.setdefault(uri.node_id, asyncio.Lock()):
            linked = self.of(uri.node_id)
            if linked is not None and linked.outgoing:
                return linked
            return await self._connect(uri, timeout_s)

    async def _connect(self, uri: PeerUri, timeout_s: float) -> Peer:
        stream = await dial(uri.host, uri.port, self._client_context, timeout_s)
        try:
            found = peer_key_from_der(stream.server_cert_der).node_id
            if found != uri.node_id:
                raise HandshakeError(
                    f"What answers at {uri.host}:{uri.port} is {found}, not {uri.node_id}. Nothing was sent. "
                    "Ask the host's owner for its present address."
                )
        except BaseException:
            stream.abort()
            raise
        peer = self.adopt_client(stream, uri.node_id)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._dialling[peer]
        except TimeoutError as error:
            raise ConnectError(f"{uri.node_id} did not finish its handshake within {timeout_s:g} s.") from error
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

    def adopt_server(self, stream: ByteStream) -> Peer:
        """Challenge whoever is at the other end of a stream that reached us."""
        connection = self._connection(salt=secrets.token_bytes(SALT_BYTES))
        peer = Peer(stream, connection, self, outgoing=False)
        self._streams.add(peer)
        peer.start()
        return peer

    def _connection(self, **role: Any) -> Connection:
        return Connection(
            self._identity,
            name=self._name,
            ext=self._ext,
            load_key=peer_key_from_pem,
            legacy_ok=self._node.legacy_ok,
            **role,
        )

    def reconsider(self) -> None:
        """The rules changed: who is a stranger may have, too."""
        for peer in self.peers:
            peer.stranger = not peer.outgoing and not self._node.is_known(peer.node_id)

    async def close(self, reason: str) -> None:
        """Stop listening, and say goodbye to everyone."""
        if self._listener is not None:
            await self._listener.close()
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

    def _accepted(self, stream: TlsStream, half_open: HalfOpen) -> None:
        if len(self._streams) >= STREAMS_LIMIT:
            stream.abort()
            half_open.done()
            return
        peer = self.adopt_server(stream)
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
        key = (peer.node_id, peer.session, peer.outgoing)
        if (older := self._peers.pop(key, None)) is not None:
            older.close("replaced by a newer connection of the same session", lost=True)
        self._peers[key] = peer
        self._opened.add(peer)
        if (waiting := self._dialling.get(peer)) is not None and not waiting.done():
            waiting.set_result(peer)
        self._node.peer_opened(peer)

    def spend(self, peer: Peer, frames: float) -> float:
        """From a link."""
        budget = self._stranger_frames if peer.stranger else self._frames
        return budget.spend(peer.node_id, frames)

    def peer_said(self, peer: Peer, message: Message | BadRequest) -> None:
        """From a link."""
        self._node.peer_said(peer, message)

    def peer_closed(self, peer: Peer, reason: str) -> None:
        """From a link."""
        if (waiting := self._dialling.get(peer)) is not None and not waiting.done():
            waiting.set_exception(HandshakeError(f"No link to {peer.address}: {reason}"))
        key = (peer.node_id, peer.session, peer.outgoing)
        if self._peers.get(key) is peer:
            del self._peers[key]
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
