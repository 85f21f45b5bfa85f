"""What a face draws: sections of plain data, made from snapshots of the node. Pure, and safe to print."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from dpc_jupyter.firewall import Document, Rules
from dpc_jupyter.hub.client.adverts import FoundNode
from dpc_jupyter.identity import short
from dpc_jupyter.jupyter.notebook import LOCAL
from dpc_jupyter.ledger import Usage
from dpc_jupyter.node.reaching import Attempt
from dpc_jupyter.node.status import InvitationStatus, KnownPeer, NodeStatus, PeerStatus, RequestStatus
from dpc_jupyter.protocol.messages import ProviderInfo
from dpc_jupyter.sanitize import label
from dpc_jupyter.wording import day, permission, tried

NAME_CHARS = 128
MODEL_CHARS = 256  # as `Offers` keeps them: a name that was cut could not be chosen
SENTENCE_CHARS = 1000


class NodeView(Struct, frozen=True):
    """This node.

    Attributes
    ----------
    address : str or None
        None while it does not listen.
    error : str or None
        What its owner should mend.
    hub : str
        Whether it is online at its hub; empty where it has none.
    takes_calls : bool
        Others may call it over the hub.
    """

    running: bool
    name: str
    node_id: str
    version: str
    address: str | None = None
    sharing: bool = False
    paused: bool = False
    error: str | None = None
    hub: str = ""
    takes_calls: bool = False


class ModelView(Struct, frozen=True):
    """One model that a host lets us use."""

    model: str
    provider: str
    context_window: int | None
    vision: bool
    warm: bool | None


class HostView(Struct, frozen=True, kw_only=True):
    """A compute host.

    Attributes
    ----------
    id : str
        ``local`` or a node id.
    state : str
        ``known`` is one that was linked before, or that a linked peer would relay us to, and is not linked now.
    kind : str
        How it is reached, or would be: ``TLS``, ``WebRTC``, ``via rita``.
    reason : str
        Why it is unreachable, or what else there is to say; one sentence.
    tried : str
        What was tried beside the way by which it is linked; one sentence, empty for nothing.
    last_seen : float or None
        Unix seconds.
    eta_s : float or None
        What a new request would wait, by the host's word.
    """

    id: str
    name: str
    state: Literal["ready", "busy", "known", "unreachable"]
    kind: str = ""
    rtt_ms: float | None = None
    reason: str = ""
    tried: str = ""
    last_seen: float | None = None
    running: int | None = None
    waiting: int | None = None
    eta_s: float | None = None
    models: tuple[ModelView, ...] = ()


class FoundView(Struct, frozen=True):
    """A node that is online at the hub, by the hub's word: nothing of it is proven."""

    id: str
    name: str
    models: tuple[str, ...]


class RequestView(Struct, frozen=True):
    """One open request; `tokens` are those so far."""

    peer: str
    name: str
    model: str
    state: str
    position: int | None
    waited_s: float
    tokens: int


class Today(Struct, frozen=True):
    """What was used since midnight (UTC): by us elsewhere and here, and by peers here."""

    asks: int = 0
    asked_tokens: int = 0
    hosts: int = 0
    served: int = 0
    served_tokens: int = 0
    people: int = 0


class Pending(Struct, frozen=True):
    """A refused node; `name` is only what it calls itself. `when` in unix seconds."""

    node_id: str
    name: str
    model: str
    when: float


class InvitationView(Struct, frozen=True):
    """An invitation that is open; `permission` and `until` in words."""

    id: str
    name: str
    models: tuple[str, ...]
    group: str | None
    permission: str
    until: str


def node_view(status: NodeStatus | None, node_id: str, version: str, trouble: str | None = None) -> NodeView:
    """The node, running or not; `trouble` is what else its owner should mend."""
    if status is None:
        return NodeView(False, "", node_id, version, error=_sentence(trouble))
    return NodeView(
        True,
        label(status.name),
        status.node_id,
        version,
        status.uri,
        status.sharing,
        status.paused,
        _sentence(status.access_error or status.ledger_error or trouble),
        label(status.hub, SENTENCE_CHARS),
        status.takes_calls,
    )


def host_views(
    local: Sequence[ProviderInfo],
    trouble: str,
    peers: Iterable[PeerStatus],
    known: Iterable[KnownPeer],
    attempts: Callable[[str], Sequence[Attempt]] = lambda node_id: (),
) -> list[HostView]:
    """This machine, then linked peers that have models for us or that we dialled, then those that are not linked.

    Parameters
    ----------
    trouble : str
        Why this machine has no model.
    attempts : callable
        What was tried to reach a node, by its id.
    """
    linked: dict[str, PeerStatus] = {}
    for peer in peers:
        if peer.dialled or peer.models:
            linked[peer.node_id] = linked.get(peer.node_id, peer) if not peer.dialled else peer
    hosts = [
        HostView(
            id=LOCAL,
            name="Local",
            state="ready" if local else "known",
            kind=LOCAL,
            reason=label(trouble, SENTENCE_CHARS),
            models=_models(local),
        )
    ]
    hosts += sorted((_linked(peer, attempts(peer.node_id)) for peer in linked.values()), key=_by_name)
    rest = [each for each in known if each.node_id not in linked]
    hosts += sorted(
        (
            HostView(
                id=each.node_id,
                name=label(each.name, NAME_CHARS),
                state="unreachable" if each.reason and not each.via else "known",
                kind=_kind("", each.via),
                reason="" if each.via else label(each.reason, 300),
                last_seen=each.last_seen,
            )
            for each in rest
        ),
        key=_by_name,
    )
    return hosts


def found_views(found: Iterable[FoundNode]) -> list[FoundView]:
    """What a search at the hub found, each node once."""
    return [
        FoundView(
            each.node_id,
            label(each.name, NAME_CHARS) or short(each.node_id),
            tuple(label(model, MODEL_CHARS) for model in each.models),
        )
        for each in {each.node_id: each for each in found}.values()
    ]


def request_views(requests: Iterable[RequestStatus]) -> list[RequestView]:
    """Open requests."""
    return [
        RequestView(
            each.peer,
            label(each.peer_name, NAME_CHARS),
            label(each.model, NAME_CHARS),
            each.state,
            each.position,
            round(each.waited_s, 1),
            each.tokens,
        )
        for each in requests
    ]


def today(sums: Iterable[Usage]) -> Today:
    """The day's sums."""
    asked = [each for each in sums if each.role == "asker" and each.requests]
    served = [each for each in sums if each.role == "host" and each.requests]
    return Today(
        sum(each.requests for each in asked),
        sum(_tokens(each) for each in asked),
        len({each.peer for each in asked}),
        sum(each.requests for each in served),
        sum(_tokens(each) for each in served),
        len({each.peer for each in served}),
    )


def pending_views(pending: Mapping[str, Mapping[str, Any]]) -> list[Pending]:
    """Refused nodes, newest first."""
    found = [
        Pending(
            label(node_id),
            label(str(entry.get("name", "")), NAME_CHARS),
            label(str(entry.get("model", "")), NAME_CHARS),
            float(when) if isinstance(when := entry.get("when"), int | float) and 0 <= when < 2**53 else 0.0,
        )
        for node_id, entry in pending.items()
    ]
    return sorted(found, key=lambda each: -each.when)


def invitation_views(invitations: Iterable[InvitationStatus]) -> list[InvitationView]:
    """Those that are open, newest first."""
    found = [
        InvitationView(
            each.invite_id,
            label(each.name, NAME_CHARS),
            tuple(label(model, MODEL_CHARS) for model in each.models),
            each.group and label(each.group, NAME_CHARS),
            permission(each.expires),
            day(each.valid_until),
        )
        for each in invitations
        if each.state == "open"
    ]
    return found[::-1]


def served_tokens(sums: Iterable[Usage]) -> Counter[str]:
    """What each node used here, of the day's sums."""
    used = Counter[str]()
    for each in sums:
        if each.role == "host":
            used[each.peer] += _tokens(each)
    return used


def access_view(path: str, rules: Rules, used: Mapping[str, int], now: dt.datetime) -> Document:
    """The access file as an editor shows it.

    Parameters
    ----------
    used : mapping
        Tokens that nodes have used today, by node id.
    """
    document = rules.document
    compute, members = document.get("compute", {}), _entries(document, "node_groups")
    terms, nodes = _entries(document, "groups"), _entries(document, "nodes")
    listed, allowed = compute.get("allow_nodes", []), compute.get("allow_groups", [])
    own = [n for n, entry in nodes.items() if not entry or any(key[0] != "_" for key in entry)]  # not by notes alone
    ids = dict.fromkeys([*listed, *(n for ids in members.values() for n in ids), *own])
    return {
        "path": label(path, 400),
        "error": _sentence(rules.error),
        "sharing": rules.enabled,
        "everyone": _terms(compute),
        "groups": [
            {
                "name": group,
                "allowed": group in allowed,
                "members": members.get(group, []),
                **_terms(terms.get(group, {})),
            }
            for group in dict.fromkeys([*allowed, *members])
        ],
        "people": [
            {
                "node_id": node_id,
                "name": label(str(nodes.get(node_id, {}).get("name", "")), NAME_CHARS),
                "listed": node_id in listed,
                "groups": [group for group, ids in members.items() if node_id in ids],
                "expires": label(str(nodes.get(node_id, {}).get("expires", ""))),
                "expired": rules.has_ended(node_id, now),
                "legacy_ok": bool(nodes.get(node_id, {}).get("legacy_ok", False)),
                "tokens_today": used.get(node_id, 0),
                **_terms(nodes.get(node_id, {})),
            }
            for node_id in ids
        ],
    }


def _sentence(error: str | None) -> str | None:
    return None if error is None else label(error, SENTENCE_CHARS)


def _terms(place: Mapping[str, Any]) -> Document:
    limits = place.get("limits", {})
    return {
        "models": list(place.get("allowed_models", [])),
        "limits": {name: limits.get(name) for name in ("requests_per_minute", "tokens_per_day", "running", "queued")},
    }


def _entries(document: Document, section: str) -> Document:
    return {key: value for key, value in document.get(section, {}).items() if not key.startswith("_")}


def _models(offers: Iterable[ProviderInfo]) -> tuple[ModelView, ...]:
    return tuple(
        ModelView(
            label(each.model, MODEL_CHARS),
            label(each.alias, NAME_CHARS),
            each.context_window,
            each.supports_vision,
            each.warm,
        )
        for each in offers
    )


def _linked(peer: PeerStatus, attempts: Sequence[Attempt]) -> HostView:
    load = peer.load
    busy = load is not None and load.waiting > 0
    return HostView(
        id=peer.node_id,
        name=label(peer.name, NAME_CHARS),
        state="busy" if busy else "ready" if peer.models else "known",
        kind=_kind(peer.kind, *peer.via),
        rtt_ms=None if peer.rtt_s is None else round(peer.rtt_s * 1000, 1),
        reason="" if peer.models else "no models for you: its owner has not let you in",
        # Of one that called us, what we tried before says nothing.
        tried=label(tried(attempts), SENTENCE_CHARS) if peer.dialled else "",
        running=None if load is None else load.running,
        waiting=None if load is None else load.waiting,
        eta_s=None if load is None else load.eta_s,
        models=_models(peer.models),
    )


def _kind(kind: str, *via: str) -> str:
    names = ", ".join(label(name, NAME_CHARS) for name in via if name)
    return f"via {names}" if names else kind


def _by_name(host: HostView) -> tuple[str, str]:
    return host.name.casefold(), host.id


def _tokens(usage: Usage) -> int:
    return usage.prompt_tokens + usage.response_tokens
