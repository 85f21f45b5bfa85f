from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest

from dpc_jupyter.backends.base import Delta, Finished, Generation, ModelInfo
from dpc_jupyter.backends.registry import Registry
from dpc_jupyter.errors import BackendError, ModelNotFound


@dataclass(eq=False)
class Stub:
    """A stub backend that lists what it is told to."""

    alias: str
    names: list[str] = field(default_factory=list)
    type: str = "stub"
    slots: int = 1
    down: str = ""
    takes_s: float = 0.0
    asked: int = 0
    closed: bool = False

    async def models(self) -> list[ModelInfo]:
        self.asked += 1
        await asyncio.sleep(self.takes_s)
        if self.down:
            raise BackendError(self.down)
        return [ModelInfo(name) for name in self.names]

    async def stream(self, generation: Generation) -> AsyncGenerator[Delta | Finished, None]:
        yield Finished()

    async def close(self) -> None:
        self.closed = True


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def found(registry: Registry, model: str | None = None, provider: str | None = None) -> tuple[str, str]:
    backend, info = await registry.resolve(model, provider)
    return backend.alias, info.name


async def test_a_request_is_resolved_by_order() -> None:
    registry = Registry([Stub("a", ["x", "y"]), Stub("b", ["y", "z"])])
    assert await found(registry) == ("a", "x")
    assert await found(registry, "y") == ("a", "y")
    assert await found(registry, "z") == ("b", "z")
    assert await found(registry, provider="b") == ("b", "y")
    assert await found(registry, "y", "b") == ("b", "y")


async def test_what_is_not_there_is_named() -> None:
    registry = Registry([Stub("a", ["x"]), Stub("b", ["z"])])
    for model, provider, sentence in [
        ("q", None, "Model 'q' not found"),
        ("z", "a", "Model 'z' not found"),
        (None, "c", "Provider 'c' not found"),
    ]:
        with pytest.raises(ModelNotFound) as error:
            await registry.resolve(model, provider)
        assert str(error.value) == sentence


async def test_a_model_that_ollama_lacks_comes_with_the_command_that_gets_it() -> None:
    registry = Registry([Stub("a", ["x:latest"], type="ollama")])
    assert await found(registry, "x") == ("a", "x:latest")
    with pytest.raises(ModelNotFound, match=r"^Model 'q' not found\. Get it with `ollama pull q`"):
        await registry.resolve("q")


async def test_a_backend_that_is_down_is_left_out_and_its_reason_is_kept() -> None:
    down = Stub("a", down="a is not running. Start it.")
    registry = Registry([down, Stub("b", ["z"])])
    assert [backend.alias for backend, _ in await registry.offers()] == ["b"]
    assert dict(registry.reasons) == {"a": "a is not running. Start it."}
    assert await found(registry) == ("b", "z")
    with pytest.raises(BackendError, match="a is not running"):
        await registry.resolve("z", "a")


async def test_a_model_of_a_backend_that_went_down_is_its_error_and_not_a_missing_model() -> None:
    clock, a = Clock(), Stub("a", ["x"])
    registry = Registry([a, Stub("b", ["z"])], clock=clock)
    await registry.offers()
    a.down, clock.now_s = "a is not running. Start it.", 110.0
    await registry.offers()
    with pytest.raises(BackendError, match="a is not running"):
        await registry.resolve("x")


async def test_when_all_is_down_the_first_reason_is_told() -> None:
    registry = Registry([Stub("a", down="a is down."), Stub("b", down="b is down.")])
    for model in (None, "x"):
        with pytest.raises(BackendError, match="a is down"):
            await registry.resolve(model)


async def test_without_any_backend_or_model_the_sentence_says_so() -> None:
    with pytest.raises(ModelNotFound, match=r"no engine\. See providers\.json"):
        await Registry([]).resolve()
    with pytest.raises(ModelNotFound, match="a has no model yet"):
        await Registry([Stub("a")]).resolve()


async def test_a_flood_of_questions_asks_the_engine_once() -> None:
    backend = Stub("a", ["x"], takes_s=0.02)
    registry = Registry([backend])
    await asyncio.gather(*(registry.offers() for _ in range(100)), *(registry.resolve("x") for _ in range(100)))
    assert backend.asked == 1


async def test_a_flood_of_unknown_names_asks_the_engine_at_most_once_a_second() -> None:
    clock, backend = Clock(), Stub("a", ["x"])
    registry = Registry([backend], clock=clock)
    for number in range(100):
        with pytest.raises(ModelNotFound):
            await registry.resolve(f"q{number}")
    assert backend.asked == 1
    clock.now_s += 1.5
    backend.names.append("q7")
    assert await found(registry, "q7") == ("a", "q7")
    assert backend.asked == 2


async def test_offers_are_asked_anew_when_they_are_old() -> None:
    clock, backend = Clock(), Stub("a", ["x"])
    registry = Registry([backend], clock=clock)
    await registry.offers()
    backend.names.append("y")
    clock.now_s += 4
    assert len(await registry.offers()) == 1
    clock.now_s += 2
    assert len(await registry.offers()) == 2


async def test_an_old_answer_resolves_at_once_while_the_engine_is_asked_behind_it() -> None:
    clock, backend = Clock(), Stub("a", ["x"])
    registry = Registry([backend], clock=clock)
    await registry.offers()
    clock.now_s += 60
    backend.takes_s = 0.5
    began = time.perf_counter()
    assert await found(registry, "x") == ("a", "x")
    assert time.perf_counter() - began < 0.25
    await asyncio.sleep(0.1)
    assert backend.asked == 2


async def test_one_who_goes_away_does_not_end_the_question_for_the_others() -> None:
    backend = Stub("a", ["x"], takes_s=0.05)
    registry = Registry([backend])
    first, second = (asyncio.create_task(registry.offers()) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    assert len(await second) == 1
    assert backend.asked == 1


async def test_an_engine_that_never_answers_does_not_hold_up_the_others() -> None:
    registry = Registry([Stub("a", takes_s=60), Stub("b", ["z"])])
    began = time.perf_counter()
    assert len(await registry.offers()) == 1
    assert time.perf_counter() - began < 1.3
    assert registry.reasons["a"].startswith("a does not answer")


async def test_resolving_from_memory_costs_microseconds() -> None:
    registry = Registry([Stub(str(n), [f"{n}-{m}" for m in range(20)]) for n in range(10)])
    await registry.offers()
    began = time.perf_counter()
    for _ in range(2000):
        await registry.resolve("9-19")
    assert (time.perf_counter() - began) / 2000 < 20e-6


async def test_closing_closes_every_backend() -> None:
    backends = [Stub("a", takes_s=60), Stub("b")]
    registry = Registry(backends)
    asking = asyncio.create_task(registry.offers())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await registry.close()
    assert [backend.closed for backend in backends] == [True, True]
    with pytest.raises(asyncio.CancelledError):
        await asking
