from __future__ import annotations

from pathlib import Path

import pytest
from node.stub import StubEngine
from node.waiting import until_in_thread

from dpc_jupyter.backends.registry import Registry
from dpc_jupyter.home import Home
from dpc_jupyter.jupyter.streaming import ask
from dpc_jupyter.node.answer import Answer
from dpc_jupyter.node.thread import BackgroundNode


class BrokenFace:
    """A frontend that fails at the first piece of text."""

    def wait(self, line: str, /) -> None: ...

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
