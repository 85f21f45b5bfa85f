"""Edits: a checked access file in, a checked one out; nobody else's access changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from datetime import datetime
from itertools import count
from typing import Any

from dpc_jupyter.errors import ConfigError
from dpc_jupyter.firewall.access_file import GROUP, NODE, check_access
from dpc_jupyter.firewall.grants import Grant, Models, compile_grants
from dpc_jupyter.firewall.places import Document


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
    if group is not None and not GROUP.holds(group):
        raise ConfigError(f"{group!r} must be {GROUP.words}")
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
    return check_access(new)


def widen(
    document: Mapping[str, Any],
    node_id: str,
    *,
    now: datetime,
    name: str | None = None,
    models: Sequence[str] = (),
    group: str | None = None,
    expires: str | None = None,
    limits: Mapping[str, int | None] | None = None,
) -> Document:
    """Let a node in on these terms, beside those that it has: nothing that it may do becomes less.

    It keeps the name that it has here; one that another node has gets a number. A permission that has ended counts as
    none. Parameters and errors as `allow`.
    """
    new, held = _begin(document, node_id)
    settings = new.get("nodes", {}).get(node_id, {})
    name = None if "name" in settings else _free_name(new, name)
    without = deny(document, node_id)
    for key in ("allowed_models", "expires"):  # of a node that was not let in
        without.get("nodes", {}).get(node_id, {}).pop(key, None)
    fresh = allow(without, node_id, name=name, models=models, group=group, expires=expires, limits=limits)
    if held is None or (held.expires is not None and held.expires <= now):
        return fresh
    given = compile_grants(fresh)[node_id]
    new = allow(new, node_id, name=name, group=group)
    both = compile_grants(new)[node_id]  # a group's terms may be narrower than none
    patterns = (
        ["*"] if "*" in {*held.patterns, *given.patterns} else [*dict.fromkeys([*held.patterns, *given.patterns])]
    )
    settings = new.setdefault("nodes", {}).setdefault(node_id, {})
    if set(patterns) != set(both.patterns):
        settings["allowed_models"] = patterns
    if held.expires is not None:
        if given.expires is None:
            del settings["expires"]
        elif given.expires > held.expires:
            settings["expires"] = expires
    ranges = zip(asdict(held.limits).items(), asdict(given.limits).values(), strict=True)
    wider = {field: None if None in (ours, theirs) else max(ours, theirs) for (field, ours), theirs in ranges}
    if more := {field: value for field, value in wider.items() if value != getattr(both.limits, field)}:
        settings["limits"] = {**settings.get("limits", {}), **more}
    if not settings:
        del new["nodes"][node_id]
    return check_access(new)


def _free_name(document: Document, wanted: str | None) -> str | None:
    taken = {each.get("name") for key, each in document.get("nodes", {}).items() if not key.startswith("_")}
    if wanted is None or wanted not in taken:
        return wanted
    return next(name for number in count(2) if (name := f"{wanted[:120]}-{number}") not in taken)


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
    if model is not None and model in Models.of(rest):
        who, stars = settings.get("name", node_id), " and ".join(p for p in rest if p.endswith("*"))
        raise ConfigError(
            f"{who} may use {stars}, which covers {model}; name the allowed models instead: "
            f"deny {who}, then allow it with the models that it keeps"
        )
    if rest:
        new.setdefault("nodes", {})[node_id] = {**settings, "allowed_models": rest}
        return check_access(new)
    # Only out of groups that let it in: D-PC Messenger uses the other groups for other permissions.
    compute, members = new["compute"], new.get("node_groups", {})
    for place, key in [(compute, "allow_nodes"), *((members, group) for group in grant.groups)]:
        if key in place:
            place[key] = [listed for listed in place[key] if listed != node_id]
    for key in ("allowed_models", "expires"):
        settings.pop(key, None)
    return check_access(new)


def set_enabled(document: Mapping[str, Any], enabled: bool) -> Document:
    """Turn sharing on or off for everybody."""
    return _switched(document, "compute", "enabled", enabled)


def set_paused(document: Mapping[str, Any], paused: bool) -> Document:
    """Pause sharing, or let it go on: what runs is not touched."""
    return _switched(document, "compute", "paused", paused)


def set_relaying(document: Mapping[str, Any], enabled: bool) -> Document:
    """Carry encrypted streams between peers that the ``relay`` section allows, or carry none."""
    return _switched(document, "relay", "enabled", enabled)


def _switched(document: Mapping[str, Any], section: str, switch: str, on: bool) -> Document:
    new = check_access(deepcopy(dict(document)))
    new.setdefault(section, {})[switch] = on
    return check_access(new)


def _begin(document: Mapping[str, Any], node_id: str) -> tuple[Document, Grant | None]:
    if not NODE.holds(node_id):
        raise ConfigError(f"{node_id!r} must be {NODE.words}")
    new = check_access(deepcopy(dict(document)))
    return new, compile_grants(new).get(node_id)
