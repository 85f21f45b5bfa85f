"""`CoreService`: the public API of a node, async only. Notebooks reach it through `node.thread`."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import logging
import platform
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

from dpc_jupyter.backends.registry import Registry, open_registry
from dpc_jupyter.errors import (
    Busy,
    ConnectError,
    DpcError,
    HandshakeError,
    InvalidRequest,
    InvitationError,
    PeerNotConnected,
)
from dpc_jupyter.home import PENDING_LIMIT, Home
from dpc_jupyter.hub.client.adverts import FoundNode
from dpc_jupyter.ledger import Ledger
from dpc_jupyter.node.asking import (
    LOCAL,
    Answer,
    AnswerStream,
    Asker,
    Clocks,
    InferenceRequest,
    Requester,
    Unfinished,
    UnfinishedRequest,
    conversation,
    convert,
)
from dpc_jupyter.node.joining import Claims, Invitations, Joined, Whereabouts, other_hub
from dpc_jupyter.node.links import Links, Peer, PeerUri
from dpc_jupyter.node.news import News
from dpc_jupyter.node.reaching import RELAY_MESSAGES, Attempt, Directory, Network, Presence, Reach, Relays
from dpc_jupyter.node.serving import Access, Host, Offers, provider_info, what_changed
from dpc_jupyter.node.status import JoinedHost, KnownPeer, NodeEvent, NodeStatus, PeerStatus, RequestStatus
from dpc_jupyter.node.tasks import Tasks
from dpc_jupyter.protocol.connection import BadRequest
from dpc_jupyter.protocol.invitation import Invitation
from dpc_jupyter.protocol.messages import (
    SHUTTING_DOWN,
    ChatMessage,
    GetProviders,
    Image,
    InviteClaim,
    InviteResult,
    Message,
    Options,
    ProviderInfo,
    ProvidersResponse,
    RemoteInferenceCancel,
    RemoteInferenceChunk,
    RemoteInferenceRequest,
    RemoteInferenceResponse,
    RemoteInferenceResume,
    RemoteInferenceStatus,
)
from dpc_jupyter.sanitize import is_word, label

# A revoked request must end within a second of the edit.
WATCH_EVERY_S = 0.3
# Models come and go on an engine without telling; peers are told again when the list differs.
OFFERS_EVERY_S = 10.0
_STRANGER_REQUEST_EVERY_S = 1.0
_log = logging.getLogger(__name__)


class CoreService:
    """One running node.

    Parameters
    ----------
    home : Home, optional
        Where identity, rules and usage are kept; ``DPC_HOME`` or ``~/.dpc``.
    name : str, optional
        What the node calls itself; the machine's name.
    registry : Registry, optional
        The engines; those of ``providers.json``, or what is found on this machine.

    Attributes
    ----------
    access : Access
        Who may use this machine's models.
    invitations : Invitations
        Lines that let somebody in; its methods block, so not on the node's own loop.
    """

    def __init__(self, home: Home | None = None, *, name: str | None = None, registry: Registry | None = None) -> None:
        self.home = home or Home.default()
        self.session = str(uuid.uuid4())
        self._numbers = itertools.count(1)
        self.name = label(name or platform.node() or "node")
        self.identity = self.home.load_identity()
        self.access = Access(self.home)
        self.invitations = Invitations(self.home, self.access)
        self.directory = Directory(self.home, lambda: self.access.rules)
        self.ledger = Ledger(self.home.ledger_path)
        self._watch = self.home.watch()
        self._registry = registry or open_registry(self.home.read_providers(), self.home.models_folder)
        network = Network.read(self.home)
        self._links = Links(self.identity, self.name, self.session, self, network.ice)
        self._relays = Relays(
            self.identity.node_id,
            lambda: self.access.rules,
            lambda: self._links.peers,
            self.directory.name_of,
            self._links.accept_over,
        )
        self._requester = Requester(self.identity.node_id)
        self._unfinished = Unfinished(self.home, self.identity.key_pem)
        self._asking = Asker(self._requester, self._registry, self._unfinished, self.ledger, self._write)
        self._host = Host(self._registry, self.ledger, lambda: self.access.rules, self._refused)
        self._offers = Offers(self._host)
        self._joining = Claims(self.identity.node_id, self.invitations, self._joined, self._not_joined)
        self._stranger_asked_at: dict[str, float] = {}
        self._news = News()
        self._to_note: dict[str, tuple[str, str, float]] = {}
        self._noting = False
        self._offered_at = time.monotonic()
        self._tasks, self._writes = Tasks(), Tasks()
        self._writing = asyncio.Lock()
        self._presence = Presence(
            self.home,
            network,
            self.identity,
            self.name,
            self.session,
            self._links,
            self._registry,
            Whereabouts(self.home),
            lambda: self.access.rules,
            lambda about: self._news.tell("hub_changed", self.identity.node_id, f"This node is {about}"),
        )
        self._reach = Reach(
            self._links,
            self._relays,
            self.directory,
            self._requester,
            self._presence,
            partial(self._write, self.directory.save),
            self._news.tell,
        )

    async def start(self, listen: tuple[str, int] | None = None, *, takes_calls: bool | None = None) -> None:
        """Start the node. It listens only when told to, and goes online at its home's hub if there is one.

        Parameters
        ----------
        listen : (str, int), optional
            Host (empty: every address) and first port to try; ``("", DEFAULT_PORT)`` to share.
        takes_calls : bool, optional
            Whether peers may call it over the hub; by default one that listens.
        """
        if listen is not None:
            await self.listen(*listen)
        self._presence.start(takes_calls=listen is not None if takes_calls is None else takes_calls)
        await asyncio.to_thread(self._unfinished.look)
        self._tasks.spawn(self._watch_files())

    async def listen(self, host: str, port: int) -> PeerUri:
        """Accept peers from now on; a node that listens already stays where it is.

        Parameters
        ----------
        host : str
            Empty for every address.
        port : int
            The first one to try; 0 for any.

        Returns
        -------
        PeerUri
            The address to give away.

        Raises
        ------
        ConnectError
            No port near the wanted one is free.
        """
        return self._links.uri or await self._presence.listen(host, port)

    async def stop(self, reason: str = SHUTTING_DOWN) -> None:
        """End every request and link, stop our engines, and write what is unwritten."""
        await self._asking.stop()
        await self._tasks.stop()
        await self._reach.stop()
        await self._writes.finish()
        await self._joining.stop()
        await self._offers.stop()
        await self._host.stop()
        await self._relays.stop()
        await self._presence.stop()
        await self._links.close(reason)
        await self._registry.close()
        self.ledger.close()  # not in a thread: at the interpreter's end there are no new ones

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # Peers.

    @property
    def uri(self) -> PeerUri | None:
        """The address to give to a peer; None while the node does not listen."""
        return self._links.uri

    async def connect(self, where: str, *, name: str | None = None, timeout_s: float = 10.0) -> PeerStatus:
        """Link to a peer by its ``dpc://`` address, or by the name of one that was linked before.

        Raises
        ------
        UriError, PeerNotConnected
            The address is malformed, or nobody of that name is known.
        ConnectError, HandshakeError
            Nobody answers there; or somebody else does; or the peer refused us.
        """
        return self._peer_status(await self._reach.connect(where, name, timeout_s))

    def keep_linked(self, where: str) -> None:
        """Link to a peer, by address or name, when it is there and whenever the link breaks; `disconnect` ends it.

        Raises
        ------
        UriError, PeerNotConnected
            The address is malformed, or nobody of that name is known.
        """
        self._reach.keep(where)

    async def change_network(self) -> None:
        """Read ``network.json`` again: be online at the hub that it names now, or at none. STUN and TURN stay.

        Raises
        ------
        ConfigError
            The file cannot be used; nothing has changed.
        """
        await self._presence.change(Network.read(self.home))

    def attempts(self, node_id: str) -> tuple[Attempt, ...]:
        """What was tried to reach a node the last time that it was, and what won."""
        return self._reach.attempts(node_id)

    async def search(self, *, model: str = "", name: str = "", group: str = "") -> tuple[FoundNode, ...]:
        """Nodes that are online at the hub and let themselves be found by this one; by the hub's word.

        Raises
        ------
        ConnectError
            No hub is set, or it is not reached.
        """
        return await self._presence.search(model=model, name=name, group=group)

    async def link_to(self, who: str, *, timeout_s: float = 10.0) -> PeerStatus:
        """The link to a peer, made if there is none; parameters and errors as `connect`."""
        if ":" not in who:
            peer = self._links.of(self.directory.find(who, self._links.peers))
            if peer is not None:
                return self._peer_status(peer)
        return await self.connect(who, timeout_s=timeout_s)

    async def join(self, line: str, *, name: str | None = None, timeout_s: float = 10.0) -> JoinedHost:
        """Go to a host by the invitation that its owner sent, and be let in. Again does no harm.

        Parameters
        ----------
        line : str
            ``dpc-invite:...``, as it was pasted.
        name : str, optional
            What to call the host here; what it calls itself.
        timeout_s : float
            For each of its addresses, and for its answer.

        Raises
        ------
        InvitationError
            The line is damaged, or the host refuses it.
        ConnectError, HandshakeError, PeerLost
            The host cannot be reached; the invitation stays as it is.
        """
        invitation = Invitation.parse(line)
        if invitation.node_id == self.identity.node_id:
            raise InvitationError("This is an invitation of your own node: send it to whom it is for.")
        hub = self._presence.hub
        cure = other_hub(invitation, "" if hub is None else hub.state.origin)
        if not invitation.addresses and hub is None:
            raise InvitationError(
                f"This host opens no port: it is called over the hub at {label(invitation.hub, 200)} alone. {cure}"
            )
        try:
            peer = await self._reach.connect_by(invitation, name, timeout_s)
        except (ConnectError, HandshakeError) as error:  # where it has moved, another node may have its old address
            if not cure:
                raise
            named = f"The invitation names the hub at {label(invitation.hub, 200)}."
            raise type(error)(f"{error} {named} {cure}") from error
        status = self._peer_status(peer)
        if peer.closed:
            raise ConnectError(f"The link to {status.name} ended at once. Use the same invitation again.")
        if not peer.invites:
            raise InvitationError(
                f"{status.name} runs a dpc-jupyter that knows no invitations: its owner updates it, or lets in "
                f"your node id: {self.identity.node_id}"
            )
        result = await self._joining.claim(peer, invitation, timeout_s)
        await self._offers.ask(peer, timeout_s)
        return JoinedHost(self._peer_status(peer), label(result.name), result.sharing)

    async def disconnect(self, who: str) -> None:
        """End every link to a peer; what it has open fails by name."""
        node_id = self.directory.find(who, self._links.peers)
        looked_for = self._reach.forget(node_id)
        links = [peer for peer in self._links.peers if peer.node_id == node_id]
        if not links and not looked_for:
            raise PeerNotConnected(f"Peer {label(who)} is not connected.")
        for peer in links:
            peer.close("disconnected by its user")
        self.directory.note_lost(node_id, "")  # meant so

    def peers(self) -> tuple[PeerStatus, ...]:
        """Every open link."""
        return tuple(self._peer_status(peer) for peer in self._links.peers)

    def known(self) -> tuple[KnownPeer, ...]:
        """Every peer that was dialled before, linked or not, and whom of the access file a linked peer would relay to.

        A relay's word adds nobody else: the names that it tells are anybody's.
        """
        links, rules, now = self._links.peers, self.access.rules, dt.datetime.now(dt.UTC)
        ours, carriers = rules.node_ids | self.directory.known.keys(), dict[str, str]()
        for peer in links:
            name = self.directory.name_of(peer)
            carriers |= {each.node_id: name for each in peer.relays if each.node_id in ours}
        for linked in (self.identity.node_id, *(peer.node_id for peer in links)):
            carriers.pop(linked, None)
        dialled = self.directory.peers()
        listed = {n for n in carriers if rules.lists(n, now) or rules.name_of(n) != n} - self.directory.known.keys()
        return (
            *(replace(each, via=carriers.get(each.node_id, "")) for each in dialled),
            *(KnownPeer(n, self.directory.name_of(n), 0.0, "", carriers[n]) for n in sorted(listed)),
        )

    def refresh(self) -> None:
        """Ask every linked peer what it offers and how busy it is; `peers` then tells."""
        for peer in self._links.peers:
            if peer.dialled or peer.offers:
                peer.send(GetProviders())

    async def models(self, host: str | None = None, *, timeout_s: float = 5.0) -> tuple[ProviderInfo, ...]:
        """The models that a compute host lets us use now; None or ``local`` for this machine's own."""
        if host in (None, LOCAL):
            return tuple(provider_info(*offer) for offer in await self._registry.offers())
        assert host is not None
        peer = self._peer(host)
        return await self._offers.ask(peer, timeout_s)

    def engine_troubles(self) -> tuple[str, ...]:
        """One sentence for each engine of this machine that is down."""
        return tuple(self._registry.reasons.values())

    def _peer(self, host: str) -> Peer:
        node_id = self.directory.find(host, self._links.peers)
        peer = self._links.of(node_id)
        if peer is None:
            name = self.directory.name_of(node_id)
            word = name if is_word(name) else node_id
            raise PeerNotConnected(f"Peer {name} is not connected. Try %dpc_connect {word}, or pick another host.")
        return peer

    # Asking.

    def execute_ai_query(
        self,
        prompt: str = "",
        compute_host: str | None = None,
        model: str | None = None,
        provider: str | None = None,
        *,
        system: str | None = None,
        messages: Sequence[ChatMessage | Mapping[str, Any]] = (),
        images: Sequence[Image | Mapping[str, Any]] = (),
        options: Options | Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        queue_timeout_s: float | None = None,
        priority: str = "interactive",
    ) -> AnswerStream:
        """Ask, and read the answer as it comes.

        Parameters
        ----------
        prompt : str
            The question; the last turn, after `messages`.
        compute_host : str, optional
            A peer's name or node id; None or ``local`` for this machine.
        model, provider : str, optional
            The host's first allowed one when not given.
        messages : sequence of ChatMessage or dict
            Earlier turns, ``{"role": ..., "content": ...}``.
        images : sequence of Image or dict
            ``{"base64": ..., "mime_type": ...}``, shown with the prompt.
        options : Options or dict, optional
            The closed list of `Options`; the host clamps the values.
        timeout_s : float, optional
            Seconds to wait for the first token, and between tokens; 60. Time in the queue does not count.
        queue_timeout_s : float, optional
            Seconds to wait in line; 600.

        Returns
        -------
        AnswerStream

        Raises
        ------
        PeerNotConnected
            The host is not linked.
        InvalidRequest
            An unknown option, a bad image, or an empty prompt; nothing was sent.
        """
        clocks = Clocks()
        request = InferenceRequest(
            request_id=f"{self.session}-{next(self._numbers)}",
            messages=conversation(prompt, system, messages, images),
            model=model,
            provider=provider,
            options=convert(options or {}, Options),
            clocks=Clocks(
                clocks.queue_s if queue_timeout_s is None else queue_timeout_s,
                clocks.first_token_s if timeout_s is None else timeout_s,
                clocks.idle_s if timeout_s is None else timeout_s,
            ),
            priority=priority,
        )
        if compute_host in (None, "", LOCAL):
            return self._asking.here(request)
        assert compute_host is not None
        peer = self._peer(compute_host)
        return self._asking.at(peer, self.directory.name_of(peer), request)

    async def send_ai_query(self, prompt: str = "", compute_host: str | None = None, **settings: Any) -> Answer:
        """Ask, and wait for the whole answer; parameters and errors as `execute_ai_query`.

        Raises
        ------
        DpcError
            The request failed; its ``partial`` holds the `Answer` so far.
        """
        return await self.execute_ai_query(prompt, compute_host, **settings).complete()

    def unfinished(self) -> tuple[UnfinishedRequest, ...]:
        """Answers that a process of this user asked for and did not live to read; asking the same collects them."""
        self._unfinished.look()
        return self._unfinished.requests()

    def collect(self, request_id: str) -> AnswerStream:
        """Read such an answer, of a host that is linked.

        Raises
        ------
        InvalidRequest
            There is no such request, or no more.
        PeerNotConnected
            Its host is not linked.
        """
        for known in self.unfinished():
            if known.request_id == request_id:
                return self._asking.collect(self._peer(known.host), known)
        raise InvalidRequest(f"No request {label(request_id)} can be collected: %dpc_pending shows those that can.")

    # Serving: what peers say, in one table's worth of branches.

    def is_known(self, node_id: str) -> bool:
        """From the links: who is let in, to compute or to be relayed, is no stranger."""
        return self.access.is_known(node_id) or self.access.rules.may_relay(node_id, dt.datetime.now(dt.UTC))

    def legacy_ok(self, node_id: str) -> bool:
        """From the links."""
        return self.access.rules.legacy_ok(node_id)

    def peer_opened(self, peer: Peer) -> None:
        """From the links."""
        peer.send(GetProviders())
        self._requester.resume(peer)
        self._reach.peer_opened(peer)
        self._tell_of(peer, "peer_connected", f"connected from {peer.address}.")

    def peer_replaced(self, older: Peer, newer: Peer) -> None:
        """From the links."""
        newer.offers, newer.load = older.offers, older.load  # it is asked, and until then nothing flickers
        self._requester.move(older, newer)
        self._let_go(older, "it connected anew, and cannot go on with what was open")

    def peer_said(self, peer: Peer, message: Message | BadRequest) -> None:
        """From the links."""
        match message:
            case RemoteInferenceChunk():
                self._requester.take_chunk(peer, message)
            case RemoteInferenceResponse():
                self._requester.take_response(peer, message)
            case RemoteInferenceStatus():
                self._requester.take_status(peer, message)
            case RemoteInferenceRequest():
                self._handle_inference_request(peer, message)
            case RemoteInferenceCancel():
                self._host.cancel(peer, message.request_id)
            case RemoteInferenceResume():
                self._host.resume(peer, message.request_id, message.next_index)
            case GetProviders():
                self._offers.answer(peer)
            case ProvidersResponse():
                if self._offers.take(peer, message):
                    name = self.directory.name_of(peer)
                    self._news.tell("models_changed", peer.node_id, f"{name} offers {len(peer.offers)} models.")
            case _ if isinstance(message, RELAY_MESSAGES):
                self._relays.take(peer, message)
            case InviteClaim():
                self._joining.take_claim(peer, message)
            case InviteResult():
                self._joining.take_result(peer, message)
            case BadRequest():
                self._host.refuse(peer, message.request_id, InvalidRequest(f"Invalid request: {message.reason}"))

    def peer_closed(self, peer: Peer, reason: str) -> None:
        """From the links."""
        self._let_go(peer, reason)
        if peer.dialled and self._links.of(peer.node_id) is None:
            self.directory.note_lost(peer.node_id, f"disconnected: {reason}")
        self._tell_of(peer, "peer_closed", f"disconnected: {reason}.")

    def _let_go(self, peer: Peer, reason: str) -> None:
        name = self.directory.name_of(peer)
        self._host.peer_closed(peer)
        self._relays.peer_closed(peer)
        self._requester.peer_closed(peer, name, reason)
        self._reach.peer_closed(peer, name, reason)
        self._offers.forget(peer)
        self._joining.peer_closed(peer, name)

    def peer_silent(self, peer: Peer) -> None:
        """From the links."""
        self._reach.peer_silent(peer)

    def _handle_inference_request(self, peer: Peer, request: RemoteInferenceRequest) -> None:
        if not self.access.is_known(peer.node_id):
            now = time.monotonic()
            if now - self._stranger_asked_at.get(peer.node_id, -1e9) < _STRANGER_REQUEST_EVERY_S:
                self._host.refuse(peer, request.request_id, Busy("Busy: one request a second until you are let in."))
                return
            if len(self._stranger_asked_at) >= 1024:
                self._stranger_asked_at.clear()
            self._stranger_asked_at[peer.node_id] = now
        self._host.take_request(peer, request)

    def _refused(self, peer: Peer, model: str) -> None:
        self._to_note.pop(peer.node_id, None)
        self._to_note[peer.node_id] = (peer.name, label(model, 128), time.time())
        while len(self._to_note) > PENDING_LIMIT:
            self._to_note.pop(next(iter(self._to_note)))
        if not self._noting:
            self._noting = True
            self._tasks.spawn(self._note_pending())
        what = f"{peer.name or peer.node_id} ({peer.node_id}) asked for {label(model) or 'a model'} and was refused."
        self._news.tell("access_requested", peer.node_id, what)

    def _joined(self, peer: Peer, joined: Joined) -> None:
        self._links.reconsider()
        for each in self._links.peers:
            if each.node_id == peer.node_id:
                self._offers.answer(each)
        if not joined.again:
            what = f"{joined.name} ({peer.node_id}) has joined by invitation and is let in"
            self._news.tell("peer_joined", peer.node_id, f"{what}{'' if joined.sharing else ' once sharing is on'}.")

    def _not_joined(self, peer: Peer, reason: str) -> None:
        who = f"{self.directory.name_of(peer)} ({peer.node_id})"
        what = f"{who} tried an invitation and was refused: {reason.rstrip('.')}."
        self._news.tell_at_times("guesses", "join_refused", peer.node_id, what)

    # Watching and telling.

    async def _watch_files(self) -> None:
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            try:
                self._look_at_files(await asyncio.to_thread(self._watch.changed))
            except Exception:  # whatever it was: what the owner cuts must be cut at the next look
                _log.exception("the access file was not looked at")

    def _look_at_files(self, changed: bool) -> None:
        before = self.access.rules
        # One that could not be read is tried again: the fault may have been the disk's, and gone.
        if changed or before.error is not None:
            self.access.reload()
            if sentence := what_changed(before, self.access.rules):
                self._news.tell("access_changed", self.identity.node_id, sentence)
        # Without a change too: a permission may have expired.
        self._links.reconsider()
        self._host.reconsider()
        self._relays.reconsider()
        if changed or time.monotonic() - self._offered_at > OFFERS_EVERY_S:
            self._offered_at = time.monotonic()
            self._offers.push()
            self._presence.advertise()

    def subscribe(self, callback: Callable[[NodeEvent], None]) -> Callable[[], None]:
        """Call back on the node's loop for every `NodeEvent`; returns what ends it."""
        return self._news.subscribe(callback)

    def _tell_of(self, peer: Peer, kind: str, what: str) -> None:
        self._news.tell_of(peer, self.directory.name_of(peer), kind, what)

    def status(self) -> NodeStatus:
        """The node as it is now."""
        rules = self.access.rules
        now = time.monotonic()
        return NodeStatus(
            node_id=self.identity.node_id,
            name=self.name,
            session=self.session,
            uri=None if self.uri is None else str(self.uri),
            sharing=rules.enabled,
            paused=rules.paused,
            tokens=self._asking.pieces + self._host.pieces,
            access_error=rules.error,
            ledger_error=self.ledger.error,
            peers=self.peers(),
            hub=self._presence.about_hub,
            takes_calls=self._presence.takes_calls,
            serving=tuple(
                RequestStatus(
                    serving.peer.node_id,
                    self.directory.name_of(serving.peer),
                    serving.model or label(serving.request.model or ""),
                    serving.state,
                    serving.position if serving.state == "queued" else None,
                    now - serving.arrived_at,
                    serving.pieces,
                )
                for serving in self._host.servings
            ),
            asking=tuple(
                RequestStatus(
                    stream.host,
                    stream.host_name,
                    stream.answer.model,
                    "running" if stream.status is None else stream.status.state,
                    None if stream.status is None else stream.status.position,
                    now - stream.started_at,
                    stream.pieces,
                )
                for stream in self._asking.streams
            ),
        )

    def _peer_status(self, peer: Peer) -> PeerStatus:
        return PeerStatus(
            node_id=peer.node_id,
            session=peer.session,
            name=self.directory.name_of(peer),
            kind=peer.kind,
            address=peer.address,
            dialled=peer.dialled,
            extended=peer.extended,
            rtt_s=peer.rtt_s,
            models=peer.offers,
            load=peer.load,
            via=tuple(map(self.directory.name_of, reversed(peer.hops))),
        )

    async def _note_pending(self) -> None:
        """One write for all, one at a time: a flood of strangers must not queue up before the owner's edits."""
        try:
            while self._to_note:
                noted, self._to_note = self._to_note, {}
                try:
                    await asyncio.to_thread(self.home.note_all_pending, noted)
                except (DpcError, OSError) as error:
                    _log.warning("refused nodes are not noted: %s", error)
                await asyncio.sleep(1.0)
        finally:
            self._noting = False

    def _write(self, write: Callable[..., object], *args: object) -> None:
        async def guarded() -> None:
            try:
                async with self._writing:  # in order: a request is noted before it is forgotten
                    await asyncio.to_thread(write, *args)
            except (DpcError, OSError) as error:
                _log.warning("the node's home cannot be written: %s", error)

        self._writes.spawn(guarded())
