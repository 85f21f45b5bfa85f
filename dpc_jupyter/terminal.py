"""An answer on a text terminal: pieces as they come, and one live line while there is nothing to read."""

from __future__ import annotations

import re
from typing import TextIO

from dpc_jupyter.sanitize import plain

# An escape sequence, or half a line end, that the next piece may complete.
_UNFINISHED = re.compile(r"(?:\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)?|\r)\Z")
# No honest escape sequence is longer; without a limit a hostile one would be searched again for every piece.
_HELD_LIMIT_CHARS = 4096
_CLEAR_LINE = "\r\x1b[2K"
_DIM, _NORMAL = "\x1b[2m", "\x1b[0m"


class PlainStream:
    """`sanitize.plain` for text that comes in pieces: a sequence split over two of them does not slip through."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """What can be shown now."""
        text = self._held + piece
        unfinished = _UNFINISHED.search(text)
        cut = (
            len(text)
            if unfinished is None or len(text) - unfinished.start() > _HELD_LIMIT_CHARS
            else unfinished.start()
        )
        self._held = text[cut:]
        return plain(text[:cut])

    def rest(self) -> str:
        """What was held back, when no more will come."""
        held, self._held = self._held, ""
        return plain(held)


class TerminalAnswer:
    """Writes one answer.

    Parameters
    ----------
    out : TextIO
        Where the text goes.
    quiet : bool
        The text and nothing else: no live line, no provenance.
    """

    def __init__(self, out: TextIO, *, quiet: bool = False) -> None:
        self._out = out
        self._live = not quiet and out.isatty()
        self._quiet = quiet
        self._line = ""
        self._stream = PlainStream()
        self._last = "\n"

    def wait(self, line: str) -> None:
        """Say where the request stands; on a terminal alone, where the line can be taken back."""
        if self._live and line != self._line and self._last == "\n":
            self._line = line
            self._put(f"{_CLEAR_LINE}{_DIM}{line}{_NORMAL}")

    def add(self, piece: str) -> None:
        """Write the next piece."""
        if text := self._stream.feed(piece):
            self._write(text)

    def end(self, provenance: str) -> None:
        """Finish the text, and say where it came from."""
        self._write(self._stream.rest())
        if self._last != "\n":
            self._write("\n")
        if provenance and not self._quiet:
            self._put(f"{_DIM}{provenance}{_NORMAL}\n" if self._out.isatty() else f"{provenance}\n")

    def _write(self, text: str) -> None:
        if self._line:
            self._line = ""
            self._put(_CLEAR_LINE)
        if text:
            self._last = text[-1]
            self._put(text)

    def _put(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
