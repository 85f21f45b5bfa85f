"""The engine of every row: a stub. No model runs; it makes tokens at once, or at a steady pace, and says what it is.

A token's text is the moment at which it was made, on a clock that all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from dpc_jupyter.backends.base import Delta, Finished, Generation, ModelInfo

MODEL = "stub-no-model"
# A model of an engine with one slot: who waits for it starts when the slot is free.
MODEL_ONE_SLOT = "stub-no-model-one-slot"
TOKEN_CHARS = 16
# Timers of an event loop are up to 1 ms late. What is later than this is a host too busy to run its engine, and counts.
_SLACK_NS = 2_000_000


def now_ns() -> int:
    """The clock that all processes of a machine share."""
    return time.monotonic_ns()


def token(made_ns: int) -> str:
    """A token made at this moment; `TOKEN_CHARS` long."""
    return f"{made_ns:015x} "


def made_at(text: str) -> list[int]:
    """When each token of a text was made, in nanoseconds of `now_ns`."""
    return [int(word, 16) for word in text.split()]


class Pace:
    """One step of an engine that generates for all its streams at once, as vLLM does: every stream gets one token."""

    def __init__(self, per_s: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._period_ns = 1_000_000_000 // per_s
        self._began_ns = now_ns()
        self._tokens: dict[int, str] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self.count = 0
        self._arm()

    async def token(self, number: int) -> str:
        """Wait for the `number`-th step, and give its token."""
        while self.count < number:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter
        return self._tokens.get(number) or token(self._due_ns(number) + _SLACK_NS)

    def _due_ns(self, number: int) -> int:
        return self._began_ns + number * self._period_ns

    def _arm(self) -> None:
        left_ns = self._due_ns(self.count + 1) - now_ns()
        self._loop.call_later(max(left_ns, 0) / 1e9, self._tick)

    def _tick(self) -> None:
        now = now_ns()
        while self._due_ns(self.count + 1) <= now:
            self.count += 1
            self._tokens[self.count] = token(min(now, self._due_ns(self.count) + _SLACK_NS))
            self._tokens.pop(self.count - 1000, None)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._arm()


class Paces:
    """The paces that a process runs, one for each rate that was asked for."""

    def __init__(self) -> None:
        self._of: dict[int, Pace] = {}

    def at(self, per_s: int) -> Pace:
        """The pace of so many tokens a second."""
        if per_s not in self._of:
            self._of[per_s] = Pace(per_s)
        return self._of[per_s]


class StubBackend:
    """The stub as an engine inside a node.

    ``max_tokens`` is how many tokens it makes, ``seed`` how many a second (0: all at once).
    """

    type = "stub"

    def __init__(self, alias: str, model: str, slots: int) -> None:
        self.alias = alias
        self.slots = slots
        self._model = model
        self._paces = Paces()

    async def models(self) -> list[ModelInfo]:
        """The one that does not exist."""
        return [ModelInfo(self._model)]

    async def stream(self, generation: Generation) -> AsyncGenerator[Delta | Finished, None]:
        """Tokens, then the end."""
        count, per_s = generation.options.max_tokens or 1, generation.options.seed or 0
        if per_s:
            pace = self._paces.at(per_s)
            first = pace.count + 1
            for number in range(first, first + count):
                yield Delta(await pace.token(number))
        else:
            for _ in range(count):
                yield Delta(token(now_ns()))
        yield Finished("stop", 1, count)

    async def close(self) -> None:
        """Nothing to close."""
