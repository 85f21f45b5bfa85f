"""What an access file may hold: shapes, and the sentence for what does not fit.

D-PC Messenger keeps sections of its own in the same file (``hub``, ``ai_scopes``, ``notifications``): they stay as they
are. One that is nearly called like one of ours is refused, since ignoring it would lose what it restricts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from difflib import get_close_matches
from typing import Any, TypeAlias

from dpc_jupyter.errors import ConfigError
from dpc_jupyter.firewall.places import Document, KeyPath, fail, locate, parse_json


def parse_access(text: str) -> Document:
    """Read the text of an access file.

    Raises
    ------
    ConfigError
        It is not JSON, or holds what an access file may not; line and column are named.
    """
    document = parse_json(text)
    try:
        _validate(document)
    except _Wrong as wrong:
        fail(text, locate(text).get(wrong.path, 0), str(wrong))
    return document


def check_access(document: Document) -> Document:
    """Give back a document that an access file may hold.

    Raises
    ------
    ConfigError
        It holds what an access file may not; the keys that lead there are named.
    """
    try:
        _validate(document)
    except _Wrong as wrong:
        raise ConfigError(f"{'.'.join(map(str, wrong.path))}: {wrong}") from None
    return document


def plain(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Without the notes."""
    return {key: value for key, value in mapping.items() if not key.startswith("_")}


def end_of(text: str) -> datetime:
    """The moment at which access ends; ValueError or OverflowError where `text` names none."""
    if "T" not in text and " " not in text:
        return datetime.combine(date.fromisoformat(text) + timedelta(days=1), time(), UTC)
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError
    return moment.astimezone(UTC)


class _Wrong(Exception):
    def __init__(self, path: KeyPath, sentence: str) -> None:
        super().__init__(sentence)
        self.path = path


@dataclass(frozen=True)
class _Leaf:
    words: str
    holds: Callable[[Any], object]


def _text(words: str, pattern: str) -> _Leaf:
    return _Leaf(words, lambda value: isinstance(value, str) and re.fullmatch(pattern, value))


def _count(least: int, most: int) -> _Leaf:
    words = f"a whole number from {least:,} to {most:,}"
    return _Leaf(words, lambda value: type(value) is int and least <= value <= most)


def _is_moment(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(end_of(value))
    except (ValueError, OverflowError):
        return False


_Shape: TypeAlias = "Mapping[str | _Leaf, _Shape] | list[_Leaf] | _Leaf"

_FLAG = _Leaf("true or false", lambda value: isinstance(value, bool))
NODE = _text("a node id, which starts with dpc-node-", r"dpc-node-\S{1,119}")
# What a file holds may be anybody's, a typing error too; what an editor adds shall be somebody.
WHOLE_NODE = _text(
    "a node id: dpc-node- and 32 hex digits, as its owner sees it in %dpc_status", r"dpc-node-[0-9a-f]{32}"
)
GROUP = _text("the name of a group, which does not start with _", r"[^_].{0,127}")
_MODEL = _text("the name of a model, where * may only be the last letter", r"[^*]{0,255}\*|[^*]{1,256}")
_NAME = _text("a name of 1 to 128 letters that does not start with dpc-node-", r"(?!dpc-node-).{1,128}")
_MOMENT = _Leaf("a date, or a time with its zone such as 2026-11-28T18:00:00Z", _is_moment)
_TOKENS = _count(0, 2**53)
_LIMITS: Mapping[str | _Leaf, _Shape] = {
    "requests_per_minute": _count(1, 60_000),  # the queue remembers this many moments a peer
    "tokens_per_day": _Leaf(f"{_TOKENS.words}, or null", lambda value: value is None or _TOKENS.holds(value)),
    "running": _count(1, 1024),
    "queued": _count(0, 1024),
}
_TERMS: Mapping[str | _Leaf, _Shape] = {"allowed_models": [_MODEL], "limits": _LIMITS}
_COMPUTE: Mapping[str | _Leaf, _Shape] = {
    "enabled": _FLAG,
    "paused": _FLAG,
    "allow_groups": [GROUP],
    "allow_nodes": [NODE],
    **_TERMS,
}
_RELAY: Mapping[str | _Leaf, _Shape] = {
    "enabled": _FLAG,
    "allow_groups": [GROUP],
    "allow_nodes": [NODE],
    "sessions": _count(1, 64),
    "megabytes_per_day": _count(1, 2**20),
}
_SECTIONS: Mapping[str, _Shape] = {
    "compute": _COMPUTE,
    "relay": _RELAY,
    "node_groups": {GROUP: [NODE]},
    "groups": {GROUP: _TERMS},
    "nodes": {NODE: {"name": _NAME, "legacy_ok": _FLAG, "expires": _MOMENT, **_TERMS}},
}
_THEIRS = {"file_groups"}  # D-PC Messenger's, in its default file, and nearly called like node_groups


def _validate(document: Document) -> None:
    for key, section in plain(document).items():
        if key in _SECTIONS:
            _check(section, _SECTIONS[key], (key,))
        elif key in _COMPUTE:  # ignoring it would lose what it restricts
            raise _Wrong((key,), f"{key!r} belongs inside 'compute'")
        elif key not in _THEIRS and (near := get_close_matches(key.casefold(), _SECTIONS)):
            raise _Wrong((key,), f"unknown key {key!r}; did you mean {near[0]!r}?")
    known = {*document.get("node_groups", {}), *document.get("compute", {}).get("allow_groups", [])}
    for group in plain(document.get("groups", {})):
        if group not in known:  # a misspelt group would lose its restrictions
            raise _Wrong(
                ("groups", group), f"no group is called {group!r}; known: {', '.join(sorted(known)) or 'none'}"
            )


def _check(value: Any, shape: _Shape, path: KeyPath) -> None:
    if isinstance(shape, _Leaf):
        if not shape.holds(value):
            raise _Wrong(
                path, f"{path[-1]!r} must be {shape.words}" if isinstance(path[-1], str) else f"must be {shape.words}"
            )
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise _Wrong(path, f"{path[-1]!r} must be a list [...]")
        for index, item in enumerate(value):
            _check(item, shape[0], (*path, index))
    else:
        if not isinstance(value, dict):
            raise _Wrong(path, f"{path[-1]!r} must be an object {{...}}")
        for key, item in value.items():
            if not key.startswith("_"):
                _check(item, _inner(key, shape, (*path, key)), (*path, key))


def _inner(key: str, shape: Mapping[str | _Leaf, _Shape], path: KeyPath) -> _Shape:
    for known, inner in shape.items():
        if known.holds(key) if isinstance(known, _Leaf) else known == key:
            return inner
    choices = ", ".join(known.words if isinstance(known, _Leaf) else known for known in shape)
    raise _Wrong(path, f"unknown key {key!r}; known: {choices}")
