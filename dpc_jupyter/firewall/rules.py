"""Decisions: pure, by a frozen version of the access file; what is not allowed is denied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from dpc_jupyter.errors import ConfigError
from dpc_jupyter.firewall.access_file import parse_access, plain
from dpc_jupyter.firewall.grants import DEFAULT_LIMITS, Grant, Limits, Models, compile_grants, limits_over
from dpc_jupyter.firewall.places import Document, KeyPath, locate, position


@dataclass(frozen=True, slots=True)
class Decision:
    """An answer for the owner: `reason` says which line of the access file decided, `line` counts from 1."""

    allowed: bool
    reason: str
    line: int | None


@dataclass(frozen=True, slots=True)
class RelayRules:
    """Whom this node carries encrypted streams between: ``relay``, off unless ``enabled``.

    Attributes
    ----------
    nodes : frozenset of str or None
        Both ends must be of these; None is everybody who is let in to compute.
    sessions : int
        Streams of one node at once.
    bytes_per_day : int
        Of one node, both directions.
    """

    enabled: bool = False
    nodes: frozenset[str] | None = None
    sessions: int = 4
    bytes_per_day: int = 1024 * 2**20

    @classmethod
    def of(cls, document: Document) -> RelayRules:
        """Out of a checked access file."""
        section = plain(document.get("relay", {}))
        nodes = None
        if "allow_nodes" in section or "allow_groups" in section:
            groups = document.get("node_groups", {})
            listed = [node_id for group in section.get("allow_groups", []) for node_id in groups.get(group, [])]
            nodes = frozenset([*section.get("allow_nodes", []), *listed])
        default = cls()
        return cls(
            section.get("enabled", False),
            nodes,
            section.get("sessions", default.sessions),
            section.get("megabytes_per_day", default.bytes_per_day >> 20) << 20,
        )


@dataclass(frozen=True)
class Rules:
    """One version of the access file, compiled. Every ``now`` is a `datetime` with a time zone.

    Attributes
    ----------
    enabled : bool
        ``compute.enabled``.
    paused : bool
        ``compute.paused``: those who are let in stay so, and what they ask for now is refused.
    error : str or None
        Why the file cannot be used; everybody is denied then.
    """

    enabled: bool = False
    paused: bool = False
    error: str | None = None
    _text: str = field(default="{}", repr=False)
    _document: Document = field(default_factory=dict, repr=False)
    _grants: Mapping[str, Grant] = field(default_factory=dict, repr=False)
    _nodes: Mapping[str, Document] = field(default_factory=dict, repr=False)
    _ceiling: Models = field(default_factory=lambda: Models.of(["*"]), repr=False)
    _limits: Limits = DEFAULT_LIMITS
    relay: RelayRules = RelayRules()

    @classmethod
    def parse(cls, text: str) -> Rules:
        """Compile the text of an access file.

        Raises
        ------
        ConfigError
            It is not JSON, or holds what an access file may not; line and column are named.
        """
        document = parse_access(text)
        compute = document.get("compute", {})
        return cls(
            enabled=compute.get("enabled", False),
            paused=compute.get("paused", False),
            _text=text,
            _document=document,
            _grants=compile_grants(document),
            _nodes=plain(document.get("nodes", {})),
            _ceiling=Models.of(compute.get("allowed_models") or ["*"]),
            _limits=limits_over(compute),
            relay=RelayRules.of(document),
        )

    @classmethod
    def deny_all(cls, reason: str) -> Rules:
        """Rules for an access file that cannot be used."""
        return cls(error=reason)

    @property
    def document(self) -> Document:
        """What the file holds; empty for one that cannot be used. Not to be changed."""
        return self._document

    def can_request_inference(self, node_id: str, model: str, now: datetime) -> bool:
        """Whether `node_id` may run `model`, the resolved name, now. Costs about a microsecond."""
        return self.is_known(node_id, now) and model in self._grants[node_id].models and model in self._ceiling

    def is_known(self, node_id: str, now: datetime) -> bool:
        """Whether sharing is on and `node_id` is listed, directly or by a group, and has not expired."""
        return self.enabled and self.lists(node_id, now)

    def lists(self, node_id: str, now: datetime) -> bool:
        """As `is_known`, sharing or not."""
        grant = self._grants.get(node_id)
        return grant is not None and (grant.expires is None or now < grant.expires)

    def has_ended(self, node_id: str, now: datetime) -> bool:
        """Whether `node_id` is listed, and its end date has passed; sharing or not."""
        grant = self._grants.get(node_id)
        return grant is not None and grant.expires is not None and now >= grant.expires

    def get_available_models_for_peer(self, node_id: str, models: Iterable[str], now: datetime) -> list[str]:
        """Those of `models` that `node_id` may run now, in their order."""
        return [model for model in models if self.can_request_inference(node_id, model, now)]

    def limits_for(self, node_id: str) -> Limits:
        """Limits of `node_id`: its own, over the most generous of its groups, over ``compute``, over the default."""
        grant = self._grants.get(node_id)
        return grant.limits if grant else self._limits

    def let_in(self, now: datetime) -> tuple[str, ...]:
        """Every node that is let in now."""
        return tuple(node_id for node_id in self._grants if self.is_known(node_id, now))

    def groups_of(self, node_id: str) -> tuple[str, ...]:
        """The groups by which `node_id` is let in."""
        grant = self._grants.get(node_id)
        return tuple(grant.groups) if grant else ()

    def may_relay(self, node_id: str, now: datetime) -> bool:
        """Whether streams from or to `node_id` may be carried now."""
        if not self.relay.enabled:
            return False
        return self.is_known(node_id, now) if self.relay.nodes is None else node_id in self.relay.nodes

    def legacy_ok(self, node_id: str) -> bool:
        """Whether the owner trusts this peer without channel binding, asking or serving (a D-PC Messenger)."""
        return bool(self._nodes.get(node_id, {}).get("legacy_ok", False))

    def name_of(self, node_id: str) -> str:
        """The owner's name for a node, or the id itself."""
        return str(self._nodes.get(node_id, {}).get("name", node_id))

    @property
    def node_ids(self) -> set[str]:
        """Every node that the file names or lists."""
        return self._grants.keys() | self._nodes.keys()

    def names(self) -> dict[str, str]:
        """Every node that the owner has named, and how."""
        return {node_id: str(settings["name"]) for node_id, settings in self._nodes.items() if settings.get("name")}

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
        """Decide as `can_request_inference` does (as `is_known` where `model` is None), and say why; a pause is told,
        too.
        """
        if self.error is not None:
            return Decision(False, f"no: {self.error}", None)
        allowed, path, words = self._deciding(node_id, model, now)
        places = locate(self._text)

        def line_of(path: KeyPath) -> int | None:
            return position(self._text, places[path])[0] if path in places else None

        line, answer = line_of(path), "yes" if allowed else "no"
        if allowed and self.paused:
            answer += f", but sharing is paused (line {line_of(('compute', 'paused'))}, compute.paused)"
        where = "" if line is None else f"line {line}, "
        return Decision(allowed, f"{answer}: {where}{words}", line)

    def _deciding(self, node_id: str, model: str | None, now: datetime) -> tuple[bool, KeyPath, str]:
        who, grant, compute = self.name_of(node_id), self._grants.get(node_id), self._document.get("compute", {})
        members = plain(self._document.get("node_groups", {}))
        if not self.enabled:
            how = "is false" if "enabled" in compute else "is not set, which means false"
            return False, ("compute", "enabled"), f"compute.enabled {how}"
        if grant is None:
            for group in (name for name, ids in members.items() if node_id in ids):
                words = f"{who} is in group {group}, which compute.allow_groups does not list"
                return False, ("node_groups", group, members[group].index(node_id)), words
            return False, ("compute",), f"{who} is neither in compute.allow_nodes nor in an allowed group"
        if grant.expires is not None and self.has_ended(node_id, now):
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
