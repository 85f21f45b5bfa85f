"""The asking side: what comes of one question, piece by piece."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from dpc_jupyter.errors import InferenceError, InvalidRequest, PeerNotConnected, RequestCancelled
from dpc_jupyter.node.asking import answer as answer_module
from dpc_jupyter.node.asking.answer import TextDelta
from dpc_jupyter.protocol.messages import Options, RemoteInferenceChunk, RemoteInferenceStatus
from node.conftest import MakePair, Pair
from node.stub import PIECE, StubEngine
from node.waiting import until


async def test_an_answer_streams_piece_by_piece(allowed: Pair) -> None:
    allowed.engine.pause_s = 0.02
    pieces = [item.text async for item in allowed.ask() if isinstance(item, TextDelta)]
    assert len(pieces) > 1
    assert "".join(pieces) == PIECE * 4


async def test_a_whole_answer_says_what_ran_where_and_at_what_cost(allowed: Pair) -> None:
    answer = await allowed.asker.send_ai_query("hello", allowed.host_id, model="stub-2")
    assert answer.text == str(answer) == PIECE * 4
    assert (answer.host, answer.model, answer.provider) == (allowed.host_id, "stub-2", "stub")
    assert (answer.usage.prompt_tokens, answer.usage.response_tokens) == (7, 4)
    assert (answer.finish_reason, answer.error) == ("stop", None)
    assert answer.timings.first_token_s is not None
    assert 0 < answer.timings.first_token_s <= answer.timings.total_s


async def test_thinking_is_kept_apart_from_the_answer(make_pair: MakePair) -> None:
    pair = await make_pair(StubEngine(thinking="hmm"))
    answer = await pair.ask().complete()
    assert (answer.thinking, answer.text) == ("hmm", PIECE * 4)


async def first_status(pair: Pair) -> str:
    async for item in pair.ask():
        assert isinstance(item, RemoteInferenceStatus)
        return item.state
    raise AssertionError("nothing came")


async def test_the_first_status_says_that_the_model_runs(allowed: Pair) -> None:
    allowed.engine.hold(0)
    assert await first_status(allowed) == "running"


async def test_a_cold_model_is_said_to_be_loading(make_pair: MakePair) -> None:
    pair = await make_pair(StubEngine(warm=False))
    pair.engine.hold(0)
    assert await first_status(pair) == "loading"


async def test_a_conversation_arrives_turn_by_turn(allowed: Pair) -> None:
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    await allowed.ask("three", system="be brief", messages=turns, options={"seed": 7}).complete()
    asked = allowed.engine.seen[0]
    assert [(turn.role, turn.content) for turn in asked.messages] == [
        ("system", "be brief"),
        ("user", "one"),
        ("assistant", "two"),
        ("user", "three"),
    ]
    assert asked.options.seed == 7


async def test_a_gap_in_the_chunks_fails_the_answer_and_frees_the_slot(allowed: Pair) -> None:
    allowed.engine.hold()
    stream = await allowed.started()
    lost = RemoteInferenceChunk(stream.request.request_id, 5, "later")
    allowed.asker._rooms.requester.take_chunk(allowed.asker_link, lost)
    with pytest.raises(InferenceError, match="was lost on the way"):
        await stream.complete()
    assert stream.answer.text == PIECE
    await until(lambda: not allowed.engine.running)


async def test_a_text_that_does_not_match_its_hash_is_not_taken_for_whole(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed.engine.hold()
    stream = await allowed.started()
    stream._text[0] = "forged"
    allowed.engine.gate.set()
    with pytest.raises(InferenceError, match="was lost on the way"):
        await stream.complete()


async def test_an_endless_answer_is_cut_and_the_host_told(allowed: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_module, "ANSWER_LIMIT_CHARS", 1000)
    allowed.engine.texts = ("x" * 400,) * 10_000
    stream = allowed.ask()
    with pytest.raises(InferenceError, match=r"sent more than 1,000 characters"):
        await stream.complete()
    assert len(stream.answer.text) <= 1000
    await until(lambda: not allowed.engine.running)
    assert allowed.engine.produced < 10_000


async def cancelled(pair: Pair, how: str) -> None:
    if how == "aclose":
        await (await pair.started()).aclose()
    elif how == "leaving the loop":
        async for item in pair.ask():
            if isinstance(item, TextDelta):
                break
    elif how == "an error in the loop":
        with contextlib.suppress(ZeroDivisionError):
            async for item in pair.ask():
                if isinstance(item, TextDelta):
                    raise ZeroDivisionError
    else:
        task = asyncio.create_task(pair.asker.send_ai_query("hello", pair.host_id))
        await until(lambda: pair.engine.produced)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("how", ["aclose", "leaving the loop", "an error in the loop", "cancelling the task"])
async def test_a_stopped_request_frees_the_slot_within_100_ms(allowed: Pair, how: str) -> None:
    allowed.engine.hold()
    await cancelled(allowed, how)
    assert await until(lambda: not allowed.engine.running) < 1
    await until(lambda: not allowed.host.status().serving)
    await until(lambda: not allowed.asker.status().asking)


async def test_partial_text_is_kept_when_the_asker_stops(allowed: Pair) -> None:
    allowed.engine.hold(2)
    stream = await allowed.started()
    await until(lambda: stream.answer.text == PIECE * 2)
    stream.cancel()
    with pytest.raises(RequestCancelled):
        await stream.complete()
    answer = stream.answer
    assert (answer.text, answer.finish_reason) == (PIECE * 2, "cancelled")
    assert answer.error is not None


async def test_stopping_twice_does_no_harm_and_a_finished_answer_stays_whole(allowed: Pair) -> None:
    stream = allowed.ask()
    answer = await stream.complete()
    stream.cancel()
    await stream.aclose()
    assert stream.answer == answer
    assert answer.finish_reason == "stop"


async def test_a_failed_request_carries_its_partial_answer(allowed: Pair) -> None:
    allowed.engine.error = ValueError("boom")
    with pytest.raises(InferenceError) as failed:
        await allowed.asker.send_ai_query("hello", allowed.host_id)
    assert failed.value.partial.text == PIECE * 4  # type: ignore[attr-defined]


async def test_an_unknown_option_is_refused_by_name_and_nothing_is_sent(allowed: Pair) -> None:
    with pytest.raises(InvalidRequest, match=r"`warp`.*Known here: temperature"):
        allowed.ask(options={"warp": 9})
    assert not allowed.asker.status().asking


@pytest.mark.parametrize("image", [{"path": "/etc/passwd"}, {"base64": "AA==", "mime_type": "image/png", "url": "x"}])
async def test_an_image_is_only_base64(allowed: Pair, image: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match=r"unknown field|missing required field"):
        allowed.ask(images=[image])


@pytest.mark.parametrize("prompt", ["", "  \n"])
async def test_an_empty_prompt_is_refused(allowed: Pair, prompt: str) -> None:
    with pytest.raises(InvalidRequest, match="prompt is empty"):
        allowed.ask(prompt, system="be brief")


async def test_a_prompt_over_a_frame_is_refused_before_it_is_sent(allowed: Pair) -> None:
    with pytest.raises(InvalidRequest, match="Shorten the prompt"):
        allowed.ask("x" * 1_100_000)
    assert (await allowed.ask().complete()).text


async def test_a_prompt_with_half_a_character_is_refused_and_the_link_lives(allowed: Pair) -> None:
    with pytest.raises(InvalidRequest):
        allowed.ask("half \ud800")
    assert (await allowed.ask().complete()).text


async def test_an_unknown_host_is_named_with_the_fix(allowed: Pair) -> None:
    with pytest.raises(PeerNotConnected, match=r"Nobody is known as carol\. Known: anna\."):
        allowed.asker.execute_ai_query("hello", "carol")


async def test_options_out_of_range_are_clamped_by_the_host(allowed: Pair) -> None:
    await allowed.ask(options=Options(max_tokens=10**9, temperature=50.0, top_k=0)).complete()
    options = allowed.engine.seen[0].options
    assert (options.max_tokens, options.temperature, options.top_k) == (32_768, 2, 1)
