"""The asking side: matches replies to requests, and ends them by name when their host goes."""

from __future__ import annotations

from collections.abc import Callable

from dpc_jupyter.errors import InferenceError, InvalidRequest, LocalProtocolError, PeerLost, from_wire
from dpc_jupyter.node.answer import AnswerStream, Outcome, Usage
from dpc_jupyter.node.peer import Peer
from dpc_jupyter.node.request import InferenceRequest
from dpc_jupyter.protocol.messages import (
    ChatMessage,
    RemoteInferenceCancel,
    RemoteInferenceChunk,
    RemoteInferenceRequest,
    RemoteInferenceResponse,
    RemoteInferenceStatus,
)
from dpc_jupyter.sanitize import label, plain

# How a host of this protocol refuses a node that nobody has let in (DPTP v1.5 section 1).
DENIED = "Access denied: You are not authorized to request inference"


def as_prompt(messages: tuple[ChatMessage, ...]) -> str:
    """A conversation as the one string that a DPTP v1.5 peer reads."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in messages)


class Requester:
    """Requests that this node has open at its peers.

    Parameters
    ----------
    own_id : str
        This node's id, for those whom a host does not know yet.
    """

    def __init__(self, own_id: str) -> None:
        self._own_id = own_id
        self._pending_inference_requests: dict[tuple[Peer, str], AnswerStream] = {}
        self._next_index: dict[AnswerStream, int] = {}

    def __len__(self) -> int:
        return len(self._pending_inference_requests)

    def open(
        self, peer: Peer, request: InferenceRequest, host_name: str, closed: Callable[[AnswerStream], None]
    ) -> AnswerStream:
        """Send a request.

        Raises
        ------
        InvalidRequest
            It does not fit one frame; nothing was sent.
        """
        key = (peer, request.request_id)

        def abort() -> None:
            if peer.extended:
                peer.send(RemoteInferenceCancel(request.request_id))

        def forget(stream: AnswerStream) -> None:
            self._pending_inference_requests.pop(key, None)
            self._next_index.pop(stream, None)
            closed(stream)

        try:
            peer.send(_wire_request(request, peer.extended))
        except LocalProtocolError as error:
            raise InvalidRequest(str(error)) from error
        peer.asked = True
        stream = AnswerStream(request, peer.node_id, host_name, abort, forget)
        self._pending_inference_requests[key] = stream
        self._next_index[stream] = 0
        return stream

    def take_status(self, peer: Peer, status: RemoteInferenceStatus) -> None:
        """A host says where a request stands. Unknown ids are ignored: it may have just been cancelled."""
        stream = self._pending_inference_requests.get((peer, status.request_id))
        if stream is not None:
            stream.take_status(status)

    def take_chunk(self, peer: Peer, chunk: RemoteInferenceChunk) -> None:
        """A piece of an answer."""
        stream = self._pending_inference_requests.get((peer, chunk.request_id))
        if stream is None:
            return
        if chunk.index != self._next_index[stream]:
            stream.fail(
                InferenceError(f"Part of the answer from {stream.host_name} was lost on the way. Ask again."), True
            )
            return
        self._next_index[stream] += 1
        stream.take_delta(chunk.text, chunk.thinking)

    def take_response(self, peer: Peer, response: RemoteInferenceResponse) -> None:
        """The end of an answer."""
        stream = self._pending_inference_requests.get((peer, response.request_id))
        if stream is None:
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
        """Every request at this peer fails now, with the cause."""
        lost = [stream for (held, _), stream in self._pending_inference_requests.items() if held is peer]
        for stream in lost:
            stream.fail(PeerLost(f"The connection to {host_name} was lost: {reason}. Partial text is kept."))


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
