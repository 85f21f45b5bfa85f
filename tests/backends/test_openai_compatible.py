from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from contextlib import aclosing

import pytest

from backends.conftest import LlamaServer, generation, until, whole
from backends.stub_server import Reply, as_json, stub_server
from dpc_jupyter.backends.base import Backend, Generation
from dpc_jupyter.backends.openai_compatible import OpenAICompatible
from dpc_jupyter.errors import BackendError, ConfigError, InvalidRequest, ModelNotFound
from dpc_jupyter.protocol.messages import ChatMessage, Image

CHAT = "/v1/chat/completions"
LONG = "Write a very long story about a fox, a crow and a well."


def events(*chunks: object, done: bool = True, **how: object) -> Reply:
    pieces = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks]
    if done:
        pieces.append(b"data: [DONE]\n\n")
    return Reply(tuple(pieces), content_type="text/event-stream", **how)  # type: ignore[arg-type]


def piece(finish_reason: str | None = None, **delta: str) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


HELLO = events(piece(content="Hel"), piece(content="lo"), piece("stop"))


@pytest.fixture
def real(llama_server: LlamaServer, closing: list[Backend]) -> OpenAICompatible:
    backend = OpenAICompatible("llama", llama_server.url, api_key=llama_server.api_key)
    closing.append(backend)
    return backend


async def busy(server: LlamaServer) -> bool:
    return await server.busy_slots() > 0


async def idle(server: LlamaServer) -> bool:
    return await server.busy_slots() == 0


async def test_a_real_server_streams_with_its_own_counts(real: OpenAICompatible) -> None:
    answer = await whole(real.stream(generation(LONG, max_tokens=20)))
    assert answer.deltas >= 19
    assert (answer.end.finish_reason, answer.end.response_tokens) == ("length", 20)
    assert answer.end.prompt_tokens and answer.end.prompt_tokens > 20


async def test_a_real_server_lists_its_model_with_the_window(real: OpenAICompatible) -> None:
    (model,) = await real.models()
    assert (model.name, model.context_window, model.supports_vision) == ("smollm2:135m", 2048, False)


async def test_a_seed_repeats_an_answer_of_a_real_server(real: OpenAICompatible) -> None:
    asked = generation(LONG, max_tokens=12, temperature=1.0, top_k=50, top_p=0.9, seed=7)
    assert (await whole(real.stream(asked))).text == (await whole(real.stream(asked))).text


async def test_a_stop_word_ends_a_real_answer(real: OpenAICompatible) -> None:
    free = (await whole(real.stream(generation(LONG, max_tokens=20)))).text
    word = free.split()[4]
    assert word not in (await whole(real.stream(generation(LONG, max_tokens=20, stop=(word,))))).text


async def test_closing_the_iterator_frees_a_real_servers_slot_at_once(
    real: OpenAICompatible, llama_server: LlamaServer
) -> None:
    async with aclosing(real.stream(generation(LONG, max_tokens=1500))) as answer:
        await anext(answer)
        assert await llama_server.busy_slots() == 1
    began = time.perf_counter()
    await until(lambda: idle(llama_server))
    assert time.perf_counter() - began < 2


async def test_cancelling_the_task_frees_a_real_servers_slot(real: OpenAICompatible, llama_server: LlamaServer) -> None:
    asking = asyncio.create_task(whole(real.stream(generation(LONG, max_tokens=1500))))
    await until(lambda: busy(llama_server))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await until(lambda: idle(llama_server), limit_s=1.5)


async def test_cancelling_while_a_long_prompt_is_read_frees_a_real_servers_slot(
    real: OpenAICompatible, llama_server: LlamaServer
) -> None:
    await real.models()  # as the registry does first; it tells that this is llama.cpp
    asking = asyncio.create_task(whole(real.stream(generation("word " * 1900, max_tokens=50))))
    await until(lambda: busy(llama_server))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await until(lambda: idle(llama_server), limit_s=2.5)  # reading it to its end takes 15 s


async def test_a_real_server_that_refuses_the_key_names_the_variable(
    llama_server: LlamaServer, closing: list[Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_KEY", "wrong")
    backend = OpenAICompatible("lab", llama_server.url, api_key_env="LAB_KEY")
    closing.append(backend)
    with pytest.raises(BackendError, match=r"refused the API key\. Set LAB_KEY"):
        await backend.models()
    with pytest.raises(BackendError, match=r"refused the API key\. Set LAB_KEY"):
        await whole(backend.stream(generation()))


async def test_url_and_key_come_from_the_environment(
    llama_server: LlamaServer, closing: list[Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{llama_server.url}/v1/")
    monkeypatch.setenv("OPENAI_API_KEY", llama_server.api_key)
    backend = OpenAICompatible("lab")
    closing.append(backend)
    assert len(await backend.models()) == 1


async def test_an_engine_that_is_down_is_named_within_a_second(dead_url: str, closing: list[Backend]) -> None:
    backend = OpenAICompatible("vllm", dead_url)
    closing.append(backend)
    began = time.perf_counter()
    sentence = f"vllm at {dead_url}/v1 is not running. Start it, or correct base_url in providers.json."
    with pytest.raises(BackendError) as listing:
        await backend.models()
    with pytest.raises(BackendError) as asking:
        await whole(backend.stream(generation()))
    assert str(listing.value) == str(asking.value) == sentence
    assert time.perf_counter() - began < 1.0


async def test_an_address_that_swallows_packets_is_named_within_a_second(closing: list[Backend]) -> None:
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # its backlog is full after these, and the kernel drops what comes then
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        backend = OpenAICompatible("far", f"http://127.0.0.1:{full.getsockname()[1]}")
        closing.append(backend)
        began = time.perf_counter()
        with pytest.raises(BackendError, match=r"far at http://127\.0\.0\.1:\d+/v1 is not running"):
            await whole(backend.stream(generation()))
        assert 0.5 < time.perf_counter() - began < 1.2


async def test_an_engine_that_never_lists_its_models_is_named_within_a_second(closing: list[Backend]) -> None:
    async with stub_server({"/v1/models": Reply(then="hang")}) as stub:
        backend = OpenAICompatible("stuck", stub.url)
        closing.append(backend)
        began = time.perf_counter()
        with pytest.raises(BackendError, match="does not answer"):
            await backend.models()
        assert time.perf_counter() - began < 1.2


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_thinking_comes_apart_from_the_answer(closing: list[Backend], name: str) -> None:
    chat = events(piece(**{name: "let me "}), piece(**{name: "see"}), piece(content="42"), piece("stop"))
    async with stub_server({CHAT: chat}) as stub:
        closing.append(backend := OpenAICompatible("stub", stub.url))
        answer = await whole(backend.stream(generation()))
    assert (answer.thinking, answer.text) == ("let me see", "42")


async def test_what_is_sent_is_the_closed_list_and_images_as_data(closing: list[Backend]) -> None:
    asked = generation(turns=(ChatMessage("user", "What is this?", (Image("aGk=", "image/png"),)),), top_k=5)
    async with stub_server({CHAT: HELLO}) as stub:
        closing.append(backend := OpenAICompatible("stub", stub.url))
        await whole(backend.stream(asked))
        (sent,) = stub.asked_of(CHAT)
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
    ]
    assert sent == {
        "model": "smollm2:135m",
        "messages": [{"role": "user", "content": parts}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.0,
        "top_k": 5,
        "max_tokens": 12,
        "seed": 1,
    }


async def test_an_engine_that_dies_in_mid_answer_is_an_error_at_once(closing: list[Backend]) -> None:
    async with stub_server({CHAT: events(piece(content="Hel"), done=False, then="cut")}) as stub:
        closing.append(backend := OpenAICompatible("stub", stub.url))
        with pytest.raises(BackendError, match="stopped while answering"):
            await whole(backend.stream(generation()))


async def test_a_stream_that_ends_without_a_reason_is_not_a_whole_answer(closing: list[Backend]) -> None:
    async with stub_server({CHAT: events(piece(content="Hel"))}) as stub:
        closing.append(backend := OpenAICompatible("stub", stub.url))
        with pytest.raises(BackendError, match="stopped while answering"):
            await whole(backend.stream(generation()))


async def test_an_error_inside_the_stream_is_told(closing: list[Backend]) -> None:
    error = {"error": {"message": "out of memory\nin layer 3", "code": 500}}
    async with stub_server({CHAT: events(piece(content="Hel"), error)}) as stub:
        closing.append(backend := OpenAICompatible("stub", stub.url))
        with pytest.raises(BackendError, match="failed: out of memory in layer 3"):
            await whole(backend.stream(generation()))


@pytest.mark.parametrize(
    "reply",
    [
        as_json({"object": "error", "message": "The model `x` does not exist.", "code": 404}, 404),
        as_json({"error": {"message": "model 'x' not found", "code": "model_not_found"}}, 404),
        as_json({"error": {"message": "No models loaded. Model x does not exist."}}, 400),
    ],
    ids=["vllm", "openai", "lm-studio"],
)
async def test_a_missing_model_is_named_with_the_fix(closing: list[Backend], reply: Reply) -> None:
    async with stub_server({CHAT: reply}) as stub:
        closing.append(backend := OpenAICompatible("lab", stub.url))
        with pytest.raises(ModelNotFound, match=r"^Model 'x' not found\. Start lab with it"):
            await whole(backend.stream(generation(model="x")))


async def test_a_server_without_the_api_is_told_from_a_missing_model(closing: list[Backend]) -> None:
    login = Reply((b"<html>log in</html>",), content_type="text/html")
    async with stub_server({"/v2/models": login, "/v2/chat/completions": login}) as stub:
        for path in ("/v1", "/v2"):
            closing.append(backend := OpenAICompatible("lab", stub.url + path))
            for asking in (backend.models(), whole(backend.stream(generation()))):
                with pytest.raises(BackendError, match=r"has no OpenAI-compatible API\. Correct base_url"):
                    await asking


async def test_other_errors_are_one_short_line(closing: list[Backend]) -> None:
    async with stub_server({CHAT: as_json({"error": {"message": "queue full\n" + "x" * 500}}, 503)}) as stub:
        closing.append(backend := OpenAICompatible("lab", stub.url))
        with pytest.raises(BackendError, match="answered 503: queue full xxx") as error:
            await whole(backend.stream(generation()))
    assert len(str(error.value)) < 300 and "\n" not in str(error.value)


async def test_an_error_that_quotes_the_prompt_does_not_show_it(closing: list[Backend]) -> None:
    quoted = as_json({"detail": "invalid input: 'canary 5e1f in a prompt' is too long"}, 422)
    async with stub_server({CHAT: quoted}) as stub:
        closing.append(backend := OpenAICompatible("lab", stub.url))
        with pytest.raises(BackendError, match="answered 422") as error:
            await whole(backend.stream(generation("my canary 5e1f in a prompt, word by word")))
    assert "5e1f" not in str(error.value)


async def test_an_endless_error_body_is_not_read_to_its_end(closing: list[Backend]) -> None:
    async with stub_server({CHAT: Reply((b"x" * 20_000,), 500, then="hang")}) as stub:
        closing.append(backend := OpenAICompatible("lab", stub.url))
        async with asyncio.timeout(2):
            with pytest.raises(BackendError, match="answered 500"):
                await whole(backend.stream(generation()))


async def test_closing_a_stream_hangs_up_though_the_server_is_silent(closing: list[Backend]) -> None:
    async with stub_server({CHAT: events(piece(content="Hel"), done=False, then="hang")}) as stub:
        closing.append(backend := OpenAICompatible("lab", stub.url))
        async with aclosing(backend.stream(generation())) as answer:
            await anext(answer)
        async with asyncio.timeout(1):
            await stub.hung_up.wait()


async def test_one_connection_serves_many_answers_once_the_server_is_known(closing: list[Backend]) -> None:
    async with stub_server({CHAT: HELLO}) as stub:
        closing.append(backend := OpenAICompatible("lab", stub.url))
        for _ in range(3):
            assert (await whole(backend.stream(generation()))).text == "Hello"
        # The first one is closed, since the server could have been llama.cpp's.
        assert [b"connection: close" in head.lower() for head in stub.headers] == [True, False, False]
        assert len(backend._client._transport._pool.connections) == 1  # type: ignore[attr-defined]


async def test_answers_of_a_real_server_back_to_back_never_meet_a_dying_connection(real: OpenAICompatible) -> None:
    for _ in range(40):
        assert (await whole(real.stream(generation(max_tokens=1)))).end.response_tokens == 1


async def test_a_prompt_for_this_machine_does_not_go_through_a_proxy(
    closing: list[Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stub_server({}) as proxy, stub_server({CHAT: HELLO}) as stub:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        closing.append(backend := OpenAICompatible("lab", stub.url))
        assert (await whole(backend.stream(generation()))).text == "Hello"
        assert not proxy.asked


async def test_a_list_of_models_restricts_what_is_offered_and_asked(
    llama_server: LlamaServer, closing: list[Backend]
) -> None:
    backend = OpenAICompatible("lab", llama_server.url, api_key=llama_server.api_key, models=("other",))
    closing.append(backend)
    assert await backend.models() == []
    with pytest.raises(ModelNotFound, match="Model 'smollm2:135m' not found"):
        await whole(backend.stream(generation()))


async def test_windows_and_vision_are_read_in_every_servers_words(closing: list[Backend]) -> None:
    listed = {
        "data": [
            {"id": "vllm", "max_model_len": 32768},
            {"id": "llama", "meta": {"n_ctx_train": 8192}, "architecture": {"input_modalities": ["text", "image"]}},
            {"id": "old-llama"},
        ],
        "models": [{"name": "old-llama", "capabilities": ["completion", "multimodal"]}],
    }
    async with stub_server({"/v1/models": as_json(listed)}) as stub:
        closing.append(backend := OpenAICompatible("lab", stub.url))
        found = [(m.name, m.context_window, m.supports_vision) for m in await backend.models()]
    assert found == [("vllm", 32768, False), ("llama", 8192, True), ("old-llama", None, True)]


@pytest.mark.parametrize("url", ["", "not a url", "ftp://host", "http://", "http://[::1"])
def test_a_base_url_that_is_none_is_refused_with_an_example(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match="'lab' needs a base_url like"):
        OpenAICompatible("lab", url)


async def test_half_a_surrogate_pair_is_the_askers_mistake(closing: list[Backend]) -> None:
    closing.append(backend := OpenAICompatible("lab", "http://127.0.0.1:1"))
    with pytest.raises(InvalidRequest, match="not valid Unicode"):
        await whole(backend.stream(Generation("m", (ChatMessage("user", "\ud800"),), generation().options)))


async def test_a_password_in_the_url_is_in_no_sentence() -> None:
    backend = OpenAICompatible("lab", "http://user:hunter2@127.0.0.1:9/v1")
    with pytest.raises(BackendError) as failed:
        await backend.models()
    assert "lab at http://127.0.0.1:9/v1" in failed.value.sentence and "hunter2" not in failed.value.sentence
    await backend.close()
