from __future__ import annotations

import io

from hypothesis import example, given
from hypothesis import strategies as st

from dpc_jupyter.sanitize import plain
from dpc_jupyter.terminal import PlainStream, TerminalAnswer

PIECES = st.lists(st.text(alphabet="\x1b\x9b[]()3;18m\\\x07\r\nab \u202e", max_size=6), max_size=12)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@given(PIECES)
@example(["\x1b[3", "1mred"])
@example(["\x1b]8;;http://evil.example", "\x1b", "\\link"])
@example(["a\r", "\nb"])
def test_a_sequence_split_over_pieces_is_dropped_as_if_it_came_whole(pieces: list[str]) -> None:
    stream = PlainStream()
    shown = "".join(map(stream.feed, pieces)) + stream.rest()
    assert shown == plain("".join(pieces))
    assert not set(shown) & {"\x1b", "\x9b", "\x07", "\r", "\u202e"}


def test_text_before_an_unfinished_sequence_is_shown_at_once() -> None:
    stream = PlainStream()
    assert stream.feed("ready\x1b") == "ready"
    assert stream.feed("[0m now") == " now"


def test_a_sequence_that_never_ends_is_not_kept_for_ever() -> None:
    stream = PlainStream()
    stream.feed("\x1b]")
    for _ in range(100):
        stream.feed("x" * 1000)
    assert len(stream._held) < 5000


def test_the_live_line_gives_way_to_the_text() -> None:
    screen = Screen()
    terminal = TerminalAnswer(screen)
    terminal.wait("2nd in line at anna")
    terminal.add("Hello")
    terminal.wait("not now")
    terminal.end("anna · m")
    assert screen.getvalue() == ("\r\x1b[2K\x1b[2m2nd in line at anna\x1b[0m\r\x1b[2KHello\n\x1b[2manna · m\x1b[0m\n")


def test_a_pipe_gets_no_escape_sequences_of_ours() -> None:
    pipe = io.StringIO()
    terminal = TerminalAnswer(pipe)
    terminal.wait("waiting")
    terminal.add("Hello\n")
    terminal.end("anna · m")
    assert pipe.getvalue() == "Hello\nanna · m\n"


def test_quiet_is_the_text_alone() -> None:
    pipe = io.StringIO()
    terminal = TerminalAnswer(pipe, quiet=True)
    terminal.add("Hello")
    terminal.end("anna · m")
    assert pipe.getvalue() == "Hello\n"
