"""Silence: separate clocks for the queue, the first token and the pauses between tokens, and for the link itself."""

from __future__ import annotations

import asyncio
import time

import pytest

from dpc_jupyter.errors import InferenceTimeout
from dpc_jupyter.node.links import liveness
from dpc_jupyter.protocol.messages import RemoteInferenceChunk, RemoteInferenceStatus
from node.conftest import MakePair, Pair
from node.stub import PIECE, StubEngine
from node.waiting import until


@pytest.mark.parametrize(("free", "what"), [(0, "no first token from anna"), (1, "no further token from anna")])
async def test_silence_of_the_model_ends_the_request_and_frees_the_slot(allowed: Pair, free: int, what: str) -> None:
    allowed.engine.hold(free)
    stream = allowed.ask(timeout_s=0.1)
    with pytest.raises(InferenceTimeout, match=rf"^Inference request timed out after 0\.1s: {what}\.$"):
        await stream.complete()
    assert stream.answer.text == PIECE * free
    assert await until(lambda: not allowed.engine.running) < 1


async def test_waiting_in_line_has_a_clock_of_its_own(make_pair: MakePair) -> None:
    pair = await make_pair(StubEngine(slots=1))
    pair.engine.hold()
    running = await pair.started()
    waiting = pair.ask(queue_timeout_s=0.1)
    with pytest.raises(InferenceTimeout, match="still in line"):
        await waiting.complete()
    await until(lambda: len(pair.host.status().serving) == 1)
    pair.engine.gate.set()
    await running.complete()


async def test_time_in_the_queue_is_not_held_against_the_model(make_pair: MakePair) -> None:
    pair = await make_pair(StubEngine(slots=1))
    pair.engine.hold()
    running = await pair.started()
    waiting = pair.ask(timeout_s=0.3)
    began = time.monotonic()
    await until(lambda: time.monotonic() - began > 0.6)
    pair.engine.gate.set()
    answer = await waiting.complete()
    await running.complete()
    assert answer.timings.queue_s >= 0.5


async def test_a_slow_model_is_not_cut_while_tokens_come(allowed: Pair) -> None:
    allowed.engine.tokens, allowed.engine.pause_s = 8, 0.1
    assert (await allowed.ask(timeout_s=0.5).complete()).text == PIECE * 8


@pytest.fixture
def fast_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "PING_EVERY_S", 0.05)
    monkeypatch.setattr(liveness, "SILENCE_S", 0.3)


async def test_a_quiet_link_stays_and_its_round_trip_is_known(fast_pings: None, allowed: Pair) -> None:
    began = time.monotonic()
    await until(lambda: time.monotonic() - began > 0.6)
    (peer,) = allowed.asker.peers()
    assert peer.rtt_s is not None
    assert 0 <= peer.rtt_s < 1


async def test_a_silent_peer_is_dropped_and_its_requests_wait_for_it(fast_pings: None, allowed: Pair) -> None:
    allowed.engine.hold()
    await allowed.started()
    allowed.asker_link._stream._transport.pause_reading()  # type: ignore[attr-defined]
    allowed.asker_link._timer.cancel()  # type: ignore[union-attr]
    await until(lambda: not allowed.host.peers(), within_s=2)
    assert [serving.lost_at is not None for serving in allowed.host._rooms.host.servings] == [True]  # it may come back


async def test_our_own_stall_is_not_taken_for_silence_of_the_peer(fast_pings: None, allowed: Pair) -> None:
    link = allowed.asker_link
    time.sleep(0.5)  # noqa: ASYNC251 - a cell that holds the interpreter lock
    assert (await allowed.ask().complete()).text == PIECE * 4
    assert allowed.asker_link is link


async def test_a_host_that_says_nothing_new_again_and_again_holds_nobody(allowed: Pair) -> None:
    allowed.engine.hold(0)
    stream = allowed.ask(timeout_s=0.3)
    began = time.monotonic()
    for index in range(100):
        if stream.done:
            break
        allowed.host_link.send(RemoteInferenceStatus(stream.request.request_id, "running"))
        allowed.host_link.send(RemoteInferenceChunk(stream.request.request_id, index))
        await asyncio.sleep(0.02)
    assert time.monotonic() - began < 1
    assert isinstance(stream.error, InferenceTimeout)
