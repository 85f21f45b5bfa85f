"""``dpc-jupyter serve``: a headless host."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from dpc_jupyter.cli.console import home_of, in_cli_words, run, say
from dpc_jupyter.errors import AccessDenied, ConfigError
from dpc_jupyter.home import PENDING_LIMIT, Home
from dpc_jupyter.identity import short
from dpc_jupyter.ledger import Entry
from dpc_jupyter.node.core_service import CoreService
from dpc_jupyter.node.news import ONCE_EVERY_S
from dpc_jupyter.node.reaching import Network
from dpc_jupyter.node.status import NodeEvent
from dpc_jupyter.transports.tls import DEFAULT_PORT
from dpc_jupyter.wording import PAUSED, allow_command, asked_for, let_in_line, model_name, request_line

_ALLOW = "dpc-jupyter firewall"


def serve(
    ctx: typer.Context,
    listen: Annotated[str, typer.Option(metavar="ADDRESS", help="Listen on this address alone; default: all.")] = "",
    port: Annotated[int, typer.Option(help="First port to try; 0 takes any.")] = DEFAULT_PORT,
    name: Annotated[str | None, typer.Option(help="What the node calls itself; default: the machine's name.")] = None,
    share: Annotated[bool, typer.Option("--share", help="Turn sharing on in the access file.")] = False,
    no_listen: Annotated[
        bool, typer.Option("--no-listen", help="Open no port: be reached over the hub and relays alone.")
    ] = False,
    connect: Annotated[
        list[str] | None,
        typer.Option(metavar="PEER", help="Stay linked to this address or name, as to a peer that relays; repeatable."),
    ] = None,
) -> None:
    """Let the people in the access file use this machine's models, until Ctrl-C.

    The node's address, or without a port its id, is the one line on standard output; what happens is told on standard
    error.
    """
    home = home_of(ctx)
    if no_listen and not connect and not Network.read(home).hub:
        raise ConfigError(
            "Nobody could reach this node: it is to open no port, and has no hub. Name one: "
            "dpc-jupyter network --hub https://... Or stay linked to a peer that relays: --connect PEER."
        )
    where = None if no_listen else (listen, port)
    run(_serve(home, where, name, share, connect or []))


async def _serve(
    home: Home, listen: tuple[str, int] | None, name: str | None, share: bool, connect: Sequence[str]
) -> None:
    stopped = asyncio.Event()
    async with CoreService(home, name=name) as service:
        if share:
            service.access.set_sharing(True)
        service.subscribe(_log)
        service.ledger.watch(RequestLog(service))
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C cancels this coroutine instead
                asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        await service.start(listen, takes_calls=True)
        if listen is not None and service.uri is not None and listen[1] not in (0, service.uri.port):
            say(f"Port {listen[1]} was taken.")
        for where in connect:
            service.keep_linked(where)
        typer.echo(str(service.uri or service.identity.node_id))
        sys.stdout.flush()
        await _tell_what_is_shared(service)
        await stopped.wait()
        say("Stopping.")


async def _tell_what_is_shared(service: CoreService) -> None:
    rules = service.access.rules
    if rules.enabled and rules.paused:
        say(in_cli_words(PAUSED), "yellow")
    if rules.error:
        say(f"Nobody is let in: {rules.error}", "yellow")
    elif not rules.enabled:
        say(f"Sharing is off: nobody can ask this node. Turn it on: {_ALLOW} on", "yellow")
    elif who := let_in_line(rules, datetime.now(UTC)):
        say(f"Let in: {who}")
    else:
        say("Nobody is let in yet: dpc-jupyter invite NAME", "yellow")
    if models := await service.models():
        say("Models: " + ", ".join(dict.fromkeys(map(model_name, models))))
    else:
        say("No model can be asked now. See why: dpc-jupyter doctor", "yellow")
    for node_id, entry in service.access.pending().items():
        say(f"{asked_for(node_id, entry, rules, time.time())} {allow_command(_ALLOW, node_id, entry, rules)}")


class RequestLog:
    """A line for every request of a peer that ended, and one for each stranger that was refused."""

    def __init__(self, service: CoreService) -> None:
        self._service = service
        self._told: set[str] = set()
        self._told_at = float("-inf")

    def __call__(self, entry: Entry) -> None:
        """Take the ledger's word: it has no prompt, and notes no flood."""
        if entry.role != "host":
            return
        if entry.outcome == AccessDenied.code and not self._service.access.is_known(entry.peer):
            self._tell_of_stranger(entry)
            return
        owners = self._service.access.rules.name_of(entry.peer)
        _say_now(request_line(entry, short(owners) if owners == entry.peer else owners))

    def _tell_of_stranger(self, entry: Entry) -> None:
        # Keys are free: a flood of strangers is one line a second, and `firewall pending` lists them all.
        if entry.peer in self._told or time.monotonic() - self._told_at < ONCE_EVERY_S:
            return
        if len(self._told) >= PENDING_LIMIT:
            self._told.clear()
        self._told.add(entry.peer)
        self._told_at = time.monotonic()
        claimed = next((peer.name for peer in self._service.peers() if peer.node_id == entry.peer), "")
        asked = {"name": claimed, "model": entry.model, "when": entry.started_at}
        rules = self._service.access.rules
        _say_now(asked_for(entry.peer, asked, rules, time.time()))
        say(f"         {allow_command(_ALLOW, entry.peer, asked, rules)}")


def _log(event: NodeEvent) -> None:
    if event.kind != "access_requested":  # which the request's own end tells, once
        _say_now(in_cli_words(event.text))


def _say_now(sentence: str) -> None:
    say(f"{datetime.now():%H:%M:%S} {sentence}")
