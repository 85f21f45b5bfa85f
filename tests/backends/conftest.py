from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import pytest

from dpc_jupyter.backends.base import Backend, Delta, Finished, Generation
from dpc_jupyter.backends.llama_server import Address, EngineSettings
from dpc_jupyter.backends.models import SMOLLM2, fetch
from dpc_jupyter.protocol.messages import ChatMessage, Options


@pytest.fixture(scope="session")
def models_folder() -> Path:
    """The embedded model, fetched once and kept between test runs."""
    default = Path(__file__).parents[2] / ".cache" / "models"
    folder = Path(os.environ.get("DPC_TEST_MODELS") or default)
    fetch(folder)
    return folder


@dataclass(frozen=True)
class LlamaServer:
    """A real llama.cpp server process."""

    url: str
    api_key: str

    async def busy_slots(self) -> int:
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {self.api_key}"}) as client:
            slots = (await client.get(f"{self.url}/slots")).json()
        return sum(slot["is_processing"] for slot in slots)


@pytest.fixture(scope="session")
def llama_server(models_folder: Path) -> Iterator[LlamaServer]:
    settings = EngineSettings(
        path=str(models_folder / SMOLLM2.file_name),
        name=SMOLLM2.name,
        api_key="a-test-key",
        slots=2,
        slot_tokens=2048,
        threads=1,
    )
    command = [sys.executable, "-m", "dpc_jupyter.backends.llama_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin and process.stdout
        process.stdin.write(msgspec.json.encode(settings) + b"\n")
        process.stdin.flush()
        yield LlamaServer(msgspec.json.decode(process.stdout.readline(), type=Address).url, settings.api_key)
        process.stdin.close()
        assert process.wait(5) == 0


@pytest.fixture
def dead_url() -> str:
    """An address of this machine where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def generation(
    prompt: str = "Say hello.", *, model: str = SMOLLM2.name, turns: tuple[ChatMessage, ...] = (), **options: object
) -> Generation:
    limits = {"max_tokens": 12, "temperature": 0.0, "seed": 1, **options}
    return Generation(model, turns or (ChatMessage("user", prompt),), msgspec.convert(limits, Options))


@dataclass(frozen=True)
class Answer:
    text: str
    thinking: str
    deltas: int
    end: Finished


async def whole(answer: AsyncIterator[Delta | Finished]) -> Answer:
    parts = [part async for part in answer]
    deltas = [part for part in parts if isinstance(part, Delta)]
    end = parts[-1]
    assert isinstance(end, Finished) and len(deltas) == len(parts) - 1
    return Answer("".join(d.text for d in deltas), "".join(d.thinking for d in deltas), len(deltas), end)


async def until(condition: object, limit_s: float = 5.0) -> None:
    """Wait until the awaitable or plain callable tells something true."""
    assert callable(condition)
    for _ in range(int(limit_s / 0.02)):
        told = condition()
        if await told if asyncio.iscoroutine(told) else told:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come true")


@pytest.fixture
async def closing() -> AsyncIterator[list[Backend]]:
    """Backends put in here are closed when the test ends, however it ends."""
    backends: list[Backend] = []
    yield backends
    for backend in backends:
        await backend.close()
