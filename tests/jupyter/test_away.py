"""A host that is away in the middle of its answer: what stands below the text, in a cell and in a chat."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from node.inside import unreachable
from node.stub import PIECE
from node.waiting import until_in_thread

from dpc_jupyter.jupyter.drawing import display
from dpc_jupyter.jupyter.drawing.display import CellAnswer
from dpc_jupyter.jupyter.streaming import ask
from dpc_jupyter.node.thread import BackgroundNode
from jupyter.conftest import StubHost
from jupyter.screen import Screen
from jupyter.test_chat import last

Away = Callable[[], AbstractContextManager[None]]
AWAY = "anna is unreachable, trying again: the test keeps the network down"


class Drawn(list[str]):
    """What a cell shows, update by update, as text."""

    def __call__(self, data: dict[str, str], **_: Any) -> Drawn:
        self.append(data["text/plain"])
        return self

    update = __call__


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    made = Drawn()
    monkeypatch.setattr(display, "display", made)
    return made


@pytest.fixture
def away(node: BackgroundNode, stub_host: StubHost, monkeypatch: pytest.MonkeyPatch) -> Away:
    """The network between the node and its host is down; the engine goes on once it is back."""

    @contextmanager
    def it_is() -> Any:
        with monkeypatch.context() as down:
            unreachable(node.service, down)
            for peer in node.service._rooms.links.peers:
                node._loop.call_soon_threadsafe(peer._stream.abort)
            yield
        stub_host.node._loop.call_soon_threadsafe(stub_host.engine.gate.set)

    return it_is


def hold(host: StubHost) -> None:
    host.engine.tokens = 40
    host.node._loop.call_soon_threadsafe(host.engine.hold, 3)


def test_below_the_text_of_a_host_that_is_away_stands_that_it_is(
    node: BackgroundNode, linked: str, stub_host: StubHost, away: Away, drawn: Drawn
) -> None:
    hold(stub_host)

    def network() -> None:
        until_in_thread(lambda: drawn and PIECE.strip() in drawn[-1])
        with away():
            until_in_thread(lambda: AWAY in drawn[-1])

    with ThreadPoolExecutor(1) as beside:
        breaking = beside.submit(network)
        answer, failure = ask(node, CellAnswer(), linked, prompt="Hello")
        breaking.result()
    assert failure is None and answer.text == PIECE * 40
    told = [each.rpartition("\n\n") for each in drawn]
    assert (f"{PIECE * 3}".strip(), "\n\n", AWAY) in told
    assert told[-1][2].startswith("anna · stub-1")


def test_a_chat_says_it_too(linked: str, stub_host: StubHost, away: Away, screen: Screen) -> None:
    hold(stub_host)
    screen.call("chat_ask", chat="1", prompt="Hello", host=linked)
    screen.until(lambda: PIECE.strip() in last(screen)["text"])
    with away():
        screen.until(lambda: last(screen)["foot"].startswith(AWAY))
    screen.until(lambda: not last(screen)["streaming"])
    assert last(screen)["foot"].startswith("anna · stub-1")


def test_a_pause_is_drawn_until_text_comes_and_is_no_time_of_the_models(
    drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    face = CellAnswer()

    def after(seconds: float, *, line: str = "", piece: str = "") -> str:
        clock[0] += seconds
        face.pause(line) if line else face.add(piece)
        face.tick()
        return drawn[-1].rpartition("\n\n")[2]

    assert after(1, line="in line at anna") == "in line at anna"
    assert after(1, piece="one ") == "answering"
    assert after(1, piece="two ") == "1 tokens/s"
    assert after(1, line="anna is away") == "anna is away"
    assert after(9, line="anna is away · 9 s so far") == "anna is away · 9 s so far"
    assert after(1, piece="three ") == "1 tokens/s"
    raw = CellAnswer(raw=True)
    raw.add("one")
    before = len(drawn)
    clock[0] += 1
    raw.pause("anna is away")
    raw.tick()
    assert len(drawn) == before
