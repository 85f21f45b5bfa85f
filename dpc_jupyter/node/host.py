"""The serving side: resolve, authorise, take a place, stream, note. Nothing else touches a peer's prompt."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import time
from collections.abc import Callable, Hashable
from contextlib import aclosing
from dataclasses import dataclass, field

from msgspec import UNSET

from dpc_jupyter.backends.base import Backend, Finished, Generation, ModelInfo
from dpc_jupyter.backends.registry import Registry
from dpc_jupyter.errors import (
    AccessDenied,
    BackendError,
    Busy,
    ConfigError,
    DpcError,
    InferenceError,
    InvalidRequest,
    LocalProtocolError,
    PeerLost,
    RequestCancelled,
    Revoked,
)
from dpc_jupyter.firewall import Rules
from dpc_jupyter.ledger import Entry, Ledger
from dpc_jupyter.node.peer import Peer
from dpc_jupyter.protocol.messages import (
    ChatMessage,
    ProviderInfo,
    RemoteInferenceChunk,
    RemoteInferenceRequest,
    RemoteInferenceResponse,
    RemoteInferenceStatus,
    Timings,
)
from dpc_jupyter.scheduling import FairQueue, Queued, Refused

# Requests of one link that are open in any state, before its limits are even looked up. HTTP/2 servers allow 100.
OPEN_LIMIT = 64
# Text of one request that waits for a slow reader; beyond it the engine is made to wait.
OUTBOX_CHARS = 32 * 1024
# An engine that never makes the loop wait must still let tokens out, and everyone else in.
TURN_S = 0.001
# A peer that answers PING but reads nothing of its answer must not hold a slot; as long as its own idle clock.
READ_STALL_S = 60.0
DENIED = "Access denied: You are not authorized to request inference"


@dataclass(eq=False)
class _Serving:
    """One request from a peer while it is open, and its outbox."""

    peer: Peer
    request: RemoteInferenceRequest
    arrived_at: float
    model: str = ""
    provider: str = ""
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
    next_index: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    news: RemoteInferenceStatus | None = None

    def __post_init__(self) -> None:
        self.streams = self.request.stream and self.peer.extended

    def add(self, text: str, thinking: str) -> None:
        text, thinking = _encodable(text), _encodable(thinking)
        if text:
            self.text.append(text)
        if thinking:
            self.thinking.append(thinking)
        self.pending_chars += len(text) + len(thinking)
        if self.streams:
            self.peer.send_when_room(self)

    def emit(self) -> None:
        """One chunk of all that has come since the last; in slices if an engine sent more than a frame holds."""
        text, thinking = "".join(self.text), "".join(self.thinking)
        if self.news is not None and not text and not thinking:
            self.peer.send(self.news)
        self.news = None  # text says by itself that the request runs
        self.text.clear()
        self.thinking.clear()
        self.pending_chars = 0
        self.digest.update(text.encode())
        while text or thinking:
            piece, text = text[:OUTBOX_CHARS], text[OUTBOX_CHARS:]
            thought, thinking = thinking[:OUTBOX_CHARS], thinking[OUTBOX_CHARS:]
            self.peer.send(RemoteInferenceChunk(self.request.request_id, self.next_index, piece, thought))
            self.next_index += 1

    def tell(self, news: RemoteInferenceStatus) -> None:
        """Send where the request stands at the end of this turn, unless text comes first."""
        self.state = news.state
        if self.streams:
            self.news = news
            self.peer.send_when_room(self)


class Host:
    """Serves the requests of peers.

    Parameters
    ----------
    registry : Registry
        The engines.
    ledger : Ledger
        Where each request is noted when it ends.
    rules : callable
        The rules in force now.
    refused : callable
        Told of an unknown node that asked: ``(peer, model)``.
    """

    def __init__(
        self,
        registry: Registry,
        ledger: Ledger,
        rules: Callable[[], Rules],
        refused: Callable[[Peer, str], None],
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._rules = rules
        self._refused = refused
        self._queue = FairQueue(time.monotonic)
        self._open: dict[tuple[Peer, str], _Serving] = {}
        self._open_of: dict[Peer, int] = {}

    @property
    def servings(self) -> list[_Serving]:
        """Every open request, oldest first."""
        return list(self._open.values())

    async def offers_for(self, node_id: str) -> tuple[ProviderInfo, ...]:
        """The models that this node may use now; empty without permission."""
        return tuple(
            ProviderInfo(
                alias=backend.alias,
                model=model.name,
                type=backend.type,
                supports_vision=model.supports_vision,
                context_window=model.context_window,
                warm=model.warm,
            )
            for backend, model in await self._allowed(node_id)
        )

    async def _allowed(self, node_id: str) -> list[tuple[Backend, ModelInfo]]:
        rules, now = self._rules(), dt.datetime.now(dt.UTC)
        if not rules.is_known(node_id, now):
            return []
        offers = await self._registry.offers()
        return [offer for offer in offers if rules.can_request_inference(node_id, offer[1].name, now)]

    def take_request(self, peer: Peer, request: RemoteInferenceRequest) -> None:
        """A peer asks. Every request gets exactly one response, unless its link ends first."""
        key = (peer, request.request_id)
        if key in self._open:
            # Request ids are idempotent: the first one is still being answered.
            return
        if self._open_of.get(peer, 0) >= OPEN_LIMIT:
            self.refuse(peer, request.request_id, Busy(f"Busy: {OPEN_LIMIT} requests of yours are open at this host."))
            return
        serving = _Serving(peer, request, time.monotonic())
        self._open[key] = serving
        self._open_of[peer] = self._open_of.get(peer, 0) + 1
        serving.task = asyncio.get_running_loop().create_task(self._serve(serving))
        # Not a `finally` in the task: one that is cancelled before its first step never runs its body.
        serving.task.add_done_callback(lambda task: self._ended(serving, task))

    def refuse(self, peer: Peer, request_id: str, error: DpcError) -> None:
        """Answer a request with an error, at once."""
        peer.send(
            RemoteInferenceResponse(request_id=request_id, status="error", error=error.sentence[:4096], code=error.code)
        )

    def cancel(self, peer: Peer, request_id: str) -> None:
        """The asker wants no more of it."""
        serving = self._open.get((peer, request_id))
        if serving is not None:
            self._stop(serving, RequestCancelled("Stopped by the asker."))

    def peer_closed(self, peer: Peer) -> None:
        """Stop everything that this link had open."""
        for serving in self.servings:
            if serving.peer is peer:
                self._stop(serving, PeerLost("The asker's connection ended."))

    def reconsider(self) -> None:
        """The rules or the date may have changed: stop what is no longer allowed, and apply the limits to the rest."""
        rules, now = self._rules(), dt.datetime.now(dt.UTC)
        for serving in self.servings:
            if serving.model and not rules.can_request_inference(serving.peer.node_id, serving.model, now):
                self._stop(serving, Revoked("The host's owner has withdrawn the permission for this request."))
        for node_id in {serving.peer.node_id for serving in self._open.values()}:
            self._may_start(self._queue.relimit(node_id, rules.limits_for(node_id)))

    def _may_start(self, started: list[Hashable]) -> None:
        for serving in started:
            assert isinstance(serving, _Serving)
            serving.may_start.set()

    async def stop(self) -> None:
        """Stop every request, and wait until each engine has let go."""
        tasks = [serving.task for serving in self.servings if serving.task is not None]
        for serving in self.servings:
            self._stop(serving, RequestCancelled("The host is shutting down."))
        await asyncio.gather(*tasks, return_exceptions=True)

    def _stop(self, serving: _Serving, cause: DpcError) -> None:
        if serving.cause is None and serving.task is not None:
            serving.cause = cause
            serving.task.cancel()

    async def _serve(self, serving: _Serving) -> None:
        request, peer = serving.request, serving.peer
        backend, model = await self._resolve(peer, request)
        serving.model, serving.provider, serving.context_window = model.name, backend.alias, model.context_window
        generation = Generation(model.name, _conversation(request, model), request.options.clamped())
        await self._take_place(serving, backend)
        serving.started_at = time.monotonic()
        loading = model.warm is False
        serving.tell(RemoteInferenceStatus(request.request_id, "loading" if loading else "running"))
        # Named after the resolved model is known: an edit made while it waited counts.
        self._authorise(peer.node_id, model.name)
        turn_began = serving.started_at
        async with aclosing(backend.stream(generation)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    serving.finished = event
                    break
                loop_turned = not serving.pending_chars
                serving.add(event.text, event.thinking)
                now = time.monotonic()
                if serving.first_token_at is None:
                    serving.first_token_at = now
                    serving.state = "running"
                if loop_turned:
                    turn_began = now
                elif now - turn_began > TURN_S or serving.pending_chars > OUTBOX_CHARS:
                    await asyncio.sleep(0)
                    await self._room(peer)
        if serving.streams:
            await self._room(peer)
        # Here and not in the callback, which runs a turn later: the last text and the response leave together.
        self._close(serving, serving.cause)

    async def _room(self, peer: Peer) -> None:
        try:
            async with asyncio.timeout(READ_STALL_S):
                await peer.room()
        except TimeoutError:
            peer.abort("it does not read what it asks for")

    async def _resolve(self, peer: Peer, request: RemoteInferenceRequest) -> tuple[Backend, ModelInfo]:
        """The engine and model that would run, if this peer may use them (never the words of the request alone)."""
        rules, now = self._rules(), dt.datetime.now(dt.UTC)
        if not rules.is_known(peer.node_id, now):
            self._refused(peer, request.model or "")
            raise AccessDenied(DENIED)
        if request.model is None:
            for backend, model in await self._allowed(peer.node_id):
                if request.provider in (None, backend.alias):
                    return backend, model
            raise AccessDenied(DENIED if request.provider is None else f"{DENIED} from provider {request.provider}")
        if not rules.can_request_inference(peer.node_id, request.model, now):
            raise AccessDenied(f"{DENIED} for model {request.model}")
        found = await self._registry.resolve(request.model, request.provider)
        self._authorise(peer.node_id, found[1].name)
        return found

    def _authorise(self, node_id: str, model: str) -> None:
        if not self._rules().can_request_inference(node_id, model, dt.datetime.now(dt.UTC)):
            raise AccessDenied(f"{DENIED} for model {model}")

    async def _take_place(self, serving: _Serving, backend: Backend) -> None:
        node_id = serving.peer.node_id
        limits = self._rules().limits_for(node_id)
        used = 0
        if limits.tokens_per_day is not None:
            try:
                used = await asyncio.to_thread(self._ledger.tokens_today, node_id, time.time())
            except ConfigError as error:
                # Its sentence names a path of this machine, which is the owner's to read in the status.
                raise Busy("Busy: this host cannot count your daily tokens now; tell its owner.") from error
        place = self._queue.submit(
            serving,
            node_id,
            backend.alias,
            slots=backend.slots,
            limits=limits,
            tokens_today=used,
            priority=serving.request.priority,
        )
        if isinstance(place, Refused):
            serving.state = "refused"
            raise Busy(place.reason)
        if isinstance(place, Queued):
            self._tell_position(serving, place.position, place.eta_s)
            await serving.may_start.wait()

    def _tell_position(self, serving: _Serving, position: int, eta_s: float | None) -> None:
        serving.state, moved = "queued", serving.position != position
        serving.position = position
        if moved:
            serving.tell(RemoteInferenceStatus(serving.request.request_id, "queued", position, eta_s))

    def _tell_positions(self) -> None:
        for waiting, place in self._queue.positions().items():
            assert isinstance(waiting, _Serving)
            self._tell_position(waiting, place.position, place.eta_s)

    def _ended(self, serving: _Serving, task: asyncio.Task[None]) -> None:
        if self._open.get((serving.peer, serving.request.request_id)) is serving:
            self._close(serving, _error_of(serving, task))

    def _close(self, serving: _Serving, error: DpcError | None) -> None:
        """Free the slot, respond, and note it: the one end of every request."""
        peer, request_id = serving.peer, serving.request.request_id
        del self._open[peer, request_id]
        self._open_of[peer] -= 1
        if not self._open_of[peer]:
            del self._open_of[peer]
        self._may_start(self._queue.finish(serving))
        if serving.state not in ("resolving", "refused"):
            self._tell_positions()
        now = time.monotonic()
        timings = Timings(
            queue_s=(serving.started_at or now) - serving.arrived_at,
            first_token_s=None if serving.first_token_at is None else serving.first_token_at - serving.arrived_at,
            total_s=now - serving.arrived_at,
        )
        if not peer.closed:
            self._respond(serving, error, timings)
        self._ledger.record(
            Entry(
                id=request_id,
                role="host",
                peer=peer.node_id,
                model=serving.model or serving.request.model or "",
                provider=serving.provider,
                started_at=time.time() - timings.total_s,
                queue_s=timings.queue_s,
                first_token_s=timings.first_token_s,
                total_s=timings.total_s,
                prompt_tokens=serving.finished.prompt_tokens,
                response_tokens=serving.finished.response_tokens,
                outcome="ok" if error is None else error.code,
            )
        )

    def _respond(self, serving: _Serving, error: DpcError | None, timings: Timings) -> None:
        peer, request_id = serving.peer, serving.request.request_id
        if serving.streams:
            serving.emit()
        if error is not None:
            self.refuse(peer, request_id, error)
            return
        done = serving.finished
        response = RemoteInferenceResponse(
            request_id=request_id,
            status="success",
            response=UNSET if serving.streams else "".join(serving.text),
            thinking="".join(serving.thinking) or None,
            text_sha256=serving.digest.hexdigest() if serving.streams else None,
            model=serving.model,
            provider=serving.provider,
            prompt_tokens=done.prompt_tokens,
            response_tokens=done.response_tokens,
            tokens_used=(done.prompt_tokens or 0) + (done.response_tokens or 0),
            model_max_tokens=serving.context_window,
            finish_reason=done.finish_reason,
            model_digest=done.digest,
            timings=timings,
        )
        try:
            peer.send(response)
        except LocalProtocolError as too_large:
            self.refuse(peer, request_id, InvalidRequest(f"The answer is too large for one message: {too_large}"))


def _error_of(serving: _Serving, task: asyncio.Task[None]) -> DpcError | None:
    if serving.cause is not None:
        return serving.cause
    error = BackendError("The engine gave up on this request.") if task.cancelled() else task.exception()
    if error is None or isinstance(error, InferenceError):
        return error
    # A bug of ours or of an engine's client: its type may be told, its text may quote the prompt.
    return BackendError(f"The host failed with {type(error).__name__}; its owner can look at its log.")


def _encodable(text: str) -> str:
    """An engine that cuts a character in two must not end the answer: half a surrogate pair becomes ``?``."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _conversation(request: RemoteInferenceRequest, model: ModelInfo) -> tuple[ChatMessage, ...]:
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
