"""Who may ask for which model: rules are frozen values, decisions are pure, and what is not allowed is denied.

The owner writes ``~/.dpc/.dpc_access.json`` (seed document, section Firewall Integration). A node is let in by
``compute.allow_nodes`` or by a group of ``compute.allow_groups``. It may use its own ``allowed_models``, else those of
its groups together, else all; never more than ``compute.allowed_models``. Keys that start with ``_`` are notes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import astuple, dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NoReturn, TypeAlias

from dpc_jupyter.errors import ConfigError

Document: TypeAlias = dict[str, Any]
_Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one peer may take of this host at most.

    Attributes
    ----------
    requests_per_minute : int
        In any 60 s, from 1 to 60,000.
    tokens_per_day : int or None
        Prompt and response tokens in one UTC day; None is no limit.
    running, queued : int
        Requests at once, over all backends.
    """

    requests_per_minute: int = 60
    tokens_per_day: int | None = None
    running: int = 2
    queued: int = 8


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Decision:
    """An answer for the owner: `reason` says which line of the access file decided, `line` counts from 1."""

    allowed: bool
    reason: str
    line: int | None


@dataclass(frozen=True, slots=True)
class _Models:
    names: frozenset[str]
    prefixes: tuple[str, ...]

    @classmethod
    def of(cls, patterns: Iterable[str]) -> _Models:
        names = frozenset(patterns)
        return cls(names, tuple(name[:-1] for name in names if name.endswith("*")))

    def __contains__(self, model: str) -> bool:
        return model in self.names or model.startswith(self.prefixes)


@dataclass(frozen=True, slots=True)
class _Grant:
    groups: tuple[str, ...]
    patterns: tuple[str, ...]
    models: _Models
    expires: datetime | None
    limits: Limits


@dataclass(frozen=True)
class Rules:
    """One version of the access file, compiled. Every ``now`` is a `datetime` with a time zone.

    Attributes
    ----------
    enabled : bool
        ``compute.enabled``.
    error : str or None
        Why the file cannot be used; everybody is denied then.
    """

    enabled: bool = False
    error: str | None = None
    _text: str = field(default="{}", repr=False)
    _document: Document = field(default_factory=dict, repr=False)
    _grants: Mapping[str, _Grant] = field(default_factory=dict, repr=False)
    _nodes: Mapping[str, Document] = field(default_factory=dict, repr=False)
    _ceiling: _Models = field(default_factory=lambda: _Models.of(["*"]), repr=False)
    _limits: Limits = DEFAULT_LIMITS

    @classmethod
    def parse(cls, text: str) -> Rules:
        """Compile the text of an access file.

        Raises
        ------
        ConfigError
            It is not JSON, or holds what an access file may not; line and column are named.
        """
        document = parse_json(text)
        try:
            _validate(document)
        except _Wrong as wrong:
            _fail(text, _locate(text).get(wrong.path, 0), str(wrong))
        compute = document.get("compute", {})
        return cls(
            enabled=compute.get("enabled", False),
            _text=text,
            _document=document,
            _grants=_grants(document),
            _nodes=_plain(document.get("nodes", {})),
            _ceiling=_Models.of(compute.get("allowed_models") or ["*"]),
            _limits=_base_limits(compute),
        )

    @classmethod
    def deny_all(cls, reason: str) -> Rules:
        """Rules for an access file that cannot be used."""
        return cls(error=reason)

    def can_request_inference(self, node_id: str, model: str, now: datetime) -> bool:
        """Whether `node_id` may run `model`, the resolved name, now. Costs about a microsecond."""
        return self.is_known(node_id, now) and model in self._grants[node_id].models and model in self._ceiling

    def is_known(self, node_id: str, now: datetime) -> bool:
        """Whether sharing is on and `node_id` is listed, directly or by a group, and has not expired."""
        grant = self._grants.get(node_id)
        return self.enabled and grant is not None and (grant.expires is None or now < grant.expires)

    def get_available_models_for_peer(self, node_id: str, models: Iterable[str], now: datetime) -> list[str]:
        """Those of `models` that `node_id` may run now, in their order."""
        return [model for model in models if self.can_request_inference(node_id, model, now)]

    def limits_for(self, node_id: str) -> Limits:
        """Limits of `node_id`: its own, over the most generous of its groups, over ``compute``, over the default."""
        grant = self._grants.get(node_id)
        return grant.limits if grant else self._limits

    def legacy_ok(self, node_id: str) -> bool:
        """Whether the owner trusts this peer without channel binding, asking or serving (a D-PC Messenger)."""
        return bool(self._nodes.get(node_id, {}).get("legacy_ok", False))

    def name_of(self, node_id: str) -> str:
        """The owner's name for a node, or the id itself."""
        return str(self._nodes.get(node_id, {}).get("name", node_id))

    def node_by_name(self, name: str) -> str | None:
        """The node that the owner calls `name`.

        Raises
        ------
        ConfigError
            Two nodes have that name.
        """
        found = [node_id for node_id, settings in self._nodes.items() if settings.get("name") == name]
        if len(found) > 1:
            raise ConfigError(f"{len(found)} nodes are named {name!r} in the access file; write the node id instead")
        return found[0] if found else None

    def explain(self, node_id: str, model: str | None, now: datetime) -> Decision:
        """Decide as `can_request_inference` does (as `is_known` where `model` is None), and say why."""
        if self.error is not None:
            return Decision(False, f"no: {self.error}", None)
        allowed, path, words = self._deciding(node_id, model, now)
        at = _locate(self._text).get(path)
        line = None if at is None else _position(self._text, at)[0]
        where = "" if line is None else f"line {line}, "
        return Decision(allowed, f"{'yes' if allowed else 'no'}: {where}{words}", line)

    def _deciding(self, node_id: str, model: str | None, now: datetime) -> tuple[bool, _Path, str]:
        who, grant, compute = self.name_of(node_id), self._grants.get(node_id), self._document.get("compute", {})
        members = _plain(self._document.get("node_groups", {}))
        if not self.enabled:
            how = "is false" if "enabled" in compute else "is not set, which means false"
            return False, ("compute", "enabled"), f"compute.enabled {how}"
        if grant is None:
            for group in (name for name, ids in members.items() if node_id in ids):
                words = f"{who} is in group {group}, which compute.allow_groups does not list"
                return False, ("node_groups", group, members[group].index(node_id)), words
            return False, ("compute",), f"{who} is neither in compute.allow_nodes nor in an allowed group"
        if grant.expires is not None and now >= grant.expires:
            return False, ("nodes", node_id, "expires"), f"the access of {who} ended at {grant.expires.isoformat()}"
        if model is not None and model not in grant.models:
            models = ", ".join(grant.patterns)
            if self._nodes.get(node_id, {}).get("allowed_models"):
                return False, ("nodes", node_id, "allowed_models"), f"allowed_models of {who}: {models}"
            return (
                False,
                ("groups", grant.groups[0], "allowed_models"),
                (f"allowed_models of group {' and '.join(grant.groups)}, where {who} is: {models}"),
            )
        if model is not None and model not in self._ceiling:
            models = ", ".join(compute["allowed_models"])
            return False, ("compute", "allowed_models"), f"compute.allowed_models, which holds for everybody: {models}"
        if grant.groups:
            group = grant.groups[0]
            return True, ("node_groups", group, members[group].index(node_id)), f"in group {group}"
        at = compute["allow_nodes"].index(node_id)
        return True, ("compute", "allow_nodes", at), "in compute.allow_nodes"


def allow(
    document: Mapping[str, Any],
    node_id: str,
    *,
    name: str | None = None,
    models: Sequence[str] = (),
    group: str | None = None,
    expires: str | None = None,
    limits: Mapping[str, int | None] | None = None,
) -> Document:
    """Let a node in, or change its terms; what is not named stays as it is, for this node and for all others.

    Parameters
    ----------
    models : sequence of str
        Added to the models that the node may use by name. For a node that may use all they become the only ones;
        ``["*"]`` gives all.
    group : str or None
        Let it in as a member of this group rather than by ``allow_nodes``.
    expires : str or None
        ISO 8601 with a time zone, or a date, whose whole day (UTC) still counts; ``"never"`` takes an end away.
    limits : mapping or None
        Fields of `Limits`, only for this node.

    Raises
    ------
    ConfigError
        A value is not valid, or the group is not allowed yet and doing so would let in its other members.
    """
    new, before = _begin(document, node_id)
    if group is not None and not _GROUP.holds(group):
        raise ConfigError(f"{group!r} must be {_GROUP.words}")
    compute = new.setdefault("compute", {})
    if group is not None:
        members = new.setdefault("node_groups", {}).setdefault(group, [])
        if group not in compute.get("allow_groups", []):
            if others := len(set(members) - {node_id}):
                raise ConfigError(
                    f"group {group!r} is not allowed yet, and allowing it would let in {others} more; if that is "
                    "meant, add it to compute.allow_groups in the access file"
                )
            compute.setdefault("allow_groups", []).append(group)
        members.extend([] if node_id in members else [node_id])
    elif before is None:
        compute.setdefault("allow_nodes", []).append(node_id)
    settings = new.get("nodes", {}).get(node_id, {})
    if name is not None:
        settings["name"] = name
    if models:
        held = () if before is None or "*" in before.patterns else before.patterns
        settings["allowed_models"] = list(dict.fromkeys([*held, *models]))
    if expires is not None:
        settings["expires"] = expires
    if expires == "never":
        del settings["expires"]
    if limits:
        settings["limits"] = {**settings.get("limits", {}), **limits}
    if settings:
        new.setdefault("nodes", {})[node_id] = settings
    return _checked(new)


def deny(document: Mapping[str, Any], node_id: str, model: str | None = None) -> Document:
    """Take one model from a node, or all access: its listing, its allowed groups, its models and its end date.

    Its name, limits and notes stay. Taking the last model takes all access, because an empty list means all models.

    Raises
    ------
    ConfigError
        The node may use `model` by a ``*``: the models that it keeps must be named first.
    """
    new, grant = _begin(document, node_id)
    if grant is None or (model is not None and model not in grant.models):
        return new
    settings = new.get("nodes", {}).get(node_id, {})
    rest = [pattern for pattern in grant.patterns if pattern != model] if model not in (None, "*") else []
    if model is not None and model in _Models.of(rest):
        who, stars = settings.get("name", node_id), " and ".join(p for p in rest if p.endswith("*"))
        raise ConfigError(
            f"{who} may use {stars}, which covers {model}; name the allowed models instead: "
            f"deny {who}, then allow it with the models that it keeps"
        )
    if rest:
        new.setdefault("nodes", {})[node_id] = {**settings, "allowed_models": rest}
        return _checked(new)
    # Only out of groups that let it in: D-PC Messenger uses the other groups for other permissions.
    compute, members = new["compute"], new.get("node_groups", {})
    for place, key in [(compute, "allow_nodes"), *((members, group) for group in grant.groups)]:
        if key in place:
            place[key] = [listed for listed in place[key] if listed != node_id]
    for key in ("allowed_models", "expires"):
        settings.pop(key, None)
    return _checked(new)


def set_enabled(document: Mapping[str, Any], enabled: bool) -> Document:
    """Turn sharing on or off for everybody."""
    new = _checked(deepcopy(dict(document)))
    new.setdefault("compute", {})["enabled"] = enabled
    return _checked(new)


def _begin(document: Mapping[str, Any], node_id: str) -> tuple[Document, _Grant | None]:
    if not _NODE.holds(node_id):
        raise ConfigError(f"{node_id!r} must be {_NODE.words}")
    new = _checked(deepcopy(dict(document)))
    return new, _grants(new).get(node_id)


def _checked(document: Document) -> Document:
    try:
        _validate(document)
    except _Wrong as wrong:
        raise ConfigError(f"{'.'.join(map(str, wrong.path))}: {wrong}") from None
    return document


# ---- from a checked document to grants


def _plain(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if not key.startswith("_")}


def _base_limits(terms: Mapping[str, Any], base: Limits = DEFAULT_LIMITS) -> Limits:
    return replace(base, **_plain(terms.get("limits", {})))


def _grants(document: Document) -> dict[str, _Grant]:
    compute, terms = document.get("compute", {}), _plain(document.get("groups", {}))
    base = _base_limits(compute)
    groups_of: dict[str, list[str]] = {node_id: [] for node_id in compute.get("allow_nodes", [])}
    for group in dict.fromkeys(compute.get("allow_groups", [])):
        for node_id in dict.fromkeys(document.get("node_groups", {}).get(group, [])):
            groups_of.setdefault(node_id, []).append(group)
    return {
        node_id: _grant(document.get("nodes", {}).get(node_id, {}), groups, [terms.get(g, {}) for g in groups], base)
        for node_id, groups in groups_of.items()
    }


def _grant(own: Document, groups: list[str], terms: list[Document], base: Limits) -> _Grant:
    patterns = own.get("allowed_models") or [p for term in terms for p in term.get("allowed_models") or ["*"]] or ["*"]
    layers = [astuple(_base_limits(term, base)) for term in terms] or [astuple(base)]
    generous = (max(values, key=lambda v: float("inf") if v is None else v) for values in zip(*layers, strict=True))
    return _Grant(
        groups=tuple(groups),
        patterns=tuple(dict.fromkeys(patterns)),
        models=_Models.of(patterns),
        expires=_end_of(own["expires"]) if "expires" in own else None,
        limits=_base_limits(own, Limits(*generous)),
    )


def _end_of(text: str) -> datetime:
    """Raise ValueError or OverflowError where `text` names no moment."""
    if "T" not in text and " " not in text:
        return datetime.combine(date.fromisoformat(text) + timedelta(days=1), time(), UTC)
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError
    return moment.astimezone(UTC)


# ---- what an access file may hold


class _Wrong(Exception):
    def __init__(self, path: _Path, sentence: str) -> None:
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
        return isinstance(value, str) and bool(_end_of(value))
    except (ValueError, OverflowError):
        return False


_Shape: TypeAlias = "Mapping[str | _Leaf, _Shape] | list[_Leaf] | _Leaf"

_FLAG = _Leaf("true or false", lambda value: isinstance(value, bool))
_NODE = _text("a node id, which starts with dpc-node-", r"dpc-node-\S{1,119}")
_GROUP = _text("the name of a group, which does not start with _", r"[^_].{0,127}")
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
_ACCESS: Mapping[str | _Leaf, _Shape] = {
    "compute": {"enabled": _FLAG, "allow_groups": [_GROUP], "allow_nodes": [_NODE], **_TERMS},
    "node_groups": {_GROUP: [_NODE]},
    "groups": {_GROUP: _TERMS},
    "nodes": {_NODE: {"name": _NAME, "legacy_ok": _FLAG, "expires": _MOMENT, **_TERMS}},
}


def _validate(document: Document) -> None:
    _check(document, _ACCESS, ())
    known = {*document.get("node_groups", {}), *document.get("compute", {}).get("allow_groups", [])}
    for group in _plain(document.get("groups", {})):
        if group not in known:  # a misspelt group would lose its restrictions
            raise _Wrong(
                ("groups", group), f"no group is called {group!r}; known: {', '.join(sorted(known)) or 'none'}"
            )


def _check(value: Any, shape: _Shape, path: _Path) -> None:
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


def _inner(key: str, shape: Mapping[str | _Leaf, _Shape], path: _Path) -> _Shape:
    for known, inner in shape.items():
        if known.holds(key) if isinstance(known, _Leaf) else known == key:
            return inner
    choices = ", ".join(known.words if isinstance(known, _Leaf) else known for known in shape)
    raise _Wrong(path, f"unknown key {key!r}; known: {choices}")


# ---- JSON with places


def parse_json(text: str) -> Document:
    """Read one JSON object strictly: no duplicate keys, no NaN or Infinity.

    Raises
    ------
    ConfigError
        Naming line and column, both counted from 1.
    """
    try:
        document = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise ConfigError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError):
        _locate(text)  # raises where the fault is
        _fail(text, 0, "nested too deeply")
    if not isinstance(document, dict):
        _fail(text, 0, "must be one object {...}")
    return document


def dumps(document: Mapping[str, Any]) -> str:
    """The text to keep a document as; `parse_json` reads the same document back."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _unique(pairs: list[tuple[str, Any]]) -> Document:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError
    return document


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _position(text: str, at: int) -> tuple[int, int]:
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


def _fail(text: str, at: int, sentence: str) -> NoReturn:
    line, column = _position(text, at)
    raise ConfigError(f"line {line}, column {column}: {sentence}")


_DECODER = json.JSONDecoder(parse_constant=_refuse)
_GAP = re.compile(r"[\s,:]*")


def _locate(text: str) -> dict[_Path, int]:
    """Map each value's path to its offset; `text` is known to be JSON but for faults that only places can tell."""
    found: dict[_Path, int] = {}

    def skip(at: int) -> int:
        gap = _GAP.match(text, at)
        return gap.end() if gap else at

    def scalar(at: int) -> tuple[Any, int]:
        try:
            return _DECODER.raw_decode(text, at)
        except ValueError as error:
            _fail(text, at, str(error))

    def walk(at: int, path: _Path) -> int:
        found[path] = at
        if text[at] not in "{[":
            return scalar(at)[1]
        opening, index, at = text[at], 0, skip(at + 1)
        while text[at] not in "}]":
            key, behind = scalar(at) if opening == "{" else (index, at)
            if (*path, key) in found:
                _fail(text, at, f"the key {key!r} is there twice")
            at, index = skip(walk(skip(behind), (*path, key))), index + 1
        return at + 1

    with suppress(RecursionError):  # only a note can be as deep as that, and its places are not needed
        walk(skip(0), ())
    return found
