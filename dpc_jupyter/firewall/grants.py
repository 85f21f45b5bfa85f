"""From a checked access file to what each node may do: the terms of its own, its groups' and everybody's, merged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from datetime import datetime
from typing import Any

from dpc_jupyter.firewall.access_file import end_of, plain
from dpc_jupyter.firewall.places import Document


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
class Models:
    """A set of model names, some of them by their beginning."""

    names: frozenset[str]
    prefixes: tuple[str, ...]

    @classmethod
    def of(cls, patterns: Iterable[str]) -> Models:
        """Patterns as the access file has them: a name, or its beginning and a ``*``."""
        names = frozenset(patterns)
        return cls(names, tuple(name[:-1] for name in names if name.endswith("*")))

    def __contains__(self, model: str) -> bool:
        return model in self.names or model.startswith(self.prefixes)


@dataclass(frozen=True, slots=True)
class Grant:
    """The terms of one node that is let in: `groups` are those that let it in, `patterns` is `models` as written."""

    groups: tuple[str, ...]
    patterns: tuple[str, ...]
    models: Models
    expires: datetime | None
    limits: Limits


def limits_over(terms: Mapping[str, Any], base: Limits = DEFAULT_LIMITS) -> Limits:
    """The limits that `terms` set, over `base`."""
    return replace(base, **plain(terms.get("limits", {})))


def compile_grants(document: Document) -> dict[str, Grant]:
    """Every node that a checked `document` lets in, by its id."""
    compute, terms = document.get("compute", {}), plain(document.get("groups", {}))
    base = limits_over(compute)
    groups_of: dict[str, list[str]] = {node_id: [] for node_id in compute.get("allow_nodes", [])}
    for group in dict.fromkeys(compute.get("allow_groups", [])):
        for node_id in dict.fromkeys(document.get("node_groups", {}).get(group, [])):
            groups_of.setdefault(node_id, []).append(group)
    return {
        node_id: _grant(document.get("nodes", {}).get(node_id, {}), groups, [terms.get(g, {}) for g in groups], base)
        for node_id, groups in groups_of.items()
    }


def _grant(own: Document, groups: list[str], terms: list[Document], base: Limits) -> Grant:
    patterns = own.get("allowed_models") or [p for term in terms for p in term.get("allowed_models") or ["*"]] or ["*"]
    layers = [astuple(limits_over(term, base)) for term in terms] or [astuple(base)]
    generous = (max(values, key=lambda v: float("inf") if v is None else v) for values in zip(*layers, strict=True))
    return Grant(
        groups=tuple(groups),
        patterns=tuple(dict.fromkeys(patterns)),
        models=Models.of(patterns),
        expires=end_of(own["expires"]) if "expires" in own else None,
        limits=limits_over(own, Limits(*generous)),
    )
