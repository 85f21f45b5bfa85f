"""A chat: one transcript in the kernel, whatever pages show it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from node.stub import PIECE, StubEngine
from node.waiting import until_in_thread

from dpc_jupyter.errors import BackendError, Busy, ConnectError, DpcError, InvalidRequest
from dpc_jupyter.jupyter import chat
from dpc_jupyter.jupyter.chat import CHATS_LIMIT
from dpc_jupyter.jupyter.faces import Faces
from dpc_jupyter.jupyter.notebook import UNANSWERED, Notebook
from dpc_jupyter.node.thread import BackgroundNode
from jupyter.conftest import StubHost
from jupyter.screen import Message, Refused, Screen

pytestmark = pytest.mark.usefixtures("node")


def told(screen: Screen) -> list[Message]:
    """All that a page was told of chats."""
    return [each["chat"] for each in screen.heard if "chat" in each]


def last(screen: Screen, role: str = "assistant") -> Message:
    """The last message of a role as a page shows it."""
    found = [news["message"] for news in told(screen) if news.get("message", {}).get("role") == role]
    return found[-1] if found else {"text": "", "streaming": True}


def told_of(screen: Screen, text: str) -> list[Message]:
    """All that a page was told of the message with this text."""
    return [news["message"] for news in told(screen) if news.get("message", {}).get("text") == text]


def messages(screen: Screen, role: str) -> list[Message]:
    """What a page that opens now shows of a role."""
    return [each for each in screen.call("chat_state", chat="1")["messages"] if each["role"] == role]


def ask(screen: Screen, prompt: str = "hello", **settings: Any) -> Message:
    """Ask, and wait for the end."""
    before = len(screen.heard)
    screen.call("chat_ask", chat="1", prompt=prompt, **settings)
    screen.until(lambda: [news for news in told(screen) if not news["running"]][-1:] == told(screen)[-1:])
    assert len(screen.heard) > before
    return last(screen)


@pytest.fixture
def hold(node: BackgroundNode, engine: StubEngine) -> Callable[[bool], None]:
    """Let the engine of this machine wait behind its first piece, or go on."""

    def switch(on: bool) -> None:
        node._loop.call_soon_threadsafe(engine.hold if on else engine.gate.set)
        until_in_thread(lambda: engine.gate.is_set() is not on)

    return switch


def test_an_answer_is_seen_as_it_comes_and_says_at_its_end_where_it_came_from(
    screen: Screen, hold: Callable[[bool], None], faces: Faces
) -> None:
    hold(True)
    screen.call("chat_ask", chat="1", prompt="hel\x1b[31mlo")
    screen.until(lambda: last(screen)["text"] == PIECE)
    assert last(screen)["streaming"] is True and told(screen)[-1]["running"] is True
    assert last(screen, "user")["text"] == "hello"
    hold(False)
    screen.until(lambda: not last(screen)["streaming"])
    assert last(screen)["text"] == PIECE * 4 and PIECE.strip() in last(screen)["html"]
    assert last(screen)["foot"].startswith("this machine · stub-1 · 4 tokens")
    numbers = [news["count"] for news in told(screen)]
    assert told(screen)[-1] | {"message": {}} == {"chat": "1", "count": numbers[-1], "running": False, "message": {}}
    assert numbers == list(range(1, len(numbers) + 1)), "a face sees that it missed one"
    assert len({news["message"]["id"] for news in told(screen)}) == 2, "a message keeps its id"
    (answer,) = faces.chats["1"].answers
    assert (answer.text, answer.host) == (PIECE * 4, "local")


def test_the_model_reads_what_the_reader_saw_the_answers_that_were_cut_off_too(
    screen: Screen, engine: StubEngine, hold: Callable[[bool], None], faces: Faces
) -> None:
    ask(screen, "one")
    engine.error = BackendError("broken")
    ask(screen, "two")
    engine.error = None
    hold(True)
    screen.call("chat_ask", chat="1", prompt="three")
    screen.until(lambda: last(screen)["text"] == PIECE)
    screen.call("chat_stop", chat="1")
    hold(False)
    ask(screen, "four")
    assert [each["foot"] for each in messages(screen, "user")] == [""] * 4
    turns = [("user", "one"), ("assistant", PIECE * 4), ("user", "two"), ("assistant", PIECE * 4)]
    turns += [("user", "three"), ("assistant", PIECE), ("user", "four")]
    assert [(turn.role, turn.content) for turn in engine.seen[-1].messages] == turns
    said = faces.chats["1"].transcript
    assert said == [
        *({"role": role, "content": content} for role, content in turns),
        {"role": "assistant", "content": PIECE * 4},
    ]


def test_a_question_without_an_answer_is_no_part_of_the_conversation_and_says_so(
    screen: Screen, engine: StubEngine, hold: Callable[[bool], None], faces: Faces
) -> None:
    engine.tokens, engine.error = 0, BackendError("broken")
    ask(screen, "fails")
    engine.error = None
    hold(True)
    screen.call("chat_ask", chat="1", prompt="is stopped")
    until_in_thread(lambda: len(engine.seen) == 2)
    screen.call("chat_stop", chat="1")
    hold(False)
    ask(screen, "is refused", model="none-such")
    engine.tokens = 4
    ask(screen, "is answered")
    asked = [(each["text"], each["foot"]) for each in messages(screen, "user")]
    unanswered = [("fails", UNANSWERED), ("is stopped", UNANSWERED), ("is refused", UNANSWERED)]
    assert asked == [*unanswered, ("is answered", "")]
    assert last(screen, "user")["foot"] == "", "the pages were told of the others as they ended"
    assert [each["foot"] for each in told_of(screen, "is stopped")] == ["", UNANSWERED]
    assert [turn.content for turn in engine.seen[-1].messages] == ["is answered"]
    assert [turn["content"] for turn in faces.chats["1"].transcript] == ["is answered", PIECE * 4]


def test_python_asks_in_it_and_gets_the_answer_whole_or_what_came(
    screen: Screen, engine: StubEngine, faces: Faces
) -> None:
    chat = faces.chats["1"]
    answer = chat.ask_and_wait("one", options={"max_tokens": 3, "seed": 7})
    assert (answer.text, answer.error) == (PIECE * 4, None)
    assert (engine.seen[-1].options.max_tokens, engine.seen[-1].options.seed) == (3, 7)
    screen.until(lambda: last(screen)["text"] == PIECE * 4 and not last(screen)["streaming"])
    engine.error = BackendError("broken")
    failed = chat.ask_and_wait("two")
    assert failed.error is not None and "broken" in failed.error and failed.text == PIECE * 4
    with pytest.raises(InvalidRequest, match="Nothing is asked"):
        chat.ask_and_wait(" ")
    with pytest.raises(DpcError, match="bogus"):
        chat.ask_and_wait("three", options={"bogus": 1})
    assert [turn["content"] for turn in chat.transcript] == ["one", PIECE * 4, "two", PIECE * 4]


def test_stop_frees_the_slot_at_the_host_and_keeps_what_came(
    screen: Screen, linked: str, stub_host: StubHost, faces: Faces
) -> None:
    stub_host.node._loop.call_soon_threadsafe(stub_host.engine.hold)
    screen.call("chat_ask", chat="1", prompt="hello", host="anna")
    screen.until(lambda: last(screen)["text"] == PIECE)
    screen.call("chat_stop", chat="1")
    assert not told(screen)[-1]["running"], "it has ended when the call has"
    assert (last(screen)["text"], last(screen)["streaming"]) == (PIECE, False)
    assert last(screen)["foot"].endswith("stopped early")
    until_in_thread(lambda: stub_host.engine.running == stub_host.busy == 0, within_s=1)
    assert [turn["content"] for turn in faces.chats["1"].transcript] == ["hello", PIECE]
    stub_host.node._loop.call_soon_threadsafe(stub_host.engine.gate.set)
    assert ask(screen, host=linked)["text"] == PIECE * 4
    screen.call("chat_stop", chat="1")
    screen.call("chat_stop", chat="nobody's")


def test_an_error_is_a_message_in_its_place_and_the_chat_goes_on(
    screen: Screen, engine: StubEngine, node: BackgroundNode
) -> None:
    engine.error = BackendError("The engine is \x1b[31mbroken.")
    ask(screen)
    assert "broken" in last(screen, "error")["text"] and last(screen, "error")["text"].isprintable()
    assert (last(screen)["text"], last(screen)["streaming"]) == (PIECE * 4, False)
    engine.error = ZeroDivisionError()
    ask(screen, model="none-such")
    screen.until(lambda: "none-such" in last(screen, "error")["text"])
    engine.error = None
    assert ask(screen)["foot"].startswith("this machine")


def test_a_host_that_cannot_be_linked_refuses_the_question_and_nothing_is_shown(
    screen: Screen, linked: str, stub_host: StubHost, faces: Faces
) -> None:
    stub_host.node.stop()
    screen.host(linked, state="unreachable")
    with pytest.raises(Refused, match="Nothing listens"):
        screen.call("chat_ask", chat="1", prompt="hello", host="anna")
    assert told(screen) == []
    assert faces.chats["1"].state() == {"chat": "1", "count": 0, "chosen": None, "running": False, "messages": []}
    assert ask(screen)["text"] == PIECE * 4


@pytest.fixture
def linking(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set: linking to a host may end, in vain."""
    may_end = threading.Event()

    def link(host: str) -> None:
        may_end.wait(10)
        raise ConnectError(f"{host} does not answer.")

    monkeypatch.setattr(notebook, "link", link)
    return may_end


def test_two_pages_cannot_ask_at_once_not_even_while_the_host_is_being_linked(
    screen: Screen, faces: Faces, linking: threading.Event
) -> None:
    first = screen.ask("chat_ask", {"chat": "1", "prompt": "one", "host": "slow"})
    until_in_thread(lambda: faces.chats["1"].state()["running"])
    with pytest.raises(Refused, match="An answer is still coming: stop it, or wait"):
        Screen(faces.listeners).call("chat_ask", chat="1", prompt="two")
    linking.set()
    assert screen.reply(first)["error"] == "slow does not answer."
    assert ask(screen)["text"] == PIECE * 4


def test_stop_holds_for_a_question_whose_host_is_still_being_linked(
    screen: Screen, faces: Faces, notebook: Notebook, engine: StubEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end, node = threading.Event(), notebook.node()

    def slow_node(name: str | None = None) -> BackgroundNode:
        may_end.wait(10)
        return node

    monkeypatch.setattr(notebook, "node", slow_node)
    asked = screen.ask("chat_ask", {"chat": "1", "prompt": "hello"})
    until_in_thread(lambda: faces.chats["1"].state()["running"])
    screen.call("chat_stop", chat="1")
    may_end.set()
    screen.reply(asked)
    screen.until(lambda: told(screen)[-1]["running"] is False)
    assert engine.seen == [] and not faces.chats["1"].state()["running"]


def test_a_chat_that_is_cleared_while_it_answers_stays_empty(
    screen: Screen, hold: Callable[[bool], None], faces: Faces, engine: StubEngine
) -> None:
    hold(True)
    screen.call("chat_ask", chat="1", prompt="hello")
    screen.until(lambda: last(screen)["text"] == PIECE)
    screen.call("chat_clear", chat="1")
    empty: Message = {"chat": "1", "chosen": None, "running": False, "messages": []}
    assert told(screen)[-1] == empty | {"count": len(told(screen))}
    hold(False)
    until_in_thread(lambda: engine.running == 0)
    assert screen.call("chat_state", chat="1") == told(screen)[-1] == empty | {"count": len(told(screen))}
    assert (faces.chats["1"].transcript, faces.chats["1"].answers) == ([], [])
    ask(screen)
    assert len(engine.seen[-1].messages) == 1


def test_what_ends_late_is_no_turn_of_a_chat_that_was_cleared_meanwhile(
    screen: Screen, hold: Callable[[bool], None], faces: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()
    monkeypatch.setattr(chat, "_END_S", 0.0)
    monkeypatch.setattr(chat, "to_html", lambda _text: may_end.wait(10) and "")
    hold(True)
    screen.call("chat_ask", chat="1", prompt="hello")
    until_in_thread(lambda: (stream := faces.chats["1"]._stream) is not None and stream.answer.text)
    screen.call("chat_clear", chat="1")
    hold(False)
    may_end.set()
    until_in_thread(lambda: not faces.chats["1"].state()["running"])
    assert faces.chats["1"].transcript == []


def test_a_second_view_shows_the_same_and_is_told_the_same(
    screen: Screen, faces: Faces, hold: Callable[[bool], None]
) -> None:
    ask(screen, "one")
    hold(True)
    screen.call("chat_ask", chat="1", prompt="two")
    screen.until(lambda: last(screen)["text"] == PIECE)
    second = Screen(faces.listeners)
    whole = second.call("chat_state", chat="1")
    assert whole["running"] is True
    assert [(each["role"], each["text"]) for each in whole["messages"]] == [
        ("user", "one"),
        ("assistant", PIECE * 4),
        ("user", "two"),
        ("assistant", PIECE),
    ]
    assert [each["streaming"] for each in whole["messages"]] == [False, False, False, True]
    hold(False)
    for view in (screen, second):
        view.until(lambda view=view: not last(view)["streaming"])  # type: ignore[misc]
    assert last(screen) == last(second)
    assert last(second)["id"] == whole["messages"][-1]["id"]
    assert second.call("chat_state", chat="2")["messages"] == [], "another chat has a transcript of its own"


def test_a_chat_asks_whom_the_notebook_asks_until_it_has_a_choice_of_its_own(
    screen: Screen, linked: str, stub_host: StubHost, engine: StubEngine
) -> None:
    screen.call("choose", host="anna", model="stub-2")
    assert ask(screen)["foot"].startswith("anna · stub-2")
    assert screen.call("chat_state", chat="1")["chosen"] is None
    assert ask(screen, host="local", model="stub-1")["foot"].startswith("this machine · stub-1")
    own = {"id": "local", "name": "this machine", "model": "stub-1"}
    assert screen.call("chat_state", chat="1")["chosen"] == own
    ask(screen, host="anna", model="stub-1")
    chosen = {"id": linked, "name": "anna", "model": "stub-1"}
    assert screen.call("chat_state", chat="1")["chosen"] == chosen
    assert screen.state["chosen"]["model"] == "stub-2", "the notebook's stays"
    assert [each.model for each in stub_host.engine.seen] == ["stub-2", "stub-1"]


def test_what_a_model_writes_cannot_act(screen: Screen, engine: StubEngine) -> None:
    engine.texts = ("<script>alert(1)</script>", "\x1b]0;owned\x07", "**bold** \u202e[x](javascript:alert(1))\n\nend")
    said = ask(screen)
    assert "<script" not in said["html"] and "href" not in said["html"]
    assert "<strong>bold</strong>" in said["html"]
    assert all(text.isprintable() for text in said["text"].split("\n"))


def test_a_node_that_is_stopped_ends_the_answer_in_every_view(screen: Screen, hold: Callable[[bool], None]) -> None:
    hold(True)
    screen.call("chat_ask", chat="1", prompt="hello")
    screen.until(lambda: last(screen)["text"] == PIECE)
    screen.call("stop")
    screen.until(lambda: not last(screen)["streaming"])
    assert told(screen)[-1]["running"] is False
    assert screen.call("chat_state", chat="1")["messages"][-1]["streaming"] is False


def test_there_are_not_more_chats_than_a_kernel_can_bear(faces: Faces) -> None:
    for number in range(CHATS_LIMIT):
        assert faces.chats[str(number)].state()["messages"] == []
    with pytest.raises(Busy, match=f"There are {CHATS_LIMIT} chats in this kernel: close one"):
        faces.chats["one more"]
    assert faces.chats["0"].state()["chat"] == "0"
    faces.chats.close("0")
    assert faces.chats["one more"].state()["messages"] == []


def test_a_chat_that_is_closed_while_it_answers_frees_its_slot(
    screen: Screen, hold: Callable[[bool], None], faces: Faces, engine: StubEngine
) -> None:
    hold(True)
    screen.call("chat_ask", chat="1", prompt="hello")
    screen.until(lambda: last(screen)["text"] == PIECE)
    faces.chats.close("1")
    until_in_thread(lambda: engine.running == 0)
    assert faces.chats["1"].state()["messages"] == []
    faces.chats.close("nobody's")


def test_a_chat_that_is_cleared_while_python_waits_gives_what_came(
    screen: Screen, notebook: Notebook, hold: Callable[[bool], None], faces: Faces
) -> None:
    """The reader's button is heard while the cell runs."""
    hold(True)
    chat = faces.chats["1"]

    def clear() -> None:
        screen.until(lambda: last(screen)["text"] == PIECE)
        chat.clear()

    clearing = threading.Thread(target=clear)
    clearing.start()
    answer = chat.ask_and_wait("hello")
    clearing.join(10)
    assert (answer.text, answer.finish_reason) == (PIECE, "cancelled")
    assert not chat.answers and not messages(screen, "assistant")
