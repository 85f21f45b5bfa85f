"""``dpc-jupyter firewall``: who may use this machine's models. A running node follows the file at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from dpc_jupyter.cli.console import home_of, in_cli_words, out, run, show_table
from dpc_jupyter.cli.models import engines
from dpc_jupyter.errors import ConfigError, DpcError
from dpc_jupyter.home import Home
from dpc_jupyter.node.serving import Access
from dpc_jupyter.wording import LET_IN_HEAD, allow_command, allowed, asked_for, doubts, let_in, relaying, sharing

app = typer.Typer(no_args_is_help=True, help="Who may use this machine's models.")
Model = Annotated[str | None, typer.Argument(help="This model alone.")]
Who = Annotated[str, typer.Argument(help="A node id, or a name in the access file.")]
_MODEL_HELP = (
    "A model that it may use, * at the end for a family; may be repeated. It is added to those that were allowed "
    "before; without any, a new node may use all."
)
_LIMIT_HELP = "running, queued, requests_per_minute or tokens_per_day; may be repeated."
_LOOK_S = 1.0


class Switch(StrEnum):
    """On or off, as typed."""

    on = "on"
    off = "off"


@app.command()
def show(ctx: typer.Context) -> None:
    """Show whether sharing is on, and whom the access file lets in."""
    home = home_of(ctx)
    rules = home.read_access()
    if rules.error:
        raise ConfigError(f"Nobody is let in: {rules.error}")
    _print(sharing(rules))
    if rows := let_in(rules, datetime.now(UTC)):
        show_table(LET_IN_HEAD, rows)
    else:
        out.print("Nobody is listed yet: dpc-jupyter invite NAME")
    _print(relaying(rules, datetime.now(UTC)))


@app.command()
def on(ctx: typer.Context) -> None:
    """Turn sharing on for those whom the access file lists."""
    access = Access(home_of(ctx))
    access.set_sharing(True)
    _print(sharing(access.rules))


@app.command()
def off(ctx: typer.Context) -> None:
    """Turn sharing off; what runs for peers is stopped."""
    Access(home_of(ctx)).set_sharing(False)
    out.print("Sharing is off.")


@app.command()
def pause(ctx: typer.Context) -> None:
    """Take nothing new from peers until resume; what runs goes on, and what waits keeps its place."""
    access = Access(home_of(ctx))
    access.set_paused(True)
    _print(sharing(access.rules))


@app.command()
def resume(ctx: typer.Context) -> None:
    """End a pause."""
    access = Access(home_of(ctx))
    access.set_paused(False)
    _print(sharing(access.rules))


@app.command()
def relay(ctx: typer.Context, state: Annotated[Switch, typer.Argument()]) -> None:
    """Let peers of this node reach each other over it, or not; it carries what it cannot read."""
    access = Access(home_of(ctx))
    access.set_relaying(state is Switch.on)
    _print(relaying(access.rules, datetime.now(UTC)))


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
    models, limits, before = tuple(model or ()), tuple(limit or ()), access.rules.document
    node_id = access.allow(who, name=name, models=models, group=group, expires=expires, limits=limits)
    _print(allowed(access.rules, datetime.now(UTC), node_id, models))
    _print(access.explain(node_id).reason)
    for doubt in doubts(before, models, group, models_here(home_of(ctx)) if models else ()):
        _print(doubt)


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
    access = Access(home_of(ctx))
    asked = access.pending()
    for node_id, entry in asked.items():
        who = asked_for(node_id, entry, access.rules, time.time())
        _print(f"{who} {allow_command('dpc-jupyter firewall', node_id, entry, access.rules)}")
    if not asked:
        out.print("Nobody has asked and been refused.")


def models_here(home: Home) -> list[str]:
    """Of the engines that answer at once: nothing of a permission waits for them."""

    async def look() -> list[str]:
        async with asyncio.timeout(_LOOK_S):
            offers, _ = await engines(home)
        return [model.name for _, model in offers]

    with contextlib.suppress(DpcError, TimeoutError):
        return run(look())
    return []


def _print(sentence: str) -> None:
    out.print(in_cli_words(sentence), markup=False)
