"""``dpc-jupyter demo``: a host in one process, a notebook in another, and an answer between them."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from dpc_jupyter.cli.console import say
from dpc_jupyter.cli.demo.hub import run
from dpc_jupyter.cli.demo.lab import open_lab
from dpc_jupyter.cli.demo.notebook import print_report, run_notebook
from dpc_jupyter.cli.demo.place import prepare, running_host
from dpc_jupyter.errors import DpcError


def demo(
    lab: Annotated[bool, typer.Option("--lab", help="Open JupyterLab beside two hosts instead, until Ctrl-C.")] = False,
    hub: Annotated[
        bool, typer.Option("--hub", help="Let a host that opens no port and an asker meet over a hub instead.")
    ] = False,
) -> None:
    """Run a host and the quickstart notebook on this machine, in ./.demo, and show what passed between them."""
    # Both end the host and JupyterLab too, even where a shell in the background has made us ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path.cwd() / ".demo"
    started = time.monotonic()
    place = prepare(folder)
    if hub:
        run(place)
        return
    with running_host(place) as uri:
        say(f"host up: {uri}")
        if lab:
            with running_host(place, place.second) as second:
                say(f"host up: {second}")
                open_lab(place, {"DPC_DEMO_HOST": uri, "DPC_DEMO_HOST_2": second})
            return
        report = run_notebook(place, uri)
    print_report(report, place, time.monotonic() - started)
    if report.failure:
        raise DpcError(report.failure)
