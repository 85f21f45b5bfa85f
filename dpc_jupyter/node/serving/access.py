"""The owner's decisions: the access file in force, and the edits that people make to it by name."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Sequence
from typing import Any

import msgspec

from dpc_jupyter import firewall
from dpc_jupyter.errors import ConfigError
from dpc_jupyter.firewall import Decision, Edit, Limits, Rules
from dpc_jupyter.firewall.access_file import end_of
from dpc_jupyter.firewall.revise import PersonEdit
from dpc_jupyter.home import Home
from dpc_jupyter.identity import is_node_id
from dpc_jupyter.sanitize import label


class Access:
    """The access file of one home.

    Attributes
    ----------
    rules : Rules
        In force now.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self.rules: Rules = home.read_access()

    def reload(self) -> None:
        """Read the file again; an invalid one denies everyone."""
        self.rules = self._home.read_access()

    def is_known(self, node_id: str) -> bool:
        """Whether the file lets this node in now."""
        return self.rules.is_known(node_id, dt.datetime.now(dt.UTC))

    def set_sharing(self, enabled: bool) -> None:
        """Turn sharing on or off for everyone."""
        self.rules = self._home.edit_access(lambda document: firewall.set_enabled(document, enabled))

    def set_paused(self, paused: bool) -> None:
        """Take nothing new from those who are let in, or take it again; every node of this home obeys."""
        self.rules = self._home.edit_access(lambda document: firewall.set_paused(document, paused))

    def set_relaying(self, enabled: bool) -> None:
        """Carry streams between peers of this node, or end those that it carries."""
        self.rules = self._home.edit_access(lambda document: firewall.set_relaying(document, enabled))

    def allow(
        self,
        who: str,
        *,
        name: str | None = None,
        models: tuple[str, ...] = (),
        group: str | None = None,
        expires: str | None = None,
        limits: Sequence[str] = (),
    ) -> str:
        """Let a node in; returns its id.

        Parameters
        ----------
        who : str
            A node id, or a name in the access file.
        models : tuple of str
            Only these, ``*`` at the end for a family; empty for all that ``compute.allowed_models`` allows.
        expires : str, optional
            A date, a UTC time, or a span like ``7d`` or ``12h`` from now.
        limits : sequence of str
            ``running=2``, ``tokens_per_day=50000`` and the like: the fields of `firewall.Limits`.
        """
        node_id = self.node_id_of(who)
        if name and self.rules.node_by_name(name) not in (None, node_id):
            raise ConfigError(f"{label(name)!r} is what another node is called here: choose another name.")
        until = moment(expires)
        self.rules = self._home.edit_access(
            lambda document: firewall.allow(
                document, node_id, name=name, models=models, group=group, expires=until, limits=limits_of(limits)
            )
        )
        self._home.clear_pending(node_id)
        return node_id

    def deny(self, who: str, model: str | None = None) -> str:
        """Take back a permission, of one model or all; returns the node's id."""
        node_id = self.node_id_of(who)
        self.rules = self._home.edit_access(lambda document: firewall.deny(document, node_id, model))
        return node_id

    def revise(self, edits: Sequence[Edit]) -> None:
        """Make an editor's edits in the file as it is at this moment; raises as `firewall.revise`."""
        edits = [_dated(edit) for edit in edits]
        self.rules = self._home.edit_access(lambda document: firewall.revise(document, edits))

    def preview(self, edits: Sequence[Edit]) -> tuple[str, str]:
        """The file as it is and as `revise` would write it; raises as that does."""
        edits = [_dated(edit) for edit in edits]
        return self._home.preview_access(lambda document: firewall.revise(document, edits))

    def explain(self, who: str, model: str | None = None) -> Decision:
        """Whether a node may use a model now, and which line of the file decides."""
        return self.rules.explain(self.node_id_of(who), model, dt.datetime.now(dt.UTC))

    def pending(self) -> dict[str, dict[str, Any]]:
        """Nodes that asked, were refused, and still would be: ``node_id -> {"name", "model", "when"}``."""
        now = dt.datetime.now(dt.UTC)
        return {
            node_id: entry
            for node_id, entry in self._home.pending().items()
            if not (
                self.rules.can_request_inference(node_id, model, now)
                if (model := str(entry.get("model", "")))
                else self.rules.lists(node_id, now)
            )
        }

    def node_id_of(self, who: str) -> str:
        """The node that the owner means.

        Raises
        ------
        ConfigError
            Nobody is called so here; or it is only what a refused node calls itself.
        """
        if is_node_id(who):
            return who
        if self.rules.error is not None:  # it may well hold that name
            raise ConfigError(self.rules.error)
        if (known := self.rules.node_by_name(who)) is not None:
            return known
        asked = [node_id for node_id, entry in self.pending().items() if entry.get("name") == who]
        if asked:
            # What a node calls itself is anybody's choice: it must not decide whom the owner lets in.
            raise ConfigError(f"{label(who)!r} is what {' and '.join(asked)} calls itself: say which by the node id.")
        raise ConfigError(
            f"No node is called {label(who)!r} here: use its node id, which its owner sees in %dpc_status."
        )


def _dated(edit: Edit) -> Edit:
    """A span such as ``7d`` becomes the moment at which it ends."""
    if isinstance(edit, PersonEdit) and isinstance(edit.expires, str):
        return msgspec.structs.replace(edit, expires="" if edit.expires == "never" else moment(edit.expires))
    return edit


def limits_of(typed: Sequence[str]) -> dict[str, int | None]:
    """Limits as people type them, ``running=2``; ConfigError where one is none."""
    limits: dict[str, int | None] = {}
    for each in typed:
        name, _, number = each.partition("=")
        if name not in Limits.__dataclass_fields__ or not (number.isascii() and number.isdigit()):
            known = ", ".join(f"{field}=N" for field in Limits.__dataclass_fields__)
            raise ConfigError(f"{label(each)!r} is no limit: write one of {known}.")
        limits[name] = int(number)
    return limits


def moment(expires: str | None) -> str | None:
    """An end as people type it, a span counted from now, as the access file has it; ConfigError where it is none."""
    units = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
    if expires and expires[:-1].isdecimal() and expires[-1] in units:
        try:
            until = dt.datetime.now(dt.UTC) + dt.timedelta(**{units[expires[-1]]: int(expires[:-1])})
        except (OverflowError, ValueError):
            raise ConfigError(f"{label(expires)!r} is too long: write never.") from None
        return until.strftime("%Y-%m-%dT%H:%M:%SZ")
    if expires and expires != "never" and not expires[:4].isdigit():
        raise ConfigError(f"{label(expires)!r} is no end: write 12h, 7d, a date such as 2027-01-31, or never.")
    with contextlib.suppress(ValueError, OverflowError):  # what is no date is refused by the file's own check
        if expires and expires != "never" and end_of(expires) <= dt.datetime.now(dt.UTC):
            raise ConfigError(f"{label(expires)} lies in the past: `deny` takes a permission back.")
    return expires


def what_changed(before: Rules, after: Rules) -> str:
    """What an edit of the access file came to; empty if to nothing."""
    if after.error is not None:
        return "" if after.error == before.error else after.error
    if before.error is None and after.document == before.document:
        return ""
    if before.error is None and after.enabled != before.enabled:
        return "Sharing is on." if after.enabled else "Sharing is off: nobody can ask this node."
    if before.error is None and after.paused != before.paused:
        return "Sharing is paused." if after.paused else "Sharing goes on."
    return "The access file has changed."
