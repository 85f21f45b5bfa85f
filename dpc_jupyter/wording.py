"""What a node has to say, in the words that the notebook and the command line share: pure functions, safe to print."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dpc_jupyter.errors import AccessDenied, ConfigError, DpcError, InvalidRequest, ModelNotFound
from dpc_jupyter.firewall import Rules
from dpc_jupyter.firewall.grants import Models
from dpc_jupyter.ledger import Entry, Usage
from dpc_jupyter.node.asking import Answer, UnfinishedRequest
from dpc_jupyter.node.reaching import Attempt
from dpc_jupyter.node.status import InvitationStatus, JoinedHost, PeerStatus
from dpc_jupyter.protocol.messages import Options, ProviderInfo, RemoteInferenceStatus
from dpc_jupyter.sanitize import is_word, label

# One frame holds 1 MiB, and base64 makes four characters of three bytes.
IMAGE_LIMIT_BYTES = 700_000
# Whole addresses fit: a host name has up to 253 letters.
_CELL_CHARS = 400
_NAMES_SHOWN = 8
NO_END = "no end"
PAUSED = "Sharing is paused: what runs goes on, new requests are refused. %dpc_firewall resume ends that."
_IMAGE_STARTS = {b"\x89PNG\r\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}


def ordinal(number: int) -> str:
    """``1st``, ``2nd``, ``3rd``, ``11th``."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def waiting(
    status: RemoteInferenceStatus | None, host_name: str, model: str | None, waited_s: float, *, away: bool = False
) -> str:
    """Where a request stands: ``2nd in line at anna · about 40 s``; of a host that is `away`, what its note says."""
    where, what = label(host_name), label(model or "") or "the model"
    if away and status is not None and status.note:
        line = label(status.note, 128)
    elif status is None:
        line = f"asking {where}"
    elif status.state == "queued":
        line = f"{ordinal(status.position)} in line at {where}" if status.position else f"in line at {where}"
        if status.eta_s is not None:
            line += f" · about {max(status.eta_s, 1):.0f} s"
    else:
        line = f"loading {what} at {where}" if status.state == "loading" else f"{where} is reading the prompt"
    if status is not None and status.note and not away:
        line += f" · {label(status.note)}"
    return line if waited_s < 2 else f"{line} · {waited_s:.0f} s so far"


def provenance(answer: Answer) -> str:
    """Where an answer came from: ``anna · llama3-70b · 212 tokens · first after 0.4 s · 64/s``."""
    parts = [label(answer.host_name), label(answer.model)]
    if answer.usage.response_tokens is not None:
        parts.append(f"{answer.usage.response_tokens:,} tokens")
    if answer.collected:
        parts.append("collected")
    if answer.timings.queue_s >= 1:
        parts.append(f"{answer.timings.queue_s:.0f} s in line")
    if answer.timings.first_token_s is not None:
        parts.append(f"first after {duration(answer.timings.first_token_s)}")
    if answer.timings.tokens_per_s is not None:
        parts.append(f"{answer.timings.tokens_per_s:.0f}/s")
    if answer.finish_reason == "length":
        parts.append("cut short: raise --max-tokens")
    elif answer.error is not None:
        parts.append("stopped early")
    return " · ".join(part for part in parts if part)


def duration(value: float) -> str:
    """With as many digits as tell something: ``0.04 s``, ``0.4 s``, ``12 s``."""
    return f"{value:.2f} s" if value < 0.1 else f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def model_name(model: ProviderInfo) -> str:
    """A model's name, cut to what a line holds."""
    return label(model.model, 128)


def model_row(model: ProviderInfo) -> tuple[str, str, str, str, str]:
    """Name, provider, context window, vision, and whether it is loaded."""
    window = "" if model.context_window is None else f"{model.context_window // 1024 or 1}k"
    warm = {True: "warm", False: "cold", None: ""}[model.warm]
    return model_name(model), label(model.alias), window, "vision" if model.supports_vision else "", warm


def reached(peer: PeerStatus) -> str:
    """How a peer is linked: ``by WebRTC``, ``over rita``, ``by TLS at 192.0.2.7:8889``."""
    if peer.via:
        return f"over {label(' and '.join(peer.via))}"
    return f"by {peer.kind}" if peer.kind == "WebRTC" else f"by {peer.kind} at {peer.address}"


def tried(attempts: Sequence[Attempt]) -> str:
    """What was tried beside the way that won: ``Tried as well: WebRTC (no answer yet).``; empty for nothing."""
    won = next((place for place, attempt in enumerate(attempts) if attempt.won), 0)
    ways = "; ".join(
        f"{label(each.way)} ({label(each.error.partition('. ')[0].rstrip('.'), 200) or 'no answer yet'})"
        for place, each in enumerate(attempts)
        if each.error or place < won
    )
    return ways and f"Tried as well: {ways}."


MODEL_HEAD = ("Model", "Provider", "Context", "Vision", "Loaded")


def columns(head: Sequence[str], rows: Iterable[Sequence[object]]) -> tuple[list[list[str]], list[str]]:
    """A table's cells, each made one safe line, and its lines as text, the head first.

    A line is as long as it must be: what is cut or folded to fit a window, such as a node id, cannot be copied.
    """
    cells = [[label(str(value), _CELL_CHARS) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = ["  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)) for row in [head, *cells]]
    return cells, [line.rstrip() for line in lines]


def usage_rows(sums: Iterable[Usage], name_of: Callable[[str], str]) -> list[tuple[str, ...]]:
    """Who used what: a refused request of no named model was for any."""
    return [
        (
            "served" if each.role == "host" else "asked",
            "this machine" if each.peer == "local" else name_of(each.peer),
            each.model or "any",
            f"{each.requests:,}",
            f"{each.refused:,}",
            f"{each.prompt_tokens:,}",
            f"{each.response_tokens:,}",
            f"{each.total_s:.0f} s",
        )
        for each in sums
    ]


USAGE_HEAD = ("", "Peer", "Model", "Requests", "Refused", "Prompt tokens", "Answer tokens", "Time")


def request_line(entry: Entry, who: str) -> str:
    """A request that ended, for the host's owner: ``dave · llama3.1:8b · 252 tokens · 3.4 s · ok``."""
    took = "" if entry.total_s is None else duration(entry.total_s)
    parts = (label(who), label(entry.model, 128) or "any model", f"{entry.tokens:,} tokens", took, entry.outcome)
    return " · ".join(part for part in parts if part)


def sampling(**typed: float | None) -> dict[str, float]:
    """The options of a request that a user typed.

    Raises
    ------
    InvalidRequest
        A host would clamp a value; the sentence names the range.
    """
    given = {name: value for name, value in typed.items() if value is not None}
    for name, value in given.items():
        low, high = (getattr(Options(**{name: bound}).clamped(), name) for bound in (-math.inf, math.inf))  # type: ignore[arg-type]
        if not low <= value <= high:
            raise InvalidRequest(f"--{name.replace('_', '-')} goes from {low} to {high}: {value} is out of range.")
    return given


def with_models(error: DpcError, answer: Answer, models: Sequence[ProviderInfo]) -> DpcError:
    """The error of a model that is unknown or not allowed, with those that the host lets us use.

    Parameters
    ----------
    answer : Answer
        What came: nothing, but it says who was asked for what.
    models : sequence of ProviderInfo
        As the host told.
    """
    names = list(dict.fromkeys(map(model_name, models)))
    # Not the children of AccessDenied: what was withdrawn while it ran is no mistake of the asker's.
    if not (names and answer.model and type(error) in (ModelNotFound, AccessDenied)) or answer.model in names:
        return error
    unknown, here = isinstance(error, ModelNotFound), answer.host == "local"
    near = get_close_matches(answer.model, names, 1) if unknown else []
    if here and not near:  # the sentence names the fix already; a host's names only its owner's
        return error
    sentence = str(error).rstrip(".")
    if unknown and not here:
        sentence = f"Model '{label(answer.model, 128)}' not found at {label(answer.host_name)}"
    hint = f"Did you mean {near[0]}?" if near else offered(label(answer.host_name), models, "")
    return type(error)(f"{sentence}. {hint}")


def offered(host_name: str, models: Sequence[ProviderInfo], own_node_id: str) -> str:
    """What a host lets us use, or what to do when that is nothing."""
    if models:
        return f"{host_name} lets you use: {_some(model.model for model in models)}."
    return f"{host_name} has not let you in yet. Send its owner your node id: {own_node_id}"


def _some(names: Iterable[str]) -> str:
    each = list(dict.fromkeys(label(name, 128) for name in names))
    more = f" and {len(each) - _NAMES_SHOWN} more" if len(each) > _NAMES_SHOWN else ""
    return ", ".join(each[:_NAMES_SHOWN]) + more


def allow_command(command: str, node_id: str, entry: Mapping[str, Any], rules: Rules) -> str:
    """The exact command that grants a pending request; where a stranger's text is no plain word, a gap to fill in.

    A node that has a name here keeps it, whatever it calls itself.
    """
    words = [command, "allow", node_id]
    for flag, key, gap in (("--name", "name", "NAME"), ("--model", "model", "MODEL")):
        text = label(str(entry.get(key) or ""), 128)
        if text and not (key == "name" and _given_name(node_id, rules)):
            words += [flag, text if is_word(text) else gap]
    return " ".join([*words, "--expires", "7d"])


def asked_for(node_id: str, entry: Mapping[str, Any], rules: Rules, now: float) -> str:
    """A pending request: ``erin (dpc-node-…) asked for llama3-70b 3 min ago and was refused. Let it in:``."""
    name = label(_given_name(node_id, rules) or str(entry.get("name") or ""))
    model = label(str(entry.get("model") or ""), 128)
    when = entry.get("when")
    since = f" {ago(now - when)}" if isinstance(when, int | float) else ""
    who = f"{name} ({node_id})" if name else node_id
    return f"{who} asked for {model or 'any model'}{since} and was refused. Let it in:"


def _given_name(node_id: str, rules: Rules) -> str:
    name = rules.name_of(node_id)
    return "" if name == node_id else name


def ago(seconds: float) -> str:
    """``just now``, ``3 min ago``, ``2 h ago``, ``5 days ago``."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= (2 * length if unit == "days" else length):
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"


def sharing(rules: Rules) -> str:
    """Whether this machine takes requests of those whom it lists, and what changes that."""
    if rules.enabled:
        return PAUSED if rules.paused else "Sharing is on."
    off = "Sharing is off: nobody is let in. %dpc_firewall on turns it on."
    return f"{off} It is paused, too." if rules.paused else off


def relaying(rules: Rules, now: datetime) -> str:
    """Whether this node carries streams between its peers, and between whom."""
    if not rules.relay.enabled:
        return "It relays for nobody. %dpc_firewall relay on lets it connect those whom you let in to each other."
    ids = rules.let_in(now) if rules.relay.nodes is None else sorted(rules.relay.nodes)
    names = _some(rules.name_of(node_id) for node_id in ids)
    whom = f"between {names}" if len(ids) > 1 else "between those that you let in, of whom there must be two"
    each = f"for each {rules.relay.sessions} links at once and {rules.relay.bytes_per_day >> 20:,} MB a day"
    return f"It relays {whom}, {each}: encrypted end to end, it cannot read them."


def let_in(rules: Rules, now: datetime) -> list[tuple[str, str, str, str, str]]:
    """Name, node id, models, own limits and end date of all whom the access file lists, sharing or not."""
    document = rules.document
    compute, nodes = document.get("compute", {}), document.get("nodes", {})
    groups_of: dict[str, list[str]] = {node_id: [] for node_id in compute.get("allow_nodes", [])}
    for group in compute.get("allow_groups", []):
        for node_id in document.get("node_groups", {}).get(group, []):
            groups_of.setdefault(node_id, []).append(group)
    rows = []
    for node_id, groups in groups_of.items():
        own = nodes.get(node_id, {})
        patterns = own.get("allowed_models") or _of_groups(document, groups)
        until = label(str(own.get("expires", NO_END)))
        until = f"ended {until}" if rules.has_ended(node_id, now) else until
        limits = ", ".join(f"{field}={value}" for field, value in own.get("limits", {}).items() if field[0] != "_")
        name = label(_given_name(node_id, rules))
        rows.append((name, node_id, label(", ".join(patterns) or "all", 200), label(limits, 200), until))
    return rows


def let_in_line(rules: Rules, now: datetime) -> str:
    """Who `let_in` are, and for what: ``dave (llama3.1:8b); erin (ended 2026-01-31)``."""
    return "; ".join(
        f"{name or node_id} ({until if rules.has_ended(node_id, now) else models})"
        for name, node_id, models, _, until in let_in(rules, now)
    )


def allowed(rules: Rules, now: datetime, node_id: str, named: Sequence[str] = ()) -> str:
    """What holds for a node after an edit: ``dave may use llama3.1:8b, until 2027-01-31.``.

    Parameters
    ----------
    named : sequence of str
        The models that the edit named; if the node holds others too, the sentence says why and how to take them.
    """
    for name, listed, models, limits, until in let_in(rules, now):
        if listed == node_id:
            who = name or node_id
            if rules.has_ended(node_id, now):
                return f"The access of {who} {until}: --expires 7d gives it a new end."
            sentence = f"{who} may use {'all models' if models == 'all' else models}"
            sentence += "" if rules.enabled else " once sharing is on"
            sentence += ", without an end" if until == NO_END else f", until {until}"
            sentence += f", with {limits}." if limits else "."
            held = rules.document.get("nodes", {}).get(node_id, {}).get("allowed_models", [])
            if not named or set(held) <= set(named):
                return sentence
            word = who if is_word(who) else node_id
            return f"{sentence} Models are added to those that it had; %dpc_firewall deny {word} MODEL takes one away."
    return f"{node_id} is not let in."


def several(typed: Sequence[str]) -> tuple[str, ...]:
    """Names as people type lists of them, with commas or one by one.

    Raises
    ------
    ConfigError
        Something was typed, and no name: that shall not mean all.
    """
    names = tuple(name.strip() for each in typed for name in each.split(",") if name.strip())
    if typed and not names:
        raise ConfigError("No name stands there. Leave the option out for all.")
    return names


def invited(made: InvitationStatus, rules: Rules) -> list[str]:
    """What an owner should know of a new invitation: what stands before its line, then what it gives, then the rest."""
    name = label(made.name, 128)
    models = label(", ".join(made.models), 200) or ("what its group may" if made.group else "all models")
    sentences = [
        f"Send this line to {name} and to nobody else. It works once, until {day(made.valid_until)}:",
        f"{name} may then use {models}, {permission(made.expires)}"
        + (f", with {label(', '.join(made.limits), 200)}." if made.limits else "."),
    ]
    if made.here_alone:
        sentences.append(
            "The line works on this machine alone: it names no other address. For elsewhere listen on all addresses, "
            "add --address HOST:PORT, or set a hub."
        )
    if not rules.enabled:
        sentences.append("Sharing is off: who joins can ask once it is on. %dpc_firewall on turns it on.")
    return sentences


def permission(expires: str | None) -> str:
    """How long an invitation's permission holds: ``for 7d from joining``."""
    if expires is None or expires == "never":
        return "without an end"
    return f"until {label(expires)}" if expires[:4].isdigit() else f"for {label(expires)} from joining"


def day(unix_s: float) -> str:
    """``2027-01-31 18:00 UTC``."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M} UTC"


INVITATION_HEAD = ("For", "State", "Models", "Permission", "Line until", "Invitation")


def invitation_rows(invitations: Iterable[InvitationStatus], rules: Rules) -> list[tuple[str, ...]]:
    """Invitations and what became of them, the newest first."""
    return [
        (
            label(each.name, 128),
            f"used by {label(rules.name_of(each.used_by))}" if each.used_by else each.state,
            label(", ".join(each.models), 200) or (f"group {label(each.group)}" if each.group else "all"),
            permission(each.expires),
            day(each.valid_until),
            each.invite_id,
        )
        for each in reversed(list(invitations))
    ]


def joined_host(joined: JoinedHost) -> list[str]:
    """What a joiner should know: who let her in as whom, what she may use there, and how."""
    host, name = joined.host, label(joined.host.name)
    word = name if is_word(name) else host.node_id
    us = label(joined.known_as) or "by your node id"
    sentences = [f"Joined {name} ({host.node_id}) {reached(host)}: its owner calls you {us}."]
    if host.models:
        return [*sentences, offered(name, host.models, ""), f"Ask it: %dpc_ask -H {word} Hello"]
    if not joined.sharing:
        return [*sentences, "Its owner has turned sharing off for now; once it is on, its models come by themselves."]
    return [*sentences, "It has no model for you now; once it has one, it comes by itself."]


def doubts(before: Mapping[str, Any], models: Sequence[str], group: str | None, here: Sequence[str]) -> list[str]:
    """What of a permission looks misspelt, though it may be meant: engines can be down, and groups new.

    Parameters
    ----------
    before : mapping
        The access file without the permission.
    models, group
        What was typed.
    here : sequence of str
        Models that this machine's engines have now; without any, nothing is said of models.
    """
    said = []
    for pattern in models:
        if here and not any(name in Models.of([pattern]) for name in here):
            near = get_close_matches(pattern, here, 1)
            hint = f"did you mean {label(near[0], 128)}?" if near else f"there is: {_some(here)}."
            said.append(f"No engine here has {label(pattern, 128)} now; {hint}")
    groups = [*before.get("compute", {}).get("allow_groups", []), *before.get("node_groups", {})]
    if group is not None and group not in groups:
        others = _some(each for each in groups if not each.startswith("_"))
        said.append(f"Group {label(group, 128)} is new." + (f" There were: {others}." if others else ""))
    return said


def _of_groups(document: Mapping[str, Any], groups: Iterable[str]) -> list[str]:
    terms = [document.get("groups", {}).get(group, {}).get("allowed_models") or [] for group in groups]
    return [] if [] in terms else [pattern for patterns in terms for pattern in patterns]


UNFINISHED_HEAD = ("Host", "Model", "Asked", "Request")


def unfinished_rows(left: Iterable[UnfinishedRequest], now: float) -> list[tuple[str, ...]]:
    """Answers that can be collected, oldest first."""
    return [
        (each.host_name, each.model or "the host's first", ago(now - each.asked_at), each.request_id) for each in left
    ]


LET_IN_HEAD = ("Name", "Node", "Models", "Limits", "Until")


def read_image(path: Path) -> dict[str, str]:
    """A picture of the asker's own, as a request carries it.

    Raises
    ------
    InvalidRequest
        It cannot be read, is too large for a request, or is no PNG, JPEG, WebP or GIF.
    """
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(IMAGE_LIMIT_BYTES + 1)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}.") from None
    if len(data) > IMAGE_LIMIT_BYTES:
        raise InvalidRequest(f"{path} is larger than {IMAGE_LIMIT_BYTES // 1000} kB: make the picture smaller.")
    kind = next((kind for start, kind in _IMAGE_STARTS.items() if data.startswith(start)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "image/webp"
    if kind is None:
        raise InvalidRequest(f"{path} is no PNG, JPEG, WebP or GIF: convert it first.")
    return {"base64": base64.b64encode(data).decode(), "mime_type": kind}
