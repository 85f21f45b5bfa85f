"""``dpc-jupyter doctor``: what could be wrong with this node, and the fix of each."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import typer
from rich.text import Text

from dpc_jupyter.cli.console import home_of, in_cli_words, out, run
from dpc_jupyter.cli.models import engines, to_fetch
from dpc_jupyter.errors import ConfigError, DpcError
from dpc_jupyter.home import Home
from dpc_jupyter.identity import is_node_id
from dpc_jupyter.node.reaching import Network
from dpc_jupyter.sanitize import is_word, label
from dpc_jupyter.transports.tls import DEFAULT_PORT
from dpc_jupyter.wording import let_in

_HUB_S = 1.0
_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; its text names the fix where something is not ok."""

    state: Literal["ok", "warn", "fail"]
    what: str
    text: str


def doctor(ctx: typer.Context) -> None:
    """Check identity, files, engines, models, port, network and access file. Exit status 1 if something fails."""
    failed = False
    for finding in examine(home_of(ctx)):
        out.print(
            Text.assemble((f"{finding.state:<5}", _STYLES[finding.state]), f"{finding.what:<9}"),
            Text(in_cli_words(finding.text)),
        )
        failed |= finding.state == "fail"
    if failed:
        raise typer.Exit(1)


def examine(home: Home) -> Iterator[Finding]:
    """Look at everything, and change nothing."""
    yield from _identity(home)
    yield from _modes(home)
    yield from _engines(home)
    yield from _port()
    yield from _network(home)
    yield from _access(home)


def _identity(home: Home) -> Iterator[Finding]:
    if not any((home.path / name).exists() for name in ("node.key", "node.crt", "node.id")):
        yield Finding("warn", "identity", f"none in {home.path} yet; `dpc-jupyter id` makes it")
        return
    try:
        yield Finding("ok", "identity", home.load_identity().node_id)
    except DpcError as error:
        yield Finding("fail", "identity", str(error))


def _modes(home: Home) -> Iterator[Finding]:
    if os.name != "posix" or not home.path.exists():
        return
    files = [home.path, *(path for path in home.path.iterdir() if path.is_file())]
    loose = [path for path in files if path.stat().st_mode & 0o077]
    for path in loose:
        mode = "700" if path.is_dir() else "600"
        yield Finding("fail", "files", f"other users can reach {path}: chmod {mode} {path}")
    if not loose:
        yield Finding("ok", "files", f"{home.path} is private")


def _engines(home: Home) -> Iterator[Finding]:
    try:
        offers, reasons = run(engines(home))
    except DpcError as error:
        yield Finding("fail", "engines", str(error))
        return
    for backend, model in offers:
        named = f"{label(model.name, 128)} ({label(backend.alias)})"
        if model.to_fetch_bytes:
            yield Finding("warn", "model", f"{named} {to_fetch(model)}")
        else:
            yield Finding("ok", "model", named)
    for reason in reasons:
        yield Finding("warn" if offers else "fail", "engine", reason)


def _port() -> Iterator[Finding]:
    try:
        with socket.create_server(("", DEFAULT_PORT)):
            yield Finding("ok", "port", f"{DEFAULT_PORT} is free")
    except OSError:
        yield Finding("warn", "port", f"{DEFAULT_PORT} is taken; a node takes the next free one, or name one: --port N")


def _network(home: Home) -> Iterator[Finding]:
    try:
        network = Network.read(home)
    except ConfigError as error:
        yield Finding("fail", "network", str(error))
        return
    if not network.hub:
        yield Finding("ok", "network", "no hub: nodes are reached by their addresses, or over a peer that relays")
        return
    if not (home.path / "node.key").exists():
        yield Finding("warn", "hub", f"{label(network.hub, 200)} was not asked: no identity to log in with yet")
        return
    from dpc_jupyter.node.reaching import log_in  # websockets: only who has a hub pays for it

    try:
        run(log_in(network, home.load_identity(), _HUB_S))
        yield Finding("ok", "hub", f"{label(network.hub, 200)} lets this node log in")
    except DpcError as error:
        yield Finding("warn", "hub", str(error))


def _access(home: Home) -> Iterator[Finding]:
    rules = home.read_access()
    if rules.error:
        yield Finding("fail", "access", rules.error)
        return
    document, now = rules.document, datetime.now(UTC)
    rows = let_in(rules, now)
    for node_id in dict.fromkeys([*(listed for _, listed, *_ in rows), *document.get("nodes", {})]):
        if not (is_node_id(node_id) or node_id.startswith("_")):
            whole = "a node id is dpc-node- and 32 hex digits, as its owner sees it in %dpc_status"
            yield Finding("warn", "access", f"{label(node_id, 128)} can never be anybody: {whole}")
    for name, node_id, _, _, until in rows:
        if rules.has_ended(node_id, now):
            word = name if is_word(name) else node_id
            cure = f"`dpc-jupyter firewall allow {word} --expires 7d` renews it, or: `... deny {word}`"
            yield Finding("warn", "access", f"the access of {name or node_id} {until}: {cure}")
    if rules.enabled and rules.paused:
        yield Finding("warn", "access", "sharing is paused, new requests are refused: `dpc-jupyter firewall resume`")
    held = [(name or node_id, models) for name, node_id, models, *_ in rows if not rules.has_ended(node_id, now)]
    if not rules.enabled:
        yield Finding("ok", "access", "sharing is off: nobody can ask this node; `dpc-jupyter firewall on` turns it on")
    elif held:
        yield Finding("ok", "access", "; ".join(f"{who} ({models})" for who, models in held))
    else:
        yield Finding("warn", "access", "sharing is on for nobody: dpc-jupyter invite NAME")
