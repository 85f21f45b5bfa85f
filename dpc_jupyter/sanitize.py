"""Text from a peer, made safe to print: one pure function that every face uses."""

from __future__ import annotations

import re

# C0 but tab and newline, DEL, C1 (a terminal obeys 0x9b as it does ESC [), the bidirectional controls that reorder
# what a reader sees (CVE-2021-42574), zero-width and line separators that hide or split it, and lone surrogates,
# which no output can encode.
_HOSTILE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
# A whole escape sequence goes, not its ESC alone, or its arguments would stay as litter.
_ESCAPE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC (with OSC-8 links), DCS, SOS, PM, APC
    r"|\x1b[ -/]*[0-~]?"
)

_WORD = re.compile(r"\w[\w.:@/+-]*")


def plain(text: str, limit: int | None = None) -> str:
    """Drop what could act on a terminal or mislead a reader; keep every printable character.

    Parameters
    ----------
    text : str
        Text that a peer or a model wrote.
    limit : int, optional
        Longest result in characters; a cut is marked with an ellipsis.

    Returns
    -------
    str
        The same text with carriage returns as newlines and without control characters.
    """
    cleaned = _HOSTILE.sub("", _ESCAPE.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
    return cleaned if limit is None or len(cleaned) <= limit else cleaned[: limit - 1] + "…"


def label(text: str, limit: int = 64) -> str:
    """A peer's name or model name: `plain`, on one line, cut to `limit` characters."""
    return plain(" ".join(text.split()), limit)


def is_word(text: str) -> bool:
    """Whether a peer's text may stand in a command that a user will paste or complete.

    Neither a shell nor IPython, which evaluates ``{...}`` in a magic's line, reads anything into such a word, and it
    is no option and no wildcard.
    """
    return _WORD.fullmatch(text) is not None
