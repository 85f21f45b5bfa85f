"""The serving side: resolve, authorise, take a place, stream, note. Nothing else touches a peer's prompt."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
import traceback
from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import aclosing

from dpc_jupyter.backends.base import Backend, Finished, Generation, ModelInfo
from dpc_jupyter.backends.registry import Registry
from dpc_jupyter.errors import (
    AccessDenied,
    AnswerGone,
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
from dpc_jupyter.ledger import Ledger
from dpc_jupyter.node.links import FRAME_BYTES, Peer
from dpc_jupyter.node.serving.kept import KeptAnswers
from dpc_jupyter.node.serving.served import OUTBOX_CHARS, Serving, conversation
from dpc_jupyter.protocol.framing import LIMIT_BYTES
from dpc_jupyter.protocol.messages import (
    DENIED,
    RESUME_WITHIN_S,
    Load,
    ProviderInfo,
    RemoteInferenceRequest,
    RemoteInferenceResponse,
    RemoteInferenceStatus,
)
from dpc_jupyter.scheduling import FairQueue, Queued, Refused

# Requests of one link that are open in any state, before its limits are even looked up. HTTP/2 servers allow 100.
OPEN_LIMIT = 64
# Of one node, over all of its links: as many prompts of a whole frame as a default access file lets wait.
OPEN_LIMIT_BYTES = 8 * 1024 * 1024
# An engine that never makes the loop wait must still let tokens out, and everyone else in.
TURN_S = 0.001
# A peer that answers PING but reads nothing of its answer must not hold a slot; as long as its own idle clock.
READ_STALL_S = 60.0
# For an asker to come back after its link broke, before others that wait may have its slot: dialling takes less.
AWAY_GRACE_S = 1.5
# Enough for an owner to see that a node is refused, and why.
REFUSALS_NOTED_PER_MINUTE = 60

_log = logging.getLogger(__name__)
_OWNERS_FIX = {"ollama": "its owner starts it with `ollama serve`"}


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
        self._open: dict[tuple[str, str], Serving] = {}
        self._kept = KeptAnswers(time.monotonic)
        self._open_of = Counter[Peer]()
        self._open_bytes_of = Counter[str]()
        self._stopping = False
        self._pieces = 0
        self._noted_in, self._noted = 0, Counter[str]()

    @property
    def pieces(self) -> int:
        """Pieces of text that peers got since the start."""
        return self._pieces + sum(serving.pieces for serving in self._open.values())

    def load(self) -> Load:
        """How busy this host is."""
        places = self._queue.positions().values()
        etas = [place.eta_s for place in places if place.eta_s is not None]
        running = sum(serving.started_at is not None for serving in self._open.values())
        return Load(running, len(places), max(etas, default=None))

    @property
    def servings(self) -> list[Serving]:
        """Every open request, oldest first."""
        return list(self._open.values())

    async def offers_for(self, node_id: str) -> tuple[ProviderInfo, ...]:
        """The models that this node may use now; empty without permission."""
        return tuple(provider_info(*offer) for offer in await self._allowed(node_id))

    def lets_in(self, node_id: str) -> bool:
        """Whether a node has any permission now."""
        return self._rules().is_known(node_id, dt.datetime.now(dt.UTC))

    async def _allowed(self, node_id: str) -> list[tuple[Backend, ModelInfo]]:
        rules, now = self._rules(), dt.datetime.now(dt.UTC)
        if not rules.is_known(node_id, now):
            return []
        offers = await self._registry.offers()
        return [offer for offer in offers if rules.can_request_inference(node_id, offer[1].name, now)]

    def take_request(self, peer: Peer, request: RemoteInferenceRequest) -> None:
        """A peer asks. Every request gets exactly one response, unless its link ends first."""
        key = (peer.node_id, request.request_id)
        # Request ids are idempotent: what is being answered, or was, is not run again.
        if (serving := self._open.get(key) or self._finished(*key)) is not None:
            if not serving.is_for(request):
                self.refuse(peer, request.request_id, InvalidRequest("Invalid request: its id was another question's."))
            elif serving.task is None or serving.peer is not peer:
                self.resume(peer, request.request_id, 0)
            return
        if self._stopping:
            self.refuse(peer, request.request_id, InferenceError("The host is shutting down."))
            return
        if self._rules().paused and self.lets_in(peer.node_id):
            self.refuse(peer, request.request_id, Busy("Busy: the host's owner has paused sharing; try again later."))
            return
        if self._open_of[peer] >= OPEN_LIMIT:
            self.refuse(peer, request.request_id, Busy(f"Busy: {OPEN_LIMIT} requests of yours are open at this host."))
            return
        serving = Serving(peer, request, time.monotonic())
        if self._open_bytes_of[peer.node_id] + serving.prompt_bytes > OPEN_LIMIT_BYTES:
            limit = f"{OPEN_LIMIT_BYTES >> 20} MiB of your prompts are open at this host"
            self.refuse(peer, request.request_id, Busy(f"Busy: {limit}; try again when one has finished."))
            return
        self._open_bytes_of[peer.node_id] += serving.prompt_bytes
        self._open[key] = serving
        self._open_of[peer] += 1
        serving.task = asyncio.get_running_loop().create_task(self._serve(serving))
        # Not a `finally` in the task: one that is cancelled before its first step never runs its body.
        serving.task.add_done_callback(lambda task: self._ended(serving, task))

    def refuse(self, peer: Peer, request_id: str, error: DpcError) -> None:
        """Answer a request with an error, at once."""
        peer.send(_failure(request_id, error))

    def resume(self, peer: Peer, request_id: str, next_index: int) -> None:
        """An asker is back on another link, and has the chunks before `next_index`."""
        key = (peer.node_id, request_id)
        # One that failed is told only to an asker who was there: whoever has nothing of it asks anew.
        serving = self._open.get(key) or (self._kept.get(*key) if next_index else self._finished(*key))
        if serving is None or not serving.streams:
            sentence = "This host has no such answer, or no more: it may have been restarted. Ask again."
            self.refuse(peer, request_id, AnswerGone(sentence))
        elif serving.model and not self._rules().can_request_inference(
            peer.node_id, serving.model, dt.datetime.now(dt.UTC)
        ):  # before its model is known it is not authorised yet
            self.refuse(peer, request_id, AccessDenied(DENIED))
        elif next_index > len(serving.said):
            self.refuse(peer, request_id, InvalidRequest("Invalid request: next_index is beyond what was said."))
        else:
            if key in self._open:
                self._count(serving.peer, -1)
                self._count(peer, 1)
            again = serving.said[next_index : serving.next_index]
            peer.spend(sum(len(chunk.text) + len(chunk.thinking) for chunk in again) / FRAME_BYTES)
            serving.attach(peer, next_index)

    def _finished(self, node_id: str, request_id: str) -> Serving | None:
        kept = self._kept.get(node_id, request_id)
        return kept if kept is not None and kept.cause is None else None

    def _count(self, peer: Peer, more: int) -> None:
        self._open_of[peer] += more
        if not self._open_of[peer]:
            del self._open_of[peer]

    def cancel(self, peer: Peer, request_id: str) -> None:
        """The asker wants no more of it."""
        serving = self._open.get((peer.node_id, request_id))
        if serving is not None:
            self._stop(serving, RequestCancelled("Stopped by the asker."))

    def peer_closed(self, peer: Peer) -> None:
        """Stop everything that this link had open; what its asker may come back for goes on."""
        for serving in self.servings:
            if serving.peer is peer:
                if peer.lost and peer.resumes and serving.streams:
                    serving.is_away()
                else:
                    self._stop(serving, PeerLost("The asker's connection ended."))

    def reconsider(self) -> None:
        """The rules or the date may have changed: stop what is no longer allowed, and apply the limits to the rest."""
        rules, now = self._rules(), dt.datetime.now(dt.UTC)
        self._kept.expire()
        self._reclaim()
        for serving in self.servings:
            if serving.model and not rules.can_request_inference(serving.peer.node_id, serving.model, now):
                self._stop(serving, Revoked("The host's owner has withdrawn the permission for this request."))
        for node_id in {serving.peer.node_id for serving in self._open.values()}:
            self._may_start(self._queue.relimit(node_id, rules.limits_for(node_id)))

    def _reclaim(self) -> None:
        """Nobody waits for the slot of an asker that is away; without others it runs on, for a while."""
        now = time.monotonic()
        waiting = [each for each in self.servings if each.state == "queued" and each.lost_at is None]
        wanted = {each.provider for each in waiting} | {each.peer.node_id for each in waiting}
        for serving in self.servings:
            if serving.lost_at is not None:
                patience_s = AWAY_GRACE_S if {serving.provider, serving.peer.node_id} & wanted else RESUME_WITHIN_S
                if now - serving.lost_at > patience_s:
                    self._stop(serving, PeerLost("The asker's connection ended, and it did not come back."))

    def _may_start(self, started: list[Hashable]) -> None:
        for serving in started:
            assert isinstance(serving, Serving)
            serving.may_start.set()

    async def stop(self) -> None:
        """Take no more requests, stop those that are open, and wait until each engine has let go."""
        self._stopping = True
        tasks = [serving.task for serving in self.servings if serving.task is not None]
        for serving in self.servings:
            self._stop(serving, InferenceError("The host is shutting down."))
        await asyncio.gather(*tasks, return_exceptions=True)
        self._kept.clear()

    def _stop(self, serving: Serving, cause: DpcError) -> None:
        if serving.cause is None and serving.task is not None:
            serving.cause = cause
            serving.task.cancel()

    async def _serve(self, serving: Serving) -> None:
        try:
            await self._answer(serving)
        except BackendError as error:
            # Written for the owner, with URLs and the engine's own words.
            _log.warning("%s", error.sentence)
            engine = serving.provider or serving.request.provider or "The engine"
            fix = _OWNERS_FIX.get(serving.engine_type, "its owner sees why with `dpc-jupyter doctor`")
            raise BackendError(f"{engine} at this host failed or is down: {fix}.") from None
        except InferenceError:
            raise
        except Exception as error:
            # An engine's or a client's bug. Its words may quote the prompt: where it happened is all that may be told.
            where = traceback.extract_tb(error.__traceback__)[-1]
            _log.error("%s in %s, line %d, ended a request", type(error).__name__, where.filename, where.lineno)
            sentence = f"The host failed with {type(error).__name__}; its owner finds the place in its log."
            raise BackendError(sentence) from None

    async def _answer(self, serving: Serving) -> None:
        request, peer = serving.request, serving.peer
        backend, model = await self._resolve(peer, request)
        serving.model, serving.provider, serving.context_window = model.name, backend.alias, model.context_window
        serving.engine_type, serving.warm = backend.type, model.warm

        def tell(news: str) -> None:
            if serving.task is not None and serving.first_token_at is None:  # a fetch goes on when its asker has gone
                serving.tell(RemoteInferenceStatus(request.request_id, "loading", note=news))

        generation = Generation(model.name, conversation(request, model), request.options.clamped(), tell)
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
                    turn_began = now
                    if serving.streams:
                        await self._room(serving)
                    elif serving.pending_chars > LIMIT_BYTES:
                        raise InvalidRequest("The answer is too large for one message: ask for fewer tokens.")
        if serving.streams:
            await self._room(serving)
        # Here and not in the callback, which runs a turn later: the last text and the response leave together.
        self._close(serving, serving.cause)

    async def _room(self, serving: Serving) -> None:
        if serving.peer.has_room:
            return
        try:
            async with asyncio.timeout(READ_STALL_S):
                await serving.wait_for_room()
        except TimeoutError:
            serving.peer.abort("it does not read what it asks for")

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
            if self._registry.reasons and not await self._registry.offers():
                raise BackendError("No engine answers now.")
            raise AccessDenied(DENIED if request.provider is None else f"{DENIED} from provider {request.provider}")
        if not rules.can_request_inference(peer.node_id, request.model, now):
            raise AccessDenied(f"{DENIED} for model {request.model}")
        found = await self._registry.resolve(request.model, request.provider)
        self._authorise(peer.node_id, found[1].name)
        return found

    def _authorise(self, node_id: str, model: str) -> None:
        if not self._rules().can_request_inference(node_id, model, dt.datetime.now(dt.UTC)):
            raise AccessDenied(f"{DENIED} for model {model}")

    async def _take_place(self, serving: Serving, backend: Backend) -> None:
        node_id = serving.peer.node_id
        limits = self._rules().limits_for(node_id)
        used = 0 if limits.tokens_per_day is None else await self._tokens_today(node_id)
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
            quota = self._rules().limits_for(node_id).tokens_per_day
            # Those that ran while this one waited count.
            if quota is not None and await self._tokens_today(node_id) >= quota:
                raise Busy(f"Busy: your daily quota of {quota:,} tokens used; it resets at 00:00 UTC")

    async def _tokens_today(self, node_id: str) -> int:
        try:
            return await asyncio.to_thread(self._ledger.tokens_today, node_id, time.time())
        except ConfigError as error:
            # Its sentence names a path of this machine, which is the owner's to read in the status.
            raise Busy("Busy: this host cannot count your daily tokens now; tell its owner.") from error

    def _tell_position(self, serving: Serving, position: int, eta_s: float | None) -> None:
        serving.state, moved = "queued", serving.position != position
        serving.position = position
        if moved:
            note = {True: "model warm", False: "model cold", None: ""}[serving.warm]
            serving.tell(RemoteInferenceStatus(serving.request.request_id, "queued", position, eta_s, note))

    def _tell_positions(self) -> None:
        for waiting, place in self._queue.positions().items():
            assert isinstance(waiting, Serving)
            self._tell_position(waiting, place.position, place.eta_s)

    def _ended(self, serving: Serving, task: asyncio.Task[None]) -> None:
        if self._open.get((serving.peer.node_id, serving.request.request_id)) is serving:
            self._close(serving, serving.error_of(task))

    def _close(self, serving: Serving, error: DpcError | None) -> None:
        """Free the slot, respond, and note it: the one end of every request."""
        peer = serving.peer
        del self._open[peer.node_id, serving.request.request_id]
        self._pieces += serving.pieces
        self._count(peer, -1)
        self._open_bytes_of[peer.node_id] -= serving.prompt_bytes
        if not self._open_bytes_of[peer.node_id]:
            del self._open_bytes_of[peer.node_id]
        self._may_start(self._queue.finish(serving))
        if serving.state not in ("resolving", "refused"):
            self._tell_positions()
        serving.end()
        serving.task = None  # its exception's traceback holds the frame that holds this: a cycle, with the prompt in it
        self._respond(serving, error)
        if serving.started_at is not None or self._may_note(peer.node_id):
            self._ledger.record(serving.entry(error))
        if serving.said and peer.resumes and not isinstance(error, RequestCancelled):
            serving.let_go()
            self._kept.add(peer.node_id, serving)

    def _may_note(self, node_id: str) -> bool:
        """Whether one more request that never ran is noted: a flood of refusals must not fill the disk."""
        minute = int(time.monotonic() // 60)
        if minute != self._noted_in:
            self._noted_in, self._noted = minute, Counter()
        # Keys are free to make: all strangers share one count.
        counted = node_id if self._rules().is_known(node_id, dt.datetime.now(dt.UTC)) else ""
        self._noted[counted] += 1
        return self._noted[counted] <= REFUSALS_NOTED_PER_MINUTE

    def _respond(self, serving: Serving, error: DpcError | None) -> None:
        request_id = serving.request.request_id
        if serving.streams:
            serving.emit()
            serving.close(serving.response() if error is None else _failure(request_id, error))
            return
        if error is not None:
            self.refuse(serving.peer, request_id, error)
            return
        try:
            serving.peer.send(serving.response())
        except LocalProtocolError as too_large:
            sentence = f"The answer is too large for one message: {too_large}"
            self.refuse(serving.peer, request_id, InvalidRequest(sentence))


def _failure(request_id: str, error: DpcError) -> RemoteInferenceResponse:
    return RemoteInferenceResponse(request_id=request_id, status="error", error=error.sentence[:4096], code=error.code)


def provider_info(backend: Backend, model: ModelInfo) -> ProviderInfo:
    """A model as the wire and every face show it."""
    return ProviderInfo(
        alias=backend.alias,
        model=model.name,
        type=backend.type,
        supports_vision=model.supports_vision,
        context_window=model.context_window,
        warm=model.warm,
    )
