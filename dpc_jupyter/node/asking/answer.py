"""The answer as it comes, and its clocks."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from msgspec import Struct

from dpc_jupyter.errors import DpcError, InferenceError, InferenceTimeout, PeerLost, RequestCancelled
from dpc_jupyter.node.asking.request import InferenceRequest
from dpc_jupyter.protocol.messages import Options, RemoteInferenceStatus

# The longest answer that MAX_TOKENS allows is well under a mebibyte of text; a host that sends more is not honest.
ANSWER_LIMIT_CHARS = 4 * 1024 * 1024
# Of a host whose link broke, without a piece of text between.
RETURNS_LIMIT = 20


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as the engine gave them; None where it gave none."""

    prompt_tokens: int | None = None
    response_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class AnswerTimings:
    """Clocks of one request as the asker saw them, in seconds. `queue_s` is the host's word."""

    queue_s: float = 0.0
    first_token_s: float | None = None
    total_s: float = 0.0
    tokens_per_s: float | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """A model's answer, and where it came from.

    Attributes
    ----------
    text : str
        Exactly what the model wrote, unsanitized; the part that came, if the request ended early.
    host : str
        ``local`` or the compute host's node id.
    host_name : str
        What people call it.
    model, provider : str
        What ran, by the host's word.
    model_digest : str or None
        SHA-256 of the weights, where the engine tells.
    finish_reason : str
        ``stop``, ``length``, or ``cancelled`` and ``error`` for a partial text.
    error : str or None
        The sentence, if the request failed.
    collected : bool
        It was asked for before, and read from what its host had kept: its timings tell nothing of the model's speed.
    """

    text: str
    host: str
    host_name: str
    request_id: str
    model: str = ""
    provider: str = ""
    thinking: str = ""
    usage: Usage = Usage()
    timings: AnswerTimings = AnswerTimings()
    finish_reason: str = "stop"
    model_digest: str | None = None
    options: Options = Options()
    error: str | None = None
    collected: bool = False

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        start = self.text if len(self.text) <= 60 else self.text[:59] + "…"
        ending = "" if self.error is None else f", error={self.error!r}"
        return f"Answer({start!r}, model={self.model!r}, host_name={self.host_name!r}{ending})"


class TextDelta(Struct, frozen=True):
    """A piece of the answer; pieces that come while nobody looks are joined."""

    text: str = ""
    thinking: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the serving side closed a request."""

    model: str = ""
    provider: str = ""
    usage: Usage = Usage()
    finish_reason: str = "stop"
    model_digest: str | None = None
    queue_s: float = 0.0
    text_sha256: str | None = None
    text: str | None = None
    thinking: str | None = None


@dataclass(eq=False)
class AnswerStream:
    """Iterate for status lines and pieces of text; then `answer` is complete.

    Leaving the loop early, or `cancel`, frees the slot at the host. A failed request raises its `DpcError` from the
    iteration, and `answer` then holds the partial text and the sentence.

    Parameters
    ----------
    request : InferenceRequest
    host, host_name : str
    abort : callable
        Tells the serving side to stop; called at most once, and only when the request is still open.
    expected : (str, str)
        Model and provider that a request which names none gets, by what its host offers; the end of it tells for sure.
    pieces : int
        Of text or thinking that came so far: about a token each.
    away : bool
        The link to its host broke, and may come back.
    collected : bool
        As `Answer.collected`.
    closed : callable
        Called once with this stream when nothing more will come.
    """

    request: InferenceRequest
    host: str
    host_name: str
    abort: Callable[[], None]
    closed: Callable[[AnswerStream], None]
    status: RemoteInferenceStatus | None = None
    error: DpcError | None = None
    done: bool = False
    pieces: int = 0
    away: bool = False
    collected: bool = False
    expected: tuple[str, str] = ("", "")
    _text: list[str] = field(default_factory=list)
    _thinking: list[str] = field(default_factory=list)
    _taken: tuple[int, int] = (0, 0)
    _status_taken: bool = True
    _chars: int = 0
    _phase: int = 0
    _outcome: Outcome = Outcome()
    _waiter: asyncio.Future[None] | None = None
    _returns: int = 0
    _pieces_at_return: int = 0
    _first_token_at: float | None = None
    _ended_at: float | None = None

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.started_at = time.monotonic()
        self._clock: tuple[str, float] = ("first token", self.request.clocks.first_token_s)
        self._heard_at = self.started_at
        self._timer = self._loop.call_later(self._clock[1], self._check_clock)

    # What the serving side's news do to it.

    def take_status(self, status: RemoteInferenceStatus) -> None:
        """The request waits, or its model loads, or it runs."""
        clocks = self.request.clocks
        self.status, self._status_taken = status, False
        # Each clock starts once: a host that says the same again and again must not hold its asker for ever.
        phase = 1 if status.state == "queued" else 2
        if phase > self._phase:
            self._phase = phase
            if phase == 1:
                self._set_clock("queue", clocks.queue_s)
            else:
                self._set_clock("first token", clocks.first_token_s)
        self._wake()

    def take_progress(self, status: RemoteInferenceStatus) -> None:
        """This machine itself fetches the model, which is no silence: the clock starts anew. Not for a host's word."""
        self._heard_at = time.monotonic()
        self.take_status(status)

    def wait_for_link(self, note: str) -> None:
        """The link broke: whoever tries to get it back ends the wait, and no clock of ours runs meanwhile."""
        self.away = True
        self._timer.cancel()
        self.status = RemoteInferenceStatus(self.request.request_id, "running", note=note[:256])
        self._status_taken = False
        self._wake()

    def link_is_back(self) -> None:
        """The clock that ran starts anew; but a host must not hold its asker by coming back for ever."""
        self._returns = self._returns + 1 if self.pieces == self._pieces_at_return else 1
        self._pieces_at_return = self.pieces
        if self._returns > RETURNS_LIMIT:
            self.fail(PeerLost(f"The connection to {self.host_name} breaks again and again, and no text comes."), True)
            return
        self.away = False
        self._heard_at = time.monotonic()
        self._timer = self._loop.call_later(self._clock[1], self._check_clock)

    def take_delta(self, text: str, thinking: str) -> None:
        """The next piece came; one without text is no sign of life."""
        if not text and not thinking:
            return
        self.pieces += 1
        self._chars += len(text) + len(thinking)
        if self._chars > ANSWER_LIMIT_CHARS:
            self.fail(
                InferenceError(f"{self.host_name} sent more than {ANSWER_LIMIT_CHARS:,} characters; cut off."), True
            )
            return
        if self._first_token_at is None:
            self._first_token_at = time.monotonic()
        if text:
            self._text.append(text)
        if thinking:
            self._thinking.append(thinking)
        if self._clock[0] == "idle":
            self._heard_at = time.monotonic()
        else:
            # A host sends no status with its first text: the text says that the request runs.
            self.status = RemoteInferenceStatus(self.request.request_id, "running")
            self._phase = 2
            self._set_clock("idle", self.request.clocks.idle_s)
        self._wake()

    def finish(self, outcome: Outcome) -> None:
        """The serving side closed the request."""
        if outcome.text is not None and not self._text:
            self.take_delta(outcome.text, outcome.thinking or "")
        if outcome.text_sha256 is not None:
            digest = hashlib.sha256("".join(self._text).encode("utf-8", "surrogatepass")).hexdigest()
            if digest != outcome.text_sha256:
                self.fail(InferenceError(f"Part of the answer from {self.host_name} was lost on the way. Ask again."))
                return
        self._outcome = outcome
        self._end()

    def fail(self, error: DpcError, tell_host: bool = False) -> None:
        """The request ended without its whole answer."""
        if self.done:
            return
        self.error = error
        self._end()
        if tell_host:
            self.abort()

    def cancel(self) -> None:
        """Stop; the partial text stays."""
        self.fail(RequestCancelled(f"Stopped; {self.host_name} was told to free its slot."), tell_host=True)

    # What a reader sees.

    async def __aiter__(self) -> AsyncIterator[RemoteInferenceStatus | TextDelta]:
        # A generator, because Python closes one when its loop is left early.
        try:
            while (item := await self._next()) is not None:
                yield item
        finally:
            self.cancel()

    async def _next(self) -> RemoteInferenceStatus | TextDelta | None:
        while True:
            if self._taken != (len(self._text), len(self._thinking)):
                text, thinking = self._taken
                self._taken = (len(self._text), len(self._thinking))
                return TextDelta("".join(self._text[text:]), "".join(self._thinking[thinking:]))
            if not self._status_taken and self.status is not None and not self.done:
                self._status_taken = True
                return self.status
            if self.done:
                if self.error is not None:
                    raise self.error
                return None
            self._waiter = self._loop.create_future()
            await self._waiter

    async def aclose(self) -> None:
        """Stop reading; an open request is cancelled."""
        self.cancel()

    async def complete(self) -> Answer:
        """Wait for the whole answer.

        Raises
        ------
        DpcError
            As the iteration does.
        """
        try:
            async for _ in self:
                pass
        except DpcError as error:
            error.partial = self.answer
            raise
        return self.answer

    @property
    def model(self) -> str:
        """The model that answers, as far as it is known."""
        return self._outcome.model or self.request.model or self.expected[0]

    @property
    def answer(self) -> Answer:
        """What has come so far, or all of it."""
        outcome, usage = self._outcome, self._outcome.usage
        ended = self._ended_at or time.monotonic()
        first = None if self.collected else self._first_token_at
        rate = None
        if first is not None and usage.response_tokens is not None and usage.response_tokens > 1 and ended > first:
            rate = (usage.response_tokens - 1) / (ended - first)
        reason = outcome.finish_reason
        if self.error is not None:
            reason = "cancelled" if isinstance(self.error, RequestCancelled) else "error"
        return Answer(
            text="".join(self._text),
            thinking="".join(self._thinking),
            host=self.host,
            host_name=self.host_name,
            request_id=self.request.request_id,
            model=self.model,
            provider=outcome.provider or self.request.provider or self.expected[1],
            usage=usage,
            timings=AnswerTimings(
                outcome.queue_s, None if first is None else first - self.started_at, ended - self.started_at, rate
            ),
            finish_reason=reason,
            model_digest=outcome.model_digest,
            options=self.request.options,
            error=None if self.error is None else str(self.error),
            collected=self.collected,
        )

    def _end(self) -> None:
        if not self.done:
            self.done = True
            self._ended_at = time.monotonic()
            self._timer.cancel()
            self.closed(self)
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _set_clock(self, name: str, limit_s: float) -> None:
        shorter = limit_s < self._clock[1]
        self._clock, self._heard_at = (name, limit_s), time.monotonic()
        if shorter:
            self._timer.cancel()
            self._timer = self._loop.call_later(limit_s, self._check_clock)

    def _check_clock(self) -> None:
        # One timer that looks when it fires, instead of one re-armed for every token.
        name, limit_s = self._clock
        left = self._heard_at + limit_s - time.monotonic()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check_clock)
            return
        what = {
            "queue": "still in line",
            "first token": "no first token",
            "idle": "no further token",
        }[name]
        self.fail(
            InferenceTimeout(f"Inference request timed out after {limit_s:g}s: {what} from {self.host_name}."),
            tell_host=True,
        )
