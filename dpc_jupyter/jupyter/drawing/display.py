"""One answer in a cell: a live line while it waits, the text as it comes, and where it came from."""

from __future__ import annotations

import html
import time
from typing import Any

import msgspec
from IPython.display import DisplayHandle, display

from dpc_jupyter.node.asking import Answer
from dpc_jupyter.sanitize import plain
from dpc_jupyter.wording import provenance

# A refusal comes within milliseconds; the live line of a request that ends at once would only flicker.
QUIET_S = 0.25
_RENDER_SHARE = 4
# More than any answer of MAX_TOKENS has; all of it is in the Answer.
SHOWN_CHARS = 200_000
# Every update of a text sends all of its formulas through MathJax again: with more of these marks than this, the page
# falls seconds behind the model. They are typeset at the end.
_LIVE_FORMULAS, _LIVE_COMMANDS = 40, 400
# Over less than this, a speed is noise.
_SPEED_AFTER_S = 0.5
# Inline, because a stylesheet would not outlive the kernel in a saved notebook; both themes by their own text colour.
_QUIET_STYLE = "font-size:12px;opacity:.75;padding-left:7px"
# A formula can be moved and enlarged: it must not paint over what is not the answer's.
_ANSWER_STYLE = "contain:paint;overflow-x:auto"
_FOOT_STYLE = (
    "font-size:11px;opacity:.7;margin:8px 0 2px;padding-left:8px;"
    "border-left:2px solid var(--jp-border-color1,currentColor)"
)


def interval_s(chars: int) -> float:
    """Seconds between two updates of a text: at a fixed rate a long one falls behind by a minute (jupyter.md)."""
    return max(0.05, chars / 100_000)


def bundle(text: str, foot: str = "", thinking: str = "", *, raw: bool = False, typeset: bool = True) -> dict[str, str]:
    """An answer as text and as HTML that cannot act; never as ``text/markdown``.

    Parameters
    ----------
    text, thinking : str
        As the model wrote it.
    foot : str
        One line of ours below it.
    raw : bool
        Text alone.
    typeset : bool
        As `rich_text.to_html`.
    """
    shown = plain(text, SHOWN_CHARS)
    if raw:
        return {"text/plain": shown}
    from dpc_jupyter.jupyter.drawing.rich_text import (  # nh3, markdown-it: only once there is an answer
        text_to_html,
        to_html,
    )

    thoughts = plain(thinking, SHOWN_CHARS).strip()
    parts = [
        f'<details style="font-size:12px;opacity:.75"><summary>Thinking</summary><pre style="white-space:pre-wrap">'
        f"{html.escape(thoughts)}</pre></details>"
        if thoughts
        else "",
        f'<div style="{_ANSWER_STYLE}">{to_html(shown, typeset=typeset)}</div>',
        f'<div style="{_FOOT_STYLE}">{text_to_html(foot)}</div>' if foot else "",
    ]
    lines = [part for part in (shown.rstrip(), foot) if part]
    return {"text/plain": "\n\n".join(lines), "text/html": f'<div style="padding-left:7px">{"".join(parts)}</div>'}


def metadata(answer: Answer) -> dict[str, Any]:
    """Where an answer came from, for the output's metadata: ids, model, digest, options, usage, timings; no text."""
    facts = msgspec.to_builtins(answer)
    return {"dpc": {key: value for key, value in facts.items() if key not in ("text", "thinking")}}


class CellAnswer:
    """Draws one answer with one display handle, so that it stays in its cell.

    Parameters
    ----------
    raw : bool
        Text alone.
    """

    def __init__(self, *, raw: bool = False) -> None:
        self._raw = raw
        self._handle: DisplayHandle | None = None
        self._text: list[str] = []
        self._line = ""
        self._chars = self._pieces = 0
        self._began = 0.0
        self._stale = False
        self._pause, self._paused_at = "", 0.0
        self._next_at = time.monotonic() + QUIET_S

    def wait(self, line: str) -> None:
        """Say where the request stands, as long as there is nothing to read."""
        if not self._chars and not self._raw and line != self._line and time.monotonic() >= self._next_at:
            self._line = line
            from dpc_jupyter.jupyter.drawing.rich_text import text_to_html

            self._draw({"text/plain": line, "text/html": f'<div style="{_QUIET_STYLE}">{text_to_html(line)}</div>'})

    def pause(self, line: str) -> None:
        """Say below the text why it does not go on; as `wait` where there is none."""
        if not self._chars:
            self.wait(line)
        elif not self._raw and line != self._pause:
            self._paused_at = self._paused_at or time.monotonic()
            self._pause, self._stale = line, True

    def add(self, piece: str) -> None:
        """Take the next piece, and draw if it is time."""
        if not self._chars:
            self._next_at, self._began = 0.0, time.monotonic()
        if self._pause:  # which is no time of the model's
            self._began += time.monotonic() - self._paused_at
            self._pause, self._paused_at = "", 0.0
        self._text.append(piece)
        self._chars += len(piece)
        self._pieces += 1
        self._stale = True
        self.tick()

    def tick(self) -> None:
        """Draw what has come since the last time, if it is time."""
        if not self._stale or (now := time.monotonic()) < self._next_at:
            return
        self._text = ["".join(self._text)]
        text = self._text[0]
        marks = text.count("$") + text.count("\\(") + text.count("\\[")
        typeset = marks <= _LIVE_FORMULAS and text.count("\\") <= _LIVE_COMMANDS
        self._draw(bundle(text, "" if self._raw else self._pause or self._speed(now), raw=self._raw, typeset=typeset))
        spent = time.monotonic() - now
        self._next_at = now + max(interval_s(self._chars), _RENDER_SHARE * spent)
        self._stale = False

    def end(self, answer: Answer) -> None:
        """Draw the whole answer, or what came of it, and where it came from."""
        if answer.text or answer.thinking or answer.error is None:
            foot = "" if self._raw else provenance(answer)
            self._draw(bundle(answer.text, foot, answer.thinking, raw=self._raw), metadata(answer))
        elif self._handle is not None:
            self._draw({"text/plain": "", "text/html": ""}, metadata(answer))

    def _speed(self, now: float) -> str:
        """How fast it comes; a line from the first text on, so that nothing jumps when a number is there."""
        lasted = now - self._began
        return f"{(self._pieces - 1) / lasted:.0f} tokens/s" if lasted > _SPEED_AFTER_S else "answering"

    def _draw(self, data: dict[str, str], facts: dict[str, Any] | None = None) -> None:
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True, metadata=facts or {})
        else:
            self._handle.update(data, raw=True, metadata=facts or {})
