from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from node.stub import StubEngine
from node.waiting import until_in_thread

from dpc_jupyter.backends.base import Delta, Finished, Generation
from dpc_jupyter.backends.registry import Registry
from dpc_jupyter.home import Home
from dpc_jupyter.jupyter.streaming import ask
from dpc_jupyter.node.asking.answer import Answer
from dpc_jupyter.node.thread import BackgroundNode


class BrokenFace:
    """A frontend that fails at the first piece of text."""

    def wait(self, line: str, /) -> None: ...

    def pause(self, line: str, /) -> None:
        self.wait(line)

    def add(self, piece: str, /) -> None:
        raise OSError("the frontend is gone")

    def tick(self) -> None: ...

    def end(self, answer: Answer, /) -> None: ...


def test_a_face_that_fails_leaves_no_request_behind(tmp_path: Path) -> None:
    engine = StubEngine(tokens=100_000, pause_s=0.01)
    node = BackgroundNode(Home(tmp_path / "home"), registry=Registry([engine]))
    node.start()
    try:
        with pytest.raises(OSError, match="frontend is gone"):
            ask(node, BrokenFace(), "local", prompt="Hello")
        until_in_thread(lambda: engine.running == 0, 0.5)
    finally:
        node.stop()


class FetchingEngine(StubEngine):
    """A stub that has to fetch its model first, as it says."""

    async def stream(self, generation: Generation) -> AsyncGenerator[Delta | Finished]:
        for done in (0, 12):
            generation.tell(f"fetching it: {done} of 93 MB")
            await asyncio.sleep(0.05)
        async for event in super().stream(generation):
            yield event


class ListeningFace(BrokenFace):
    """Keeps what it is told while it waits."""

    def __init__(self) -> None:
        self.waits: list[str] = []

    def wait(self, line: str, /) -> None:
        self.waits.append(line)

    def add(self, piece: str, /) -> None: ...


def test_who_asks_this_machine_sees_how_far_its_download_is(tmp_path: Path) -> None:
    node = BackgroundNode(Home(tmp_path / "home"), registry=Registry([FetchingEngine()]))
    node.start()
    try:
        face = ListeningFace()
        answer, failure = ask(node, face, "local", prompt="Hello", model="stub-1")
        assert failure is None and answer.text.startswith("stub")
        assert "loading stub-1 at this machine · fetching it: 12 of 93 MB" in face.waits
    finally:
        node.stop()
