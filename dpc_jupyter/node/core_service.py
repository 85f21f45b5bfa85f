"""`CoreService`: the public API of a node, async only. Notebooks reach it through `node.thread`."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from dpc_jupyter.backends.registry import Registry
from dpc_jupyter.errors import InvalidRequest
from dpc_jupyter.home import Home
from dpc_jupyter.hub.client.adverts import FoundNode
from dpc_jupyter.node.asking import (
    LOCAL,
    Answer,
    AnswerStream,
    Clocks,
    InferenceRequest,
    UnfinishedRequest,
    conversation,
    convert,
)
from dpc_jupyter.node.compose import compose
from dpc_jupyter.node.links import Peer, PeerUri
from dpc_jupyter.node.reaching import Attempt, Network
from dpc_jupyter.node.serving import provider_info
from dpc_jupyter.node.snapshot import known_peers, node_status, peer_status
from dpc_jupyter.node.status import JoinedHost, KnownPeer, NodeEvent, NodeStatus, PeerStatus
from dpc_jupyter.node.watch import Watch
from dpc_jupyter.protocol.messages import SHUTTING_DOWN, ChatMessage, Image, Options, ProviderInfo
from dpc_jupyter.sanitize import label


class CoreService:
    """One running node.

    Parameters
    ----------
    home : Home, optional
        Keeps identity, rules and usage. Default: ``DPC_HOME``, else ``~/.dpc``.
    name : str, optional
        What the node calls itself. Default: the machine's name.
    registry : Registry, optional
        The engines. Default: those of ``providers.json``, else those found on this machine.

    Attributes
    ----------
    access : Access
        Who may use the models of this machine, and the edits to that.
    invitations : Invitations
        The invitations of this host. Its methods block on the disk: call them outside of the node's loop.
    directory : Directory
        The names and addresses of known peers.
    ledger : Ledger
        Who used what.
    """

    def __init__(self, home: Home | None = None, *, name: str | None = None, registry: Registry | None = None) -> None:
        rooms = self._rooms = compose(home or Home.default(), name, registry)
        self.home, self.name, self.session, self.identity = rooms.home, rooms.name, rooms.session, rooms.identity
        self.access, self.invitations = rooms.access, rooms.invitations
        self.directory, self.ledger = rooms.directory, rooms.ledger
        self._numbers = itertools.count(1)

    @property
    def uri(self) -> PeerUri | None:
        """The address to give to a peer. None while the node does not listen."""
        return self._rooms.links.uri

    async def start(self, listen: tuple[str, int] | None = None, *, takes_calls: bool | None = None) -> None:
        """Start the node, and go online at the hub of its home, if it has one.

        Parameters
        ----------
        listen : (str, int), optional
            As the parameters of `listen`. Default: the node does not listen.
        takes_calls : bool, optional
            Whether peers may call it over the hub. Default: only if it listens.
        """
        if listen is not None:
            await self.listen(*listen)
        self._rooms.presence.start(takes_calls=listen is not None if takes_calls is None else takes_calls)
        await asyncio.to_thread(self._rooms.unfinished.look)
        self._rooms.tasks.spawn(Watch(self._rooms).run())

    async def listen(self, host: str, port: int) -> PeerUri:
        """Accept peers from now on. A node that listens already keeps its address.

        Parameters
        ----------
        host, port : str, int
            Empty for every address; the first port to try, 0 for any.

        Returns the address to give to peers. Raises ConnectError if no port near `port` is free.
        """
        return self.uri or await self._rooms.presence.listen(host, port)

    async def stop(self, reason: str = SHUTTING_DOWN) -> None:
        """End every request and link, stop the engines of this node, and write what is unwritten."""
        await self._rooms.stop(reason)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def status(self) -> NodeStatus:
        """Return the node as it is now."""
        return node_status(self._rooms)

    def subscribe(self, callback: Callable[[NodeEvent], None]) -> Callable[[], None]:
        """Call back on the node's loop for every `NodeEvent`. Return the function that ends it."""
        return self._rooms.news.subscribe(callback)

    async def change_network(self) -> None:
        """Read ``network.json`` again, and be online at the hub that it names, or at none.

        Changes of STUN and TURN take effect at the next start.

        Raises ConfigError if the file cannot be used; then nothing has changed.
        """
        await self._rooms.presence.change(Network.read(self.home))

    # Peers.

    async def connect(self, where: str, *, name: str | None = None, timeout_s: float = 10.0) -> PeerStatus:
        """Link to a peer by its ``dpc://`` address, or by its name or node id, and call it `name` here.

        Raises
        ------
        UriError, PeerNotConnected
            The address is malformed, or no peer of that name is known.
        ConnectError, HandshakeError
            No way led to the peer, another node answered, or the peer refused the link.
        """
        return self._status_of(await self._rooms.reach.connect(where, name, timeout_s))

    async def link_to(self, who: str, *, timeout_s: float = 10.0) -> PeerStatus:
        """Return the link to a peer; make it if there is none. Parameters and errors are those of `connect`."""
        return self._status_of(await self._rooms.reach.link_to(who, timeout_s))

    def keep_linked(self, where: str) -> None:
        """Link to a peer, by address or name, and again whenever the link breaks, until `disconnect`.

        Raises UriError or PeerNotConnected as `connect` does.
        """
        self._rooms.reach.keep(where)

    async def disconnect(self, who: str) -> None:
        """End every link to a peer, and every dial. What is open on them fails with the reason.

        Raises PeerNotConnected if there is neither.
        """
        self._rooms.reach.disconnect(who)

    async def join(self, line: str, *, name: str | None = None, timeout_s: float = 10.0) -> JoinedHost:
        """Link to a host by the invitation that its owner sent, and get access. Joining again does no harm.

        Parameters
        ----------
        line, name : str
            ``dpc-invite:...``, as it was pasted; and what to call the host here, by default what it calls itself.
        timeout_s : float
            For each of its addresses, and for its answer.

        Raises
        ------
        InvitationError
            The line is damaged, or the host refuses it.
        ConnectError, HandshakeError, PeerLost
            The host is unreachable. The invitation can be used again.
        """
        peer, result = await self._rooms.join.by(line, name, timeout_s)
        return JoinedHost(self._status_of(peer), label(result.name), result.sharing)

    def peers(self) -> tuple[PeerStatus, ...]:
        """Return every open link."""
        return tuple(map(self._status_of, self._rooms.links.peers))

    def known(self) -> tuple[KnownPeer, ...]:
        """Return the peers dialled before, and those of the access file that a linked peer would relay to."""
        return known_peers(self._rooms)

    def attempts(self, node_id: str) -> tuple[Attempt, ...]:
        """Return what the last dial of a node has tried, and which way won."""
        return self._rooms.reach.attempts(node_id)

    async def search(self, *, model: str = "", name: str = "", group: str = "") -> tuple[FoundNode, ...]:
        """Return the nodes online at the hub that this node may find. The hub's word is not proof.

        Raises ConnectError if no hub is set, or it is unreachable.
        """
        return await self._rooms.presence.search(model=model, name=name, group=group)

    def refresh(self) -> None:
        """Ask every linked host for its models and its load; `peers` then has them."""
        self._rooms.offers.refresh(self._rooms.links.peers)

    async def models(self, host: str | None = None, *, timeout_s: float = 5.0) -> tuple[ProviderInfo, ...]:
        """Return the models that this node may use at a host. None or ``local`` is this machine.

        Raises PeerNotConnected if the host is not linked.
        """
        if host is None or host == LOCAL:
            return tuple(provider_info(*offer) for offer in await self._rooms.registry.offers())
        return await self._rooms.offers.ask(self._rooms.reach.linked(host), timeout_s)

    def engine_troubles(self) -> tuple[str, ...]:
        """Return one sentence for each engine of this machine that is down."""
        return tuple(self._rooms.registry.reasons.values())

    def _status_of(self, peer: Peer) -> PeerStatus:
        return peer_status(self.directory, peer)

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
            The question. It is the last turn, after `messages`.
        compute_host, model, provider : str, optional
            A peer's name or node id, None or ``local`` for this machine. Default: the first model that the host allows.
        messages : sequence of ChatMessage or dict
            Earlier turns, ``{"role": ..., "content": ...}``.
        images : sequence of Image or dict
            ``{"base64": ..., "mime_type": ...}``, shown with the prompt.
        options : Options or dict, optional
            The closed list of `Options`. The host clamps the values.
        timeout_s : float, optional
            Seconds to wait for the first token, and between tokens. Default: 60. Time in the queue does not count.
        queue_timeout_s : float, optional
            Seconds to wait in the queue. Default: 600.
        priority : {"interactive", "batch"}

        Returns
        -------
        AnswerStream

        Raises
        ------
        PeerNotConnected, InvalidRequest
            The host is not linked; or an option is unknown, an image is bad, the prompt is empty. Nothing was sent.
        """
        request = InferenceRequest(
            request_id=f"{self.session}-{next(self._numbers)}",
            messages=conversation(prompt, system, messages, images),
            model=model,
            provider=provider,
            options=convert(options or {}, Options),
            clocks=Clocks.of(timeout_s, queue_timeout_s),
            priority=priority,
        )
        if not compute_host or compute_host == LOCAL:
            return self._rooms.asker.here(request)
        peer = self._rooms.reach.linked(compute_host)
        return self._rooms.asker.at(peer, self.directory.name_of(peer), request)

    async def send_ai_query(self, prompt: str = "", compute_host: str | None = None, **settings: Any) -> Answer:
        """Ask, and wait for the whole answer. Parameters are those of `execute_ai_query`.

        Raises `DpcError` if the request fails; its ``partial`` holds the `Answer` so far.
        """
        return await self.execute_ai_query(prompt, compute_host, **settings).complete()

    def unfinished(self) -> tuple[UnfinishedRequest, ...]:
        """Return what this user's processes asked and did not live to read. Asking the same collects it."""
        self._rooms.unfinished.look()
        return self._rooms.unfinished.requests()

    def collect(self, request_id: str) -> AnswerStream:
        """Read the answer to an unfinished request, from a linked host.

        Raises
        ------
        InvalidRequest, PeerNotConnected
            There is no such request, or its answer has expired; or its host is not linked.
        """
        for known in self.unfinished():
            if known.request_id == request_id:
                return self._rooms.asker.collect(self._rooms.reach.linked(known.host), known)
        raise InvalidRequest(f"No request {label(request_id)} can be collected: %dpc_pending shows those that can.")
