"""JSON with places: what is wrong, or what decided, is named by line and column."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn, TypeAlias

from dpc_jupyter import strict_json
from dpc_jupyter.errors import ConfigError

Document: TypeAlias = dict[str, Any]
KeyPath: TypeAlias = tuple[str | int, ...]


def parse_json(text: str) -> Document:
    """Read one JSON object strictly: no duplicate keys, no NaN, no number that is infinite.

    Raises
    ------
    ConfigError
        Naming line and column, both counted from 1.
    """
    try:
        document = strict_json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError):
        locate(text)  # raises where the fault is
        fail(text, 0, "nested too deeply")
    if not isinstance(document, dict):
        fail(text, 0, "must be one object {...}")
    return document


def dumps(document: Mapping[str, Any]) -> str:
    """The text to keep a document as; `parse_json` reads the same document back."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def position(text: str, at: int) -> tuple[int, int]:
    """Line and column of an offset, both counted from 1."""
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


def fail(text: str, at: int, sentence: str) -> NoReturn:
    """Raise the ConfigError for what stands at an offset."""
    line, column = position(text, at)
    raise ConfigError(f"line {line}, column {column}: {sentence}")


_GAP = re.compile(r"[\s,:]*")


def locate(text: str) -> dict[KeyPath, int]:
    """Map each value's path to its offset; `text` is known to be JSON but for faults that only places can tell."""
    found: dict[KeyPath, int] = {}

    def skip(at: int) -> int:
        gap = _GAP.match(text, at)
        return gap.end() if gap else at

    def scalar(at: int) -> tuple[Any, int]:
        try:
            return strict_json.value_at(text, at)
        except ValueError as error:
            fail(text, at, str(error))

    def walk(at: int, path: KeyPath) -> int:
        found[path] = at
        if text[at] not in "{[":
            return scalar(at)[1]
        opening, index, at = text[at], 0, skip(at + 1)
        while text[at] not in "}]":
            key, behind = scalar(at) if opening == "{" else (index, at)
            if (*path, key) in found:
                fail(text, at, f"the key {key!r} is there twice")
            at, index = skip(walk(skip(behind), (*path, key))), index + 1
        return at + 1

    with suppress(RecursionError):  # nothing of ours is as deep as that, and other places are not needed
        walk(skip(0), ())
    return found
