"""``dpc-jupyter firewall``: who may use this machine's models. A running node follows the file at once."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from dpc_jupyter.cli.console import home_of, in_cli_words, out, show_table
from dpc_jupyter.errors import ConfigError
from dpc_jupyter.node.access import Access
from dpc_jupyter.wording import LET_IN_HEAD, allow_command, allowed, asked_for, let_in

app = typer.Typer(no_args_is_help=True, help="Who may use this machine's models.")
Who = Annotated[str, typer.Argument(help="A node id, or a name in the access file.")]
_MODEL_HELP = (
    "A model that it may use, * at the end for a family; may be repeated. It is added to those that were allowed "
    "before; without any, all may be used."
)
_LIMIT_HELP = "running, queued, requests_per_minute or tokens_per_day; may be repeated."
Model = Annotated[str | None, typer.Argument(help="This model alone.")]


@app.command()
def show(ctx: typer.Context) -> None:
    """Show whom the access file lets in."""
    home = home_of(ctx)
    rules = home.read_access()
    if rules.error:
        raise ConfigError(f"Nobody is let in: {rules.error}")
    out.print("Sharing is on." if rules.enabled else "Sharing is off. Turn it on: dpc-jupyter firewall on")
    if rows := let_in(home.access_document(), rules):
        show_table(LET_IN_HEAD, rows)
    else:
        out.print("Nobody is listed yet: dpc-jupyter firewall allow NODE_ID --name NAME")


@app.command()
def on(ctx: typer.Context) -> None:
    """Turn sharing on for those whom the access file lists."""
    Access(home_of(ctx)).set_sharing(True)
    out.print("Sharing is on.")


@app.command()
def off(ctx: typer.Context) -> None:
    """Turn sharing off; what runs for peers is stopped."""
    Access(home_of(ctx)).set_sharing(False)
    out.print("Sharing is off.")


@app.command()
def allow(
    ctx: typer.Context,
    who: Who,
    model: Annotated[list[str] | None, typer.Option(help=_MODEL_HELP)] = None,
    name: Annotated[str | None, typer.Option(help="What to call the node here.")] = None,
    group: Annotated[str | None, typer.Option(help="Let it in as a member of this group.")] = None,
    expires: Annotated[str | None, typer.Option("--expires", help="12h, 7d, a date, or never.")] = None,
    limit: Annotated[list[str] | None, typer.Option(metavar="NAME=N", help=_LIMIT_HELP)] = None,
) -> None:
    """Let a node in, or change its terms."""
    access = Access(home_of(ctx))
    models, limits = tuple(model or ()), tuple(limit or ())
    node_id = access.allow(who, name=name, models=models, group=group, expires=expires, limits=limits)
    _print(allowed(home_of(ctx).access_document(), access.rules, node_id, model or ()))
    _print(access.explain(node_id).reason)


@app.command()
def deny(ctx: typer.Context, who: Who, model: Model = None) -> None:
    """Take back a permission, of one model or all; what it runs is stopped."""
    access = Access(home_of(ctx))
    _print(access.explain(access.deny(who, model), model).reason)


@app.command()
def explain(ctx: typer.Context, who: Who, model: Model = None) -> None:
    """Say whether a node may use a model now, and which line of the file decides."""
    _print(Access(home_of(ctx)).explain(who, model).reason)


@app.command()
def pending(ctx: typer.Context) -> None:
    """List who asked and was refused, with the command that lets each in."""
    asked = Access(home_of(ctx)).pending()
    for node_id, entry in asked.items():
        _print(f"{asked_for(node_id, entry, time.time())} {allow_command('dpc-jupyter firewall', node_id, entry)}")
    if not asked:
        out.print("Nobody has asked and been refused.")


def _print(sentence: str) -> None:
    out.print(in_cli_words(sentence), markup=False)
