"""The asking side: matches replies to requests, and ends them by name when their host goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dpc_jupyter.errors import (
    AnswerGone,
    InferenceError,
    InvalidRequest,
    LocalProtocolError,
    PeerLost,
    from_wire,
)
from dpc_jupyter.node.asking.answer import AnswerStream, Outcome, Usage
from dpc_jupyter.node.asking.request import InferenceRequest
from dpc_jupyter.node.links import Peer
from dpc_jupyter.protocol.messages import (
    DENIED,
    ChatMessage,
    RemoteInferenceCancel,
    RemoteInferenceChunk,
    RemoteInferenceRequest,
    RemoteInferenceResponse,
    RemoteInferenceResume,
    RemoteInferenceStatus,
)
from dpc_jupyter.sanitize import label, plain

# Stopped while the link was down, and told to a host when it is back; it gives up on older ones by itself.
_TO_CANCEL_LIMIT = 64


def as_prompt(messages: tuple[ChatMessage, ...]) -> str:
    """A conversation as the one string that a DPTP v1.5 peer reads."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in messages)


@dataclass(eq=False, slots=True)
class _Open:
    """A request at a host, the link that it goes by now, and the chunk that comes next."""

    stream: AnswerStream
    peer: Peer
    next_index: int = 0
    asks_anew: bool = False


class Requester:
    """Requests that this node has open at its peers.

    Parameters
    ----------
    own_id : str
        This node's id, for those whom a host does not know yet.
    """

    def __init__(self, own_id: str) -> None:
        self._own_id = own_id
        self._pending_inference_requests: dict[tuple[str, str], _Open] = {}
        self._to_cancel: dict[str, list[tuple[str, str]]] = {}

    def __len__(self) -> int:
        return len(self._pending_inference_requests)

    def _by(self, peer: Peer, request_id: str) -> _Open | None:
        """The request, if this is the link that it goes by. None is ignored: it may have just been cancelled."""
        found = self._pending_inference_requests.get((peer.node_id, request_id))
        return found if found is not None and found.peer is peer else None

    def open(
        self, peer: Peer, request: InferenceRequest, host_name: str, closed: Callable[[AnswerStream], None]
    ) -> AnswerStream:
        """Send a request.

        Raises
        ------
        InvalidRequest
            It does not fit one frame; nothing was sent.
        """
        try:
            peer.send(_wire_request(request, peer.extended))
        except LocalProtocolError as error:
            raise InvalidRequest(str(error)) from error
        return self._follow(peer, request, host_name, closed)

    def collect(
        self,
        peer: Peer,
        request: InferenceRequest,
        host_name: str,
        closed: Callable[[AnswerStream], None],
        *,
        anew: bool = False,
    ) -> AnswerStream:
        """Read, from its beginning, the answer to a request that was sent before, by this process or another.

        Parameters
        ----------
        anew : bool
            Ask again if the host has it no more.
        """
        peer.send(RemoteInferenceResume(request.request_id, 0))
        stream = self._follow(peer, request, host_name, closed)
        stream.collected = True
        self._pending_inference_requests[peer.node_id, request.request_id].asks_anew = anew
        return stream

    def _follow(
        self, peer: Peer, request: InferenceRequest, host_name: str, closed: Callable[[AnswerStream], None]
    ) -> AnswerStream:
        key = (peer.node_id, request.request_id)

        def abort() -> None:
            if held.peer.closed:
                stopped = self._to_cancel.setdefault(peer.node_id, [])
                stopped[:] = [*stopped[1 - _TO_CANCEL_LIMIT :], (held.peer.session, request.request_id)]
            elif held.peer.extended:
                held.peer.send(RemoteInferenceCancel(request.request_id))

        def forget(stream: AnswerStream) -> None:
            self._pending_inference_requests.pop(key, None)
            closed(stream)

        peer.asked = True
        held = _Open(AnswerStream(request, peer.node_id, host_name, abort, forget), peer)
        self._pending_inference_requests[key] = held
        return held.stream

    def take_status(self, peer: Peer, status: RemoteInferenceStatus) -> None:
        """A host says where a request stands."""
        if (held := self._by(peer, status.request_id)) is not None:
            held.stream.take_status(status)

    def take_chunk(self, peer: Peer, chunk: RemoteInferenceChunk) -> None:
        """A piece of an answer."""
        held = self._by(peer, chunk.request_id)
        if held is None:
            return
        stream = held.stream
        if chunk.index != held.next_index:
            stream.fail(
                InferenceError(f"Part of the answer from {stream.host_name} was lost on the way. Ask again."), True
            )
            return
        held.next_index += 1
        peer.brought = True
        stream.take_delta(chunk.text, chunk.thinking)

    def take_response(self, peer: Peer, response: RemoteInferenceResponse) -> None:
        """The end of an answer."""
        held = self._by(peer, response.request_id)
        if held is None:
            return
        stream = held.stream
        peer.brought = True
        if held.asks_anew and response.code == AnswerGone.code:
            held.asks_anew = stream.collected = False
            peer.send(_wire_request(stream.request, peer.extended))
            return
        if response.code == AnswerGone.code and not stream.collected:
            stream.fail(_lost(stream.host_name, "its node was started again, and knows nothing of it"))
            return
        if response.status == "error":
            sentence = plain(response.error or "the host gave no reason", 1000)
            if sentence == DENIED:
                sentence += f". Send its owner your node id: {self._own_id}"
            stream.fail(from_wire(response.code, sentence))
            return
        stream.finish(
            Outcome(
                model=label(response.model or "", 256),
                provider=label(response.provider or "", 128),
                usage=Usage(response.prompt_tokens, response.response_tokens),
                finish_reason=label(response.finish_reason or "stop", 32),
                model_digest=None if response.model_digest is None else label(response.model_digest, 128),
                queue_s=0.0 if response.timings is None else response.timings.queue_s,
                text_sha256=response.text_sha256,
                text=response.response if isinstance(response.response, str) else None,
                thinking=response.thinking,
            )
        )

    def peer_closed(self, peer: Peer, host_name: str, reason: str) -> None:
        """Every request at this peer fails now, with the cause; or waits, where both sides can go on with it."""
        for held in list(self._pending_inference_requests.values()):
            if held.peer is peer:
                if peer.lost and peer.resumes:
                    held.stream.wait_for_link(f"the connection to {host_name} was lost, trying to get it back")
                else:
                    held.stream.fail(_lost(host_name, reason))

    def tell_waiting(self, node_id: str, note: str) -> None:
        """What hinders those who wait for a host."""
        for held in self._waiting_for(node_id):
            held.stream.wait_for_link(label(note, 256))

    def asks(self, peer: Peer) -> bool:
        """Whether a request is open over this link that could go on over another."""
        return peer.resumes and any(held.peer is peer for held in self._pending_inference_requests.values())

    def waiting_for(self, node_id: str) -> bool:
        """Whether a request waits for its host to come back."""
        return any(self._waiting_for(node_id))

    def _waiting_for(self, node_id: str) -> list[_Open]:
        held = self._pending_inference_requests.values()
        return [each for each in held if each.stream.away and each.stream.host == node_id]

    def resume(self, peer: Peer) -> None:
        """A host is back: go on with what waits for it, and stop what was stopped meanwhile."""
        stopped = self._to_cancel.pop(peer.node_id, [])
        for session, request_id in stopped:
            if session == peer.session:
                peer.send(RemoteInferenceCancel(request_id))
        if others := [each for each in stopped if each[0] != peer.session]:
            self._to_cancel[peer.node_id] = others
        for held in self._waiting_for(peer.node_id):
            if not peer.dialled and peer.session != held.peer.session:
                continue  # another of that user's processes
            if not peer.resumes:
                held.stream.fail(_lost(held.stream.host_name, "it came back as a node that cannot go on"))
                continue
            self._go_on(held, peer)
            held.stream.link_is_back()

    def move(self, older: Peer, newer: Peer) -> None:
        """Go on over a newer link to the same node with what goes by an older one, if its node says that it can."""
        for held in self._pending_inference_requests.values():
            if held.peer is older and newer.resumes:
                self._go_on(held, newer)

    def _go_on(self, held: _Open, peer: Peer) -> None:
        held.peer, peer.asked = peer, True
        # A host that has never heard of it, because the link broke before, is asked: ids are idempotent.
        held.asks_anew = not held.next_index and bool(held.stream.request.messages)
        peer.send(RemoteInferenceResume(held.stream.request.request_id, held.next_index))

    def give_up(self, node_id: str, host_name: str, reason: str) -> None:
        """Fail what waits for a host that does not come back."""
        for held in self._waiting_for(node_id):
            held.stream.fail(_lost(host_name, reason))


def _lost(host_name: str, reason: str) -> PeerLost:
    """What a request says whose host went away."""
    return PeerLost(f"The connection to {host_name} was lost: {reason}. Partial text is kept.")


def _wire_request(request: InferenceRequest, extended: bool) -> RemoteInferenceRequest:
    if extended:
        return RemoteInferenceRequest(
            request_id=request.request_id,
            model=request.model,
            provider=request.provider,
            messages=request.messages,
            options=request.options,
            stream=True,
            priority="batch" if request.priority == "batch" else "interactive",
        )
    return RemoteInferenceRequest(
        request_id=request.request_id,
        # Never empty, which would leave the field out: a DPTP v1.5 host reads it from every request.
        prompt=as_prompt(request.messages) or " ",
        model=request.model,
        provider=request.provider,
        images=request.messages[-1].images,
    )
