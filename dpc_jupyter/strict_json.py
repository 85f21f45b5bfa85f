"""Strict JSON: one text has one meaning, so that no two readers of it can differ.

`json` keeps the last of two equal keys, reads NaN and Infinity, and takes 1e999 for infinite; here each is refused.
The standard library's parser does it, not msgspec's, because only it can see a duplicate key.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NoReturn


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is out of range")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)

# Both raise ValueError (json.JSONDecodeError where the grammar is broken), or RecursionError where `text` is too deep.
# They are the decoder's own methods: a wrapper would cost each frame a call.
loads: Callable[[str], Any] = _DECODER.decode
"""Parse a text that is one JSON value."""
value_at: Callable[[str, int], tuple[Any, int]] = _DECODER.raw_decode
"""Parse the JSON value that begins at an offset of a text; returns it and the offset behind it."""
