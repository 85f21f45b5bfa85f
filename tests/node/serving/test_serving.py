"""The serving side: one request on its way through the host."""

from __future__ import annotations

import asyncio
import gc

import pytest

from dpc_jupyter.errors import BackendError, InferenceError, InvalidRequest, ModelNotFound, Revoked
from dpc_jupyter.node.asking import answer as answer_module
from dpc_jupyter.node.links.peer import Peer
from dpc_jupyter.node.serving import host as host_module
from dpc_jupyter.node.serving.served import OUTBOX_CHARS, Serving
from dpc_jupyter.protocol.messages import RemoteInferenceCancel, RemoteInferenceChunk, RemoteInferenceRequest
from node.conftest import MakePair, Pair
from node.inside import takes_of
from node.stub import PIECE, StubEngine
from node.waiting import until

PICTURE = {"base64": "AAAA", "mime_type": "image/png"}
TURN = {"role": "user", "content": "what is it?"}


async def test_queued_positions_go_down_until_the_request_runs(make_pair: MakePair) -> None:
    pair = await make_pair(StubEngine(slots=1), running=1)
    pair.engine.hold()
    first, second, third = [pair.ask() for _ in range(3)]
    seen: list[tuple[str, int | None]] = []

    async def follow() -> None:
        async for _ in third:
            for shown in pair.asker.status().asking[-1:]:
                if (shown.state, shown.position) not in seen:
                    seen.append((shown.state, shown.position))

    following = asyncio.create_task(follow())
    await until(lambda: ("queued", 2) in seen)
    first.cancel()
    await until(lambda: ("queued", 1) in seen)
    second.cancel()
    await until(lambda: ("running", None) in seen)
    pair.engine.gate.set()
    await following
    assert seen == [("queued", 2), ("queued", 1), ("running", None)]
    assert pair.engine.most_running == 1


async def test_tokens_that_come_while_the_link_is_busy_merge_into_few_chunks(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks: list[RemoteInferenceChunk] = []
    take_chunk = takes_of(allowed.asker)[RemoteInferenceChunk]

    def count(peer: Peer, chunk: RemoteInferenceChunk) -> None:
        chunks.append(chunk)
        take_chunk(peer, chunk)

    monkeypatch.setitem(takes_of(allowed.asker), RemoteInferenceChunk, count)
    allowed.engine.texts = ("x",) * 5000
    answer = await allowed.ask().complete()
    assert answer.text == "x" * 5000
    assert len(chunks) < 50
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))


async def test_an_engine_waits_for_a_peer_that_does_not_read_and_nothing_is_lost(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_module, "ANSWER_LIMIT_CHARS", 10**9)
    allowed.engine.texts = ("y" * 20_000,) * 2000  # 40 MB, far more than the kernel's socket buffers hold
    stream = await allowed.started()
    asker_end = allowed.asker_link._stream._transport  # type: ignore[attr-defined]
    asker_end.pause_reading()
    produced = -1
    while produced != allowed.engine.produced:
        produced = allowed.engine.produced
        await asyncio.sleep(0.2)
    assert produced < 1500
    (serving,) = allowed.host._rooms.host.servings
    assert serving.pending_chars <= OUTBOX_CHARS + 20_000
    assert allowed.host_link._stream.unsent_bytes() < 2**20
    asker_end.resume_reading()
    answer = await stream.complete()
    assert len(answer.text) == 40_000_000


async def test_a_peer_that_never_reads_again_loses_its_slot(allowed: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "READ_STALL_S", 0.3, raising=False)
    allowed.engine.texts = ("y" * 20_000,) * 2000
    await allowed.started()
    allowed.asker_link._stream._transport.pause_reading()  # type: ignore[attr-defined]
    await until(lambda: not allowed.engine.running, within_s=3)


async def test_an_engine_that_fails_is_named_to_the_asker_but_not_in_the_owners_words(allowed: Pair) -> None:
    allowed.engine.error = BackendError("Stub at http://user:password@10.0.0.1 said: /home/anna is full.")
    stream = allowed.ask()
    with pytest.raises(BackendError, match=r"^stub at this host failed or is down: its owner sees why"):
        await stream.complete()
    assert stream.answer.text == PIECE * 4


async def test_a_foreign_exception_does_not_leak_its_text(allowed: Pair) -> None:
    allowed.engine.error = RuntimeError("/home/anna/secret hello")
    with pytest.raises(BackendError) as failed:
        await allowed.ask().complete()
    assert "RuntimeError" in str(failed.value)
    assert "secret" not in str(failed.value)


async def test_an_engine_that_ends_without_a_last_word_closes_the_answer(allowed: Pair) -> None:
    allowed.engine.finishes = False
    answer = await allowed.ask().complete()
    assert (answer.text, answer.usage.response_tokens) == (PIECE * 4, None)


async def test_a_model_that_nobody_has_is_named(allowed: Pair) -> None:
    with pytest.raises(ModelNotFound, match="Model 'stub-9' not found"):
        await allowed.ask(model="stub-9").complete()


async def test_a_request_id_that_is_open_already_is_not_run_twice(allowed: Pair) -> None:
    allowed.engine.hold()
    stream = await allowed.started()
    again = RemoteInferenceRequest(request_id=stream.request.request_id, prompt="again", stream=True)
    allowed.asker_link.send(again)
    await allowed.wire(request_id="other", prompt="")  # answered after it
    allowed.engine.gate.set()
    assert len(allowed.engine.seen) == 1


async def test_an_answer_for_a_request_that_nobody_made_is_ignored(allowed: Pair) -> None:
    allowed.host_link.send(RemoteInferenceChunk("nobody", 0, "x"))
    allowed.asker_link.send(RemoteInferenceCancel("nobody"))
    assert (await allowed.ask().complete()).text == PIECE * 4


async def test_an_unknown_option_on_the_wire_is_refused_by_name(allowed: Pair) -> None:
    response = await allowed.wire(prompt="hello", options={"warp": 9})
    assert (response.status, response.code) == ("error", "invalid")
    assert "`warp`" in (response.error or "")


@pytest.mark.parametrize(
    "image",
    [
        {"path": "/etc/passwd"},
        {"path": "/etc/passwd", "base64": "AA==", "mime_type": "image/png"},
        {"url": "http://169.254.169.254/"},
        {"base64": "AA==", "mime_type": "text/html"},
    ],
)
async def test_an_image_on_the_wire_by_path_or_url_is_refused(allowed: Pair, image: dict[str, str]) -> None:
    response = await allowed.wire(prompt="hello", images=[image])
    assert (response.status, response.code) == ("error", "invalid")
    assert "passwd" not in (response.error or "")
    assert not allowed.engine.seen


async def test_a_picture_reaches_a_model_that_sees(make_pair: MakePair) -> None:
    pair = await make_pair(StubEngine(vision=True))
    await pair.ask("what is it?", images=[PICTURE]).complete()
    await pair.wire(prompt="and this?", images=[PICTURE | {"base64": "BBBB"}])  # as DPTP v1.5 asks
    assert [asked.messages[-1].images[0].base64 for asked in pair.engine.seen] == ["AAAA", "BBBB"]


async def test_a_picture_for_a_model_that_does_not_see_is_refused(allowed: Pair) -> None:
    with pytest.raises(InvalidRequest, match="stub-1 does not take images: choose a model with vision"):
        await allowed.ask("what is it?", images=[PICTURE]).complete()
    assert not allowed.engine.seen


@pytest.mark.parametrize("text", ["/etc/passwd", "file:///etc/passwd", "http://169.254.169.254/", "not base64"])
async def test_a_path_or_url_in_the_place_of_base64_is_refused(make_pair: MakePair, text: str) -> None:
    pair = await make_pair(StubEngine(vision=True))
    picture = PICTURE | {"base64": text}
    for shape in ({"images": [picture]}, {"messages": [TURN | {"images": [picture]}]}):
        response = await pair.wire(prompt="what is it?", **shape)
        assert (response.code, response.error) == (
            "invalid",
            "An image is not base64: send its bytes, never a path or URL.",
        )
    assert not pair.engine.seen


@pytest.mark.parametrize("asked", [{}, {"prompt": " "}, {"messages": [{"role": "user", "content": ""}]}])
async def test_an_empty_prompt_on_the_wire_is_refused(allowed: Pair, asked: dict[str, object]) -> None:
    response = await allowed.wire(**asked)
    assert (response.code, response.error) == ("invalid", "The prompt is empty: write a question.")
    assert not allowed.engine.seen


async def test_a_billion_tokens_are_clamped_and_a_missing_limit_is_set(allowed: Pair) -> None:
    await allowed.wire(prompt="hello", options={"max_tokens": 10**9})
    await allowed.wire(prompt="hello", request_id="wire-2")
    assert [asked.options.max_tokens for asked in allowed.engine.seen] == [32_768, 2_048]


async def test_an_engine_text_with_half_a_character_does_not_break_the_link(allowed: Pair) -> None:
    allowed.engine.texts = ("good ", "half \ud800", " end")
    answer = await allowed.ask().complete()
    assert answer.text.startswith("good half")
    assert answer.text.endswith(" end")


async def test_an_engine_that_swallows_the_stop_does_not_make_a_success_of_it(allowed: Pair) -> None:
    allowed.engine.stubborn = True
    allowed.engine.hold()
    stream = await allowed.started()
    allowed.host.access.deny("bob")
    with pytest.raises(Revoked):
        await stream.complete()


async def test_an_engine_that_is_down_is_not_taken_for_a_refusal(allowed: Pair) -> None:
    allowed.engine.list_error = BackendError("down")
    allowed.host._rooms.registry._fresh_s = -1
    with pytest.raises(BackendError, match="at this host failed or is down"):
        await allowed.ask().complete()


async def test_a_request_that_has_ended_leaves_memory_at_once(allowed: Pair) -> None:
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            with pytest.raises(InferenceError):
                await allowed.ask(model="none-such").complete()
        await until(lambda: not allowed.host.status().serving)
        await asyncio.sleep(0.05)
        assert sum(isinstance(each, Serving) for each in gc.get_objects()) <= 1
    finally:
        gc.enable()
