"""An engine that runs no model, and says so; tests steer what it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from dpc_jupyter.backends.base import Delta, Finished, Generation, ModelInfo

PIECE = "stub "


@dataclass(eq=False)
class StubEngine:
    """Answers every question with `tokens` times `PIECE`, or `texts`.

    Attributes
    ----------
    pause_s : float
        Between tokens.
    gate : asyncio.Event
        Clear: it waits behind the first `free` tokens until somebody sets it.
    error : Exception or None
        Raised behind the last token.
    stubborn : bool
        It goes on when it is told to stop while it waits.
    running, most_running, produced, seen
        What has happened.
    """

    alias: str = "stub"
    type: str = "stub"
    slots: int = 4
    names: tuple[str, ...] = ("stub-1", "stub-2")
    warm: bool | None = None
    tokens: int = 4
    texts: tuple[str, ...] = ()
    thinking: str = ""
    pause_s: float = 0.0
    free: int = 1
    error: Exception | None = None
    list_error: Exception | None = None
    list_pause_s: float = 0.0
    finishes: bool = True
    stubborn: bool = False
    vision: bool = False
    running: int = 0
    most_running: int = 0
    produced: int = 0
    seen: list[Generation] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def hold(self, free: int = 1) -> None:
        """From now on wait behind `free` tokens."""
        self.free = free
        self.gate.clear()

    async def models(self) -> list[ModelInfo]:
        await asyncio.sleep(self.list_pause_s)
        if self.list_error is not None:
            raise self.list_error
        return [
            ModelInfo(name, context_window=4096, supports_vision=self.vision, warm=self.warm) for name in self.names
        ]

    async def stream(self, generation: Generation) -> AsyncGenerator[Delta | Finished]:
        self.seen.append(generation)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        texts = self.texts or (PIECE,) * self.tokens
        try:
            if self.thinking:
                yield Delta(thinking=self.thinking)
            for index, text in enumerate(texts):
                if index >= self.free:
                    await self._wait()
                if self.pause_s:
                    await asyncio.sleep(self.pause_s)
                self.produced += 1
                yield Delta(text)
            if len(texts) <= self.free:
                await self._wait()
            if self.error is not None:
                raise self.error
            if self.finishes:
                yield Finished("stop", 7, len(texts))
        finally:
            self.running -= 1

    async def _wait(self) -> None:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            if not self.stubborn:
                raise
            self.gate.set()

    async def close(self) -> None:
        pass
