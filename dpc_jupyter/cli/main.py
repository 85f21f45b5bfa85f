"""The command line: ``dpc-jupyter --help``."""

from __future__ import annotations

import csv
import dataclasses
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from dpc_jupyter import __version__
from dpc_jupyter.cli import ask, doctor, firewall, hub, invite, models, network, serve
from dpc_jupyter.cli.console import OneLineErrors, home_of, out, show_table
from dpc_jupyter.cli.demo import demo
from dpc_jupyter.firewall import Rules
from dpc_jupyter.home import Home
from dpc_jupyter.ledger import Entry, Ledger
from dpc_jupyter.node.reaching import Directory
from dpc_jupyter.sanitize import label
from dpc_jupyter.wording import USAGE_HEAD, ago, usage_rows

app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Remote LLM inference between trusted peers.",
)
app.add_typer(models.app, name="models")
app.add_typer(firewall.app, name="firewall")
app.command("demo")(demo)
app.command("serve")(serve.serve)
app.command("ask")(ask.ask)
app.command("invite")(invite.invite)
app.command("join")(invite.join)
app.command("doctor")(doctor.doctor)
app.command("hub")(hub.hub)
app.command("network")(network.network)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dpc-jupyter {__version__}")
        raise typer.Exit


@app.callback()
def everywhere(
    ctx: typer.Context,
    home: Annotated[
        Path | None, typer.Option(envvar="DPC_HOME", help="The node's folder.", show_default="~/.dpc")
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Remote LLM inference between trusted peers."""
    ctx.obj = Home.default() if home is None else Home(home)


@app.command("id")
def show_id(ctx: typer.Context) -> None:
    """Print this node's id; the first time makes its identity."""
    typer.echo(home_of(ctx).load_identity().node_id)


@app.command()
def peers(ctx: typer.Context) -> None:
    """List the peers that this machine has reached, by which way, and their last addresses."""
    home = home_of(ctx)
    rules: Rules = home.read_access()
    directory = Directory(home, lambda: rules)
    rows = [
        (
            directory.name_of(node_id),
            node_id,
            entry.get("uri", ""),
            entry.get("by", ""),
            ago(time.time() - _number(entry.get("last_seen"))),
        )
        for node_id, entry in directory.known.items()
    ]
    if rows:
        show_table(("Peer", "Node", "Address", "Reached by", "Last reached"), rows)
    else:
        out.print('No peer was reached yet: dpc-jupyter ask --host dpc://... "Hello"')


@app.command()
def usage(
    ctx: typer.Context,
    as_csv: Annotated[bool, typer.Option("--csv", help="Every request as a line of CSV.")] = False,
    days: Annotated[float | None, typer.Option(min=0, help="Only the last N days.")] = None,
) -> None:
    """Show who used what: peers here, and you here and elsewhere. Prompts are never kept."""
    home = home_of(ctx)
    since = None if days is None else time.time() - days * 86_400
    ledger = Ledger(home.ledger_path)
    try:
        if as_csv:
            writer = csv.writer(sys.stdout)
            writer.writerow([column.name for column in dataclasses.fields(Entry)])
            writer.writerows(map(_cell, dataclasses.astuple(entry)) for entry in ledger.rows(since))
            return
        rules: Rules = home.read_access()
        directory = Directory(home, lambda: rules)
        rows = usage_rows(ledger.usage(since), directory.name_of)
    finally:
        ledger.close()
    if rows:
        show_table(USAGE_HEAD, rows)
    else:
        out.print("Nothing yet.")


def _cell(value: object) -> object:
    """Text of a peer in a table: nothing that a terminal obeys, or a spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    text = label(value, 256)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
