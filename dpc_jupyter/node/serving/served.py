"""One request from a peer while it is open: its state, its outbox, and what is said and noted at its end."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import sys
import time
from dataclasses import dataclass, field

from msgspec import UNSET

from dpc_jupyter.backends.base import Finished, ModelInfo
from dpc_jupyter.errors import BackendError, DpcError, InvalidRequest
from dpc_jupyter.ledger import Entry
from dpc_jupyter.node.links import Peer
from dpc_jupyter.protocol.messages import (
    ChatMessage,
    RemoteInferenceChunk,
    RemoteInferenceRequest,
    RemoteInferenceResponse,
    RemoteInferenceStatus,
    Timings,
)
from dpc_jupyter.sanitize import label

# Text of one request that waits for a slow reader; beyond it the engine is made to wait.
OUTBOX_CHARS = 32 * 1024
# Chunks that leave in one turn of the loop: an asker that comes back for a long answer is one of many.
_CHUNKS_A_TURN = 8


@dataclass(eq=False)
class Serving:
    """One request from a peer while it is open, and its outbox.

    Attributes
    ----------
    peer : Peer
        The link by which its asker is reached; a closed one while the asker is away.
    lost_at : float or None
        When that link was lost, by `time.monotonic`.
    said : list of RemoteInferenceChunk
        Those so far: an asker that comes back has some of them.
    next_index : int
        The first of them that has not been sent over this link.
    room : asyncio.Event
        Cleared by whoever waits until the peer keeps up, or is away.
    fingerprint : int or None
        Of what was asked, once the prompt itself is not kept any more.
    """

    peer: Peer
    request: RemoteInferenceRequest
    arrived_at: float
    model: str = ""
    provider: str = ""
    engine_type: str = ""
    warm: bool | None = None
    context_window: int | None = None
    state: str = "resolving"
    position: int | None = None
    may_start: asyncio.Event = field(default_factory=asyncio.Event)
    started_at: float | None = None
    first_token_at: float | None = None
    finished: Finished = field(default_factory=Finished)
    cause: DpcError | None = None
    task: asyncio.Task[None] | None = None
    text: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    pending_chars: int = 0
    pieces: int = 0
    next_index: int = 0
    said: list[RemoteInferenceChunk] = field(default_factory=list)
    lost_at: float | None = None
    room: asyncio.Event = field(default_factory=asyncio.Event)
    fingerprint: int | None = None
    outcome: RemoteInferenceResponse | None = None
    unsaid: RemoteInferenceResponse | None = None
    news: RemoteInferenceStatus | None = None
    told: RemoteInferenceStatus | None = None
    timings: Timings = field(default_factory=Timings)

    def __post_init__(self) -> None:
        self.streams = self.request.stream and self.peer.extended
        self.prompt_bytes = prompt_bytes(self.request)

    def add(self, text: str, thinking: str) -> None:
        """The engine said something: it leaves at the end of this turn of the loop, if the peer reads."""
        if self.streams and not self.pending_chars:
            self.peer.send_when_room(self)
        if text:
            self.text.append(encodable(text))
        if thinking:
            self.thinking.append(encodable(thinking))
        self.pending_chars += len(text) + len(thinking)
        self.pieces += 1

    def emit(self) -> None:
        """One chunk of all that has come since the last; several if there is more than a frame holds."""
        self.room.set()
        if self.pending_chars:
            self._collect()
        elif self.news is not None:
            self.peer.send(self.news)
        self.news = None  # text says by itself that the request runs
        last = self.next_index + _CHUNKS_A_TURN
        while self.next_index < len(self.said) and self.next_index < last:
            self.peer.send(self.said[self.next_index])
            self.next_index += 1
        if self.next_index < len(self.said):
            self.peer.send_when_room(self)
        elif self.unsaid is not None:
            self.peer.send(self.unsaid)
            self.unsaid = None

    def _collect(self) -> None:
        text, thinking = "".join(self.text), "".join(self.thinking)
        self.text.clear()
        self.thinking.clear()
        self.pending_chars = 0
        while len(text) > OUTBOX_CHARS or len(thinking) > OUTBOX_CHARS:
            self._say(text[:OUTBOX_CHARS], thinking[:OUTBOX_CHARS])
            text, thinking = text[OUTBOX_CHARS:], thinking[OUTBOX_CHARS:]
        self._say(text, thinking)

    def _say(self, text: str, thinking: str) -> None:
        self.said.append(RemoteInferenceChunk(self.request.request_id, len(self.said), text, thinking))

    def tell(self, news: RemoteInferenceStatus) -> None:
        """Send where the request stands at the end of this turn, unless text comes first."""
        self.state = news.state
        if self.streams:
            self.news = self.told = news
            self.peer.send_when_room(self)

    def attach(self, peer: Peer, next_index: int) -> None:
        """Its asker is back, on another link, and has the chunks before `next_index`."""
        self.peer.forget(self)
        self.peer, self.next_index, self.lost_at = peer, next_index, None
        self.news = None if self.said else self.told
        self.unsaid = self.outcome
        self.peer.send_when_room(self)

    def is_for(self, request: RemoteInferenceRequest) -> bool:
        """Whether this very question is answered here."""
        return self.request == request if self.fingerprint is None else self.fingerprint == hash(request)

    def let_go(self) -> None:
        """Keep what was said, without the prompt."""
        self.fingerprint = hash(self.request)
        self.request = RemoteInferenceRequest(request_id=self.request.request_id)

    def close(self, outcome: RemoteInferenceResponse) -> None:
        """Say the last word, behind all that is not sent yet."""
        self.outcome = self.unsaid = outcome
        self.emit()

    async def wait_for_room(self) -> None:
        """Until the asker keeps up, over whatever link it is reached by then; at once if it goes away."""
        self.room.clear()
        self.peer.send_when_room(self)
        await self.room.wait()

    def is_away(self) -> None:
        """The link broke, and the asker may come back: the engine goes on."""
        self.lost_at = time.monotonic()
        self.room.set()

    def end(self) -> None:
        """Stop the clocks."""
        now = time.monotonic()
        self.timings = Timings(
            queue_s=(self.started_at or now) - self.arrived_at,
            first_token_s=None if self.first_token_at is None else self.first_token_at - self.arrived_at,
            total_s=now - self.arrived_at,
        )

    def response(self) -> RemoteInferenceResponse:
        """The response to a request that went well: the whole text, or after a stream its hash."""
        done = self.finished
        said = "".join([chunk.text for chunk in self.said])
        return RemoteInferenceResponse(
            request_id=self.request.request_id,
            status="success",
            response=UNSET if self.streams else "".join(self.text),
            thinking="".join(self.thinking) or None,
            text_sha256=hashlib.sha256(said.encode()).hexdigest() if self.streams else None,
            model=self.model,
            provider=self.provider,
            prompt_tokens=done.prompt_tokens,
            response_tokens=done.response_tokens,
            tokens_used=(done.prompt_tokens or 0) + (done.response_tokens or 0),
            model_max_tokens=self.context_window,
            finish_reason=done.finish_reason,
            model_digest=done.digest,
            timings=self.timings,
        )

    def entry(self, error: DpcError | None) -> Entry:
        """What the ledger keeps.

        An engine that was stopped gives no counts. What it had read and written is then estimated, at four characters
        a token and a token a piece, or stopping every answer before its end would be a way around the daily quota.
        """
        prompt_tokens, response_tokens = self.finished.prompt_tokens, self.finished.response_tokens
        if self.started_at is not None and prompt_tokens is None:
            turns = self.request.messages or (ChatMessage("user", self.request.prompt),)
            prompt_tokens = sum(len(turn.content) for turn in turns) // 4
        if response_tokens is None:
            response_tokens = self.pieces or None
        return Entry(
            id=self.request.request_id,
            role="host",
            peer=self.peer.node_id,
            model=self.model or label(self.request.model or "", 128),
            provider=self.provider,
            started_at=time.time() - self.timings.total_s,
            queue_s=self.timings.queue_s,
            first_token_s=self.timings.first_token_s,
            total_s=self.timings.total_s,
            prompt_tokens=prompt_tokens,
            response_tokens=response_tokens,
            outcome="ok" if error is None else error.code,
        )

    def error_of(self, task: asyncio.Task[None]) -> DpcError | None:
        """How the request failed, in words that a peer may read."""
        if self.cause is not None:
            return self.cause
        error = BackendError("The engine gave up on this request.") if task.cancelled() else task.exception()
        assert error is None or isinstance(error, DpcError)
        return error


def prompt_bytes(request: RemoteInferenceRequest) -> int:
    """What the texts and images of a request take in memory: one emoji makes every character of its text 4 bytes."""
    images = [*request.images, *(image for turn in request.messages for image in turn.images)]
    texts = [request.prompt, *[turn.content for turn in request.messages], *[image.base64 for image in images]]
    return sum(map(sys.getsizeof, texts))


def encodable(text: str) -> str:
    """An engine that cuts a character in two must not end the answer: half a surrogate pair becomes ``?``."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def conversation(request: RemoteInferenceRequest, model: ModelInfo) -> tuple[ChatMessage, ...]:
    """The turns of a request, in either shape.

    Raises
    ------
    InvalidRequest
        There is no question, an image is not base64, or the model takes none.
    """
    turns = request.messages or (ChatMessage("user", request.prompt),)
    if request.images:
        turns = (*turns[:-1], ChatMessage(turns[-1].role, turns[-1].content, turns[-1].images + request.images))
    images = [image for turn in turns for image in turn.images]
    if images and not model.supports_vision:
        raise InvalidRequest(f"{model.name} does not take images: choose a model with vision.")
    for image in images:
        # Some engines' clients open a text that happens to be a path.
        try:
            base64.b64decode(image.base64, validate=True)
        except ValueError as error:
            raise InvalidRequest("An image is not base64: send its bytes, never a path or URL.") from error
    if not images and not any(turn.content.strip() for turn in turns):
        raise InvalidRequest("The prompt is empty: write a question.")
    return turns
