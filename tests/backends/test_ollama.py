"""Against a stub in the shape of Ollama's documented API (docs/api.md), which real Ollama 0.12.6 answered alike."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64encode
from contextlib import aclosing
from pathlib import Path

import pytest

from backends.conftest import generation, whole
from backends.stub_server import Reply, as_json, stub_server
from dpc_jupyter.backends.base import Backend, Delta, Generation
from dpc_jupyter.backends.ollama import Ollama, address
from dpc_jupyter.errors import BackendError, InvalidRequest, ModelNotFound
from dpc_jupyter.protocol.messages import ChatMessage, Image

DIGEST = "fbb0c49762b0df2f6c48ef666fe87b01737845e2a8cd9cdcb12aed7ffa1b55fe"
STAMP = {"model": "llama3.2:latest", "created_at": "2026-11-22T23:42:02.050173451Z"}


def lines(*chunks: dict[str, object], **how: object) -> Reply:
    pieces = tuple(json.dumps(chunk).encode() + b"\n" for chunk in chunks)
    return Reply(pieces, content_type="application/x-ndjson", **how)  # type: ignore[arg-type]


def part(content: str = "", **message: object) -> dict[str, object]:
    return {**STAMP, "message": {"role": "assistant", "content": content, **message}, "done": False}


END = {
    **part(),
    "done": True,
    "done_reason": "stop",
    "total_duration": 700851640,
    "prompt_eval_count": 10,
    "eval_count": 5,
}
HELLO = lines(part("Hel"), part("lo"), END)


def routes(chat: Reply = HELLO) -> dict[str, Reply]:
    tags = [{"name": name, "model": name, "digest": digest} for name, digest in MODELS.items()]
    loaded = [{"name": "llama3.2:latest", "model": "llama3.2:latest", "digest": DIGEST, "context_length": 4096}]
    show = {"model_info": {"llama.context_length": 8192}, "capabilities": ["completion", "vision"]}
    return {
        "/api/chat": chat,
        "/api/tags": as_json({"models": tags}),
        "/api/ps": as_json({"models": loaded}),
        "/api/show": as_json(show),
    }


MODELS = {"llama3.2:latest": DIGEST, "llava:7b": "a" * 64}


async def test_deltas_come_with_thinking_apart_and_real_counts(closing: list[Backend]) -> None:
    chat = lines(part(thinking="let me "), part(thinking="see"), part("4"), part("2"), END)
    async with stub_server(routes(chat)) as stub:
        closing.append(backend := Ollama("ollama", stub.url))
        await backend.models()
        answer = await whole(backend.stream(generation(model="llama3.2:latest")))
    assert (answer.thinking, answer.text, answer.deltas) == ("let me see", "42", 4)
    assert (answer.end.prompt_tokens, answer.end.response_tokens, answer.end.finish_reason) == (10, 5, "stop")
    assert answer.end.digest == f"sha256:{DIGEST}"


async def test_models_tell_window_vision_warmth_and_digest(closing: list[Backend]) -> None:
    async with stub_server(routes()) as stub:
        closing.append(backend := Ollama("ollama", stub.url))
        llama, llava = await backend.models()
        await backend.models()
        assert len(stub.asked_of("/api/show")) == 2  # once a model, however often it is listed
    assert (llama.name, llama.context_window, llama.warm) == ("llama3.2:latest", 4096, True)
    assert (llava.context_window, llava.warm, llava.supports_vision) == (8192, False, True)
    assert llama.digest == f"sha256:{DIGEST}"


async def test_embedding_models_are_not_offered_for_chat(closing: list[Backend]) -> None:
    only_embeds = {**routes(), "/api/show": as_json({"model_info": {}, "capabilities": ["embedding"]})}
    async with stub_server(only_embeds) as stub:
        closing.append(backend := Ollama("ollama", stub.url))
        assert await backend.models() == []


async def test_details_that_do_not_come_do_not_hold_up_the_list(closing: list[Backend]) -> None:
    async with stub_server({**routes(), "/api/show": Reply(then="hang")}) as stub:
        closing.append(backend := Ollama("ollama", stub.url))
        began = time.perf_counter()
        listed = await backend.models()
        assert time.perf_counter() - began < 1.0
        assert [model.context_window for model in listed] == [4096, None]
        await backend.close()


async def test_options_are_sent_by_ollamas_names(closing: list[Backend]) -> None:
    asked = generation(model="m", top_k=5, top_p=0.5, stop=("END",), presence_penalty=0.5, frequency_penalty=-0.5)
    async with stub_server(routes()) as stub:
        closing.append(backend := Ollama("ollama", stub.url))
        await whole(backend.stream(asked))
        (sent,) = stub.asked_of("/api/chat")
    assert sent["options"] == {
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": 5,
        "num_predict": 12,
        "seed": 1,
        "stop": ["END"],
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
    }
    assert sent["messages"] == [{"role": "user", "content": "Say hello."}]
    assert sent["stream"] is True


async def test_an_image_is_sent_as_base64(closing: list[Backend]) -> None:
    turn = ChatMessage("user", "What is this?", (Image("aGVsbG8=", "image/png"),))
    async with stub_server(routes()) as stub:
        closing.append(backend := Ollama("ollama", stub.url))
        await whole(backend.stream(generation(turns=(turn,))))
        (sent,) = stub.asked_of("/api/chat")
    assert sent["messages"][0]["images"] == ["aGVsbG8="]


async def test_an_image_that_is_the_path_of_a_file_never_sends_that_file(
    closing: list[Backend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret00").write_bytes(b"the host's own")  # its name is base64 as well
    async with stub_server(routes()) as stub:
        closing.append(backend := Ollama("ollama", stub.url))
        for path in ("secret00", str(tmp_path / "secret00")):
            turn = ChatMessage("user", "?", (Image(path, "image/png"),))
            try:
                await whole(backend.stream(generation(turns=(turn,))))
            except InvalidRequest:
                continue
        sent = json.dumps(stub.asked_of("/api/chat"))
    assert b64encode(b"the host's own").decode() not in sent
    assert '"images": ["secret00"]' in sent


async def test_an_ollama_that_is_down_is_named_within_a_second(dead_url: str, closing: list[Backend]) -> None:
    closing.append(backend := Ollama("ollama", dead_url))
    began = time.perf_counter()
    for asking in (backend.models(), whole(backend.stream(generation()))):
        with pytest.raises(BackendError) as error:
            await asking
        assert str(error.value) == f"Ollama is not running at {dead_url}. Start it with `ollama serve`."
    assert time.perf_counter() - began < 1.0


async def test_an_ollama_that_hangs_is_named_within_a_second(closing: list[Backend]) -> None:
    async with stub_server({**routes(), "/api/tags": Reply(then="hang")}) as stub:
        closing.append(backend := Ollama("ollama", stub.url))
        began = time.perf_counter()
        with pytest.raises(BackendError, match="does not answer"):
            await backend.models()
        assert time.perf_counter() - began < 1.0


async def test_a_missing_model_is_named_with_the_command_that_gets_it(closing: list[Backend]) -> None:
    async with stub_server(routes(as_json({"error": "model 'nope' not found"}, 404))) as stub:
        closing.append(backend := Ollama("ollama", stub.url))
        with pytest.raises(ModelNotFound, match=r"^Model 'nope' not found\. Get it with `ollama pull nope`"):
            await whole(backend.stream(generation(model="nope")))


@pytest.mark.parametrize("then", ["cut", "end"])
async def test_an_ollama_that_dies_in_mid_answer_is_an_error_at_once(closing: list[Backend], then: str) -> None:
    async with stub_server(routes(lines(part("Hel"), then=then))) as stub:
        closing.append(backend := Ollama("ollama", stub.url))
        with pytest.raises(BackendError, match="stopped while answering"):
            await whole(backend.stream(generation()))


async def test_an_error_inside_the_stream_is_told_without_the_prompt(closing: list[Backend]) -> None:
    for told, shown in (("unexpected EOF", "failed: unexpected EOF"), ("bad input: canary 5e1f here", "failed: no ")):
        async with stub_server(routes(lines(part("Hel"), {"error": told}))) as stub:
            closing.append(backend := Ollama("ollama", stub.url))
            with pytest.raises(BackendError, match=shown) as error:
                await whole(backend.stream(generation("see: canary 5e1f here")))
            assert "5e1f" not in str(error.value)


async def test_what_is_not_ollama_is_said_so(closing: list[Backend]) -> None:
    page = Reply((b"<html>",), content_type="text/html")
    async with stub_server({"/api/tags": page, "/api/ps": page, "/api/chat": page}) as stub:
        closing.append(backend := Ollama("ollama", stub.url))
        for asking in (backend.models(), whole(backend.stream(generation()))):
            with pytest.raises(BackendError, match=r"is not Ollama\. Correct host"):
                await asking


async def test_closing_the_iterator_hangs_up_at_once(closing: list[Backend]) -> None:
    async with stub_server(routes(lines(part("Hel"), then="hang"))) as stub:
        closing.append(backend := Ollama("ollama", stub.url))
        async with aclosing(backend.stream(generation())) as answer:
            assert await anext(answer) == Delta("Hel")
        async with asyncio.timeout(1):
            await stub.hung_up.wait()


async def test_cancelling_the_task_hangs_up_at_once(closing: list[Backend]) -> None:
    async with stub_server(routes(lines(part("Hel"), then="hang"))) as stub:
        closing.append(backend := Ollama("ollama", stub.url))
        asking = asyncio.create_task(whole(backend.stream(generation())))
        await asyncio.sleep(0.1)
        asking.cancel()
        async with asyncio.timeout(1):
            await stub.hung_up.wait()


async def test_a_prompt_for_this_machine_does_not_go_through_a_proxy(
    closing: list[Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stub_server({}) as proxy, stub_server(routes()) as stub:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        closing.append(backend := Ollama("ollama", stub.url))
        assert (await whole(backend.stream(generation()))).text == "Hello"
        assert not proxy.asked


async def test_half_a_surrogate_pair_is_the_askers_mistake(closing: list[Backend]) -> None:
    closing.append(backend := Ollama("ollama", "http://127.0.0.1:1"))
    with pytest.raises(InvalidRequest, match="not valid Unicode"):
        await whole(backend.stream(Generation("m", (ChatMessage("user", "\ud800"),), generation().options)))


def test_the_address_is_the_files_then_the_environments_then_ollamas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    assert address() == "http://127.0.0.1:11434"
    monkeypatch.setenv("OLLAMA_HOST", "gpu.lab:1234")
    assert address() == "http://gpu.lab:1234"
    assert address("https://other") == "https://other"
