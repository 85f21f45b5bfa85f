"""What an editor changes: fields of a person, of a group, or of everybody. All that is not named stays as it is.

An edit names fields and not whole entries, so two editors that are open at once lose nothing of each other's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import astuple
from itertools import chain
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType

from dpc_jupyter.errors import ConfigError
from dpc_jupyter.firewall.access_file import GROUP, NODE, WHOLE_NODE, check_access, plain
from dpc_jupyter.firewall.grants import Limits, compile_grants
from dpc_jupyter.firewall.places import Document

Limit: TypeAlias = int | None


class _Terms(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    models: list[str] | UnsetType = UNSET
    limits: dict[str, Limit] | UnsetType = UNSET


class PersonEdit(_Terms, frozen=True, tag_field="kind", tag="person", kw_only=True):
    """One node. An empty `name`, `expires` or list, and a limit of None, take the entry away.

    Attributes
    ----------
    listed : bool
        Whether ``compute.allow_nodes`` holds it.
    groups : list of str
        All that it is a member of.
    remove : bool
        Take away all access and all that this package keeps about it; notes stay, and its place in groups that let
        nobody in.
    """

    node_id: str
    name: str | UnsetType = UNSET
    listed: bool | UnsetType = UNSET
    groups: list[str] | UnsetType = UNSET
    expires: str | UnsetType = UNSET
    legacy_ok: bool | UnsetType = UNSET
    remove: bool = False


class Members(Struct, frozen=True, forbid_unknown_fields=True):
    """Node ids that join or leave a group."""

    add: list[str] = []
    remove: list[str] = []


class GroupEdit(_Terms, frozen=True, tag_field="kind", tag="group", kw_only=True):
    """One group.

    Attributes
    ----------
    allowed : bool
        Whether ``compute.allow_groups`` holds it.
    remove : bool
        Take away its permission and terms; its list of members goes only if it is empty, D-PC Messenger may use it.
    """

    name: str
    allowed: bool | UnsetType = UNSET
    members: Members = Members()
    remove: bool = False


class EveryoneEdit(_Terms, frozen=True, tag_field="kind", tag="everyone", kw_only=True):
    """What holds for everybody."""


class SharingEdit(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="sharing"):
    """Sharing on or off."""

    on: bool


Edit: TypeAlias = PersonEdit | GroupEdit | EveryoneEdit | SharingEdit


def read_edits(raw: Any) -> list[Edit]:
    """Edits as a face sends them.

    Raises
    ------
    ConfigError
        One of them is none.
    """
    try:
        return msgspec.convert(raw, list[Edit])
    except msgspec.ValidationError as error:
        raise ConfigError(f"This edit is not understood: {error}") from None


def revise(document: Mapping[str, Any], edits: Sequence[Edit]) -> Document:
    """Make edits, in their order.

    Raises
    ------
    ConfigError
        The document would hold what an access file may not; the keys that lead there are named.
    """
    new = check_access(deepcopy(dict(document)))
    before = set(new)
    for edit in edits:
        match edit:
            case PersonEdit():
                _person(new, edit)
            case GroupEdit():
                _group(new, edit)
            case EveryoneEdit():
                _terms(new.setdefault("compute", {}), edit)
            case SharingEdit():
                new.setdefault("compute", {})["enabled"] = edit.on
    for section in ("compute", "node_groups", "groups", "nodes"):
        if section not in before:  # one that was empty before stays: nobody asked to take it away
            _drop_empty(new, section)
    return check_access(new)


def gains(before: Document, after: Document) -> list[str]:
    """The nodes that may use more models than they could, or take more, and could use some before: an edit that takes
    a group or the last model away can have that effect, which its owner may not mean.
    """
    old, new = compile_grants(before), compile_grants(after)
    return [
        node_id
        for node_id, grant in new.items()
        if (had := old.get(node_id)) is not None
        and (any(pattern not in had.models for pattern in grant.patterns) or _is_more(grant.limits, had.limits))
    ]


def _is_more(limits: Limits, than: Limits) -> bool:
    ours, theirs = (tuple(math.inf if n is None else n for n in astuple(each)) for each in (limits, than))
    return any(one > other for one, other in zip(ours, theirs, strict=True))


def _person(new: Document, edit: PersonEdit) -> None:
    if not NODE.holds(edit.node_id):
        raise ConfigError(f"{edit.node_id!r} must be {NODE.words}")
    if not edit.remove:
        _check_new(new, edit.node_id)
    node_id, compute, nodes = edit.node_id, new.setdefault("compute", {}), new.setdefault("nodes", {})
    settings = nodes.get(node_id, {})
    groups, listed = ([], False) if edit.remove else (edit.groups, edit.listed)
    letting_in = set(compute.get("allow_groups", []))
    if listed is not UNSET:
        _list(compute, "allow_nodes", node_id, on=bool(listed))
    if groups is not UNSET:
        members = new.setdefault("node_groups", {})
        for group in dict.fromkeys([*plain(members), *groups]):
            if edit.remove and group not in letting_in:
                continue  # as `deny`: D-PC Messenger uses the other groups for other permissions
            _list(members, _group_name(group), node_id, on=group in groups)
    if edit.name and any(n != node_id and each.get("name") == edit.name for n, each in plain(nodes).items()):
        raise ConfigError(f"{edit.name!r} is what another node is called here: choose another name.")
    if edit.remove:
        settings = {key: value for key, value in settings.items() if key.startswith("_")}
    else:
        for key in ("name", "expires"):
            _set(settings, key, getattr(edit, key))
        if edit.legacy_ok is not UNSET:
            _set(settings, "legacy_ok", edit.legacy_ok)
        _terms(settings, edit)
    nodes[node_id] = settings
    _drop_empty(nodes, node_id)


def _check_new(document: Document, node_id: str) -> None:
    """Whoever stands in the file may be edited; who comes new must be somebody."""
    groups = plain(document.get("node_groups", {})).values()
    there = {*document.get("nodes", {}), *document.get("compute", {}).get("allow_nodes", []), *chain(*groups)}
    if node_id not in there and not WHOLE_NODE.holds(node_id):
        raise ConfigError(f"{node_id!r} must be {WHOLE_NODE.words}")


def _group_name(name: str) -> str:
    if not GROUP.holds(name):
        raise ConfigError(f"{name!r} must be {GROUP.words}")
    return name


def _group(new: Document, edit: GroupEdit) -> None:
    _group_name(edit.name)
    for node_id in edit.members.add:
        _check_new(new, node_id)
    compute, members = new.setdefault("compute", {}), new.setdefault("node_groups", {})
    listed = members.setdefault(edit.name, [])
    listed[:] = [each for each in dict.fromkeys([*listed, *edit.members.add]) if each not in edit.members.remove]
    allowed = False if edit.remove else edit.allowed
    if allowed is not UNSET:
        _list(compute, "allow_groups", edit.name, on=bool(allowed))
    groups = new.setdefault("groups", {})
    if edit.remove:
        groups.pop(edit.name, None)
        _drop_empty(members, edit.name)
    else:
        _terms(groups.setdefault(edit.name, {}), edit)
        _drop_empty(groups, edit.name)


def _terms(place: dict[str, Any], edit: _Terms) -> None:
    _set(place, "allowed_models", edit.models)
    if isinstance(edit.limits, dict):
        limits = place.setdefault("limits", {})
        for field, value in edit.limits.items():
            _set(limits, field, value)
        _drop_empty(place, "limits")


def _set(place: dict[str, Any], key: str, value: Any) -> None:
    if value is UNSET:
        return
    if value is None or value == "" or value == [] or value is False:
        place.pop(key, None)
    else:
        place[key] = value


def _list(place: dict[str, Any], key: str, item: str, *, on: bool) -> None:
    held = place.get(key, [])
    if on != (item in held):
        place[key] = [*held, item] if on else [each for each in held if each != item]


def _drop_empty(place: dict[str, Any], key: str) -> None:
    if key in place and not place[key]:
        del place[key]
