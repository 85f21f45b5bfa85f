"""``dpc-jupyter serve``: a headless host."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from datetime import datetime
from typing import Annotated

import typer

from dpc_jupyter.cli.console import home_of, in_cli_words, run, say
from dpc_jupyter.home import Home
from dpc_jupyter.node.core_service import CoreService
from dpc_jupyter.node.status import NodeEvent
from dpc_jupyter.transports.tls import DEFAULT_PORT
from dpc_jupyter.wording import allow_command, asked_for, let_in, model_name

_ALLOW = "dpc-jupyter firewall"


def serve(
    ctx: typer.Context,
    listen: Annotated[str, typer.Option(metavar="ADDRESS", help="Listen on this address alone; default: all.")] = "",
    port: Annotated[int, typer.Option(help="First port to try; 0 takes any.")] = DEFAULT_PORT,
    name: Annotated[str | None, typer.Option(help="What the node calls itself; default: the machine's name.")] = None,
    share: Annotated[bool, typer.Option("--share", help="Turn sharing on in the access file.")] = False,
) -> None:
    """Let the people in the access file use this machine's models, until Ctrl-C.

    The node's address is the one line on standard output; what happens is told on standard error.
    """
    run(_serve(home_of(ctx), (listen, port), name, share))


async def _serve(home: Home, listen: tuple[str, int], name: str | None, share: bool) -> None:
    stopped = asyncio.Event()
    async with CoreService(home, name=name) as service:
        if share:
            service.access.set_sharing(True)
        service.subscribe(lambda event: _log(event, home))
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C cancels this coroutine instead
                asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        await service.start(listen)
        assert service.uri is not None
        if listen[1] not in (0, service.uri.port):
            say(f"Port {listen[1]} was taken.")
        typer.echo(str(service.uri))
        sys.stdout.flush()
        await _tell_what_is_shared(service)
        await stopped.wait()
        say("Stopping.")


async def _tell_what_is_shared(service: CoreService) -> None:
    rules = service.access.rules
    if rules.error:
        say(f"Nobody is let in: {rules.error}", "yellow")
    elif not rules.enabled:
        say(f"Sharing is off: nobody can ask this node. Turn it on: {_ALLOW} on", "yellow")
    elif rows := let_in(service.home.access_document(), rules):
        say("Let in: " + "; ".join(f"{name or node_id} ({models})" for name, node_id, models, _ in rows))
    else:
        say(f"Nobody is let in yet: {_ALLOW} allow NODE_ID --name NAME", "yellow")
    if models := await service.models():
        say("Models: " + ", ".join(dict.fromkeys(map(model_name, models))))
    else:
        say("No model can be asked now. See why: dpc-jupyter doctor", "yellow")
    for node_id, entry in service.access.pending().items():
        say(f"{asked_for(node_id, entry, time.time())} {allow_command(_ALLOW, node_id, entry)}")


def _log(event: NodeEvent, home: Home) -> None:
    say(f"{datetime.now():%H:%M:%S} {in_cli_words(event.text)}")
    if event.kind == "access_requested":
        entry = home.pending().get(event.node_id, {})
        say(f"         Let it in: {allow_command(_ALLOW, event.node_id, entry)}")
