"""What the commands share: where they print, how they fail, and how they run what is asynchronous."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from dpc_jupyter.errors import DpcError
from dpc_jupyter.home import Home
from dpc_jupyter.node.thread import new_event_loop
from dpc_jupyter.sanitize import plain
from dpc_jupyter.wording import columns

T = TypeVar("T")
# Errors of a node name the notebook's fix; here the same fix has another name.
_HERE = {
    "%dpc_hub ": "dpc-jupyter network --hub ",
    "%dpc_connect": "dpc-jupyter ask --host",
    "%dpc_models": "dpc-jupyter models list",
    "%dpc_status": "dpc-jupyter id",
    "%dpc_start": "dpc-jupyter serve",
    "%dpc_firewall": "dpc-jupyter firewall",
    "%dpc_invite": "dpc-jupyter invite",
    "%dpc_join": "dpc-jupyter join",
    "%dpc_ask -H": "dpc-jupyter ask --host",
}
INTERRUPTED = 130

out = Console(highlight=False, emoji=False, soft_wrap=True)
err = Console(highlight=False, emoji=False, soft_wrap=True, stderr=True)


class OneLineErrors(TyperGroup):
    """A `DpcError` is one red line and exit status 1; Ctrl-C is 130."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except DpcError as error:
            say(in_cli_words(str(error)), "red")
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            say("Stopped.", "red")
            raise typer.Exit(INTERRUPTED) from None


def in_cli_words(sentence: str) -> str:
    """A sentence with the notebook's commands replaced by ours."""
    for magic, command in _HERE.items():
        sentence = sentence.replace(magic, command)
    return sentence


def say(sentence: str, style: str = "") -> None:
    """Print one line to stderr, where it is in no script's way."""
    err.print(Text(plain(sentence), style=style))


def home_of(ctx: typer.Context) -> Home:
    """The folder that ``--home``, ``DPC_HOME`` or the default names."""
    assert isinstance(ctx.obj, Home)
    return ctx.obj


def show_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their headings; every cell is made one safe line."""
    _, (top, *lines) = columns(head, rows)
    out.print(Text(top, style="bold"))
    for line in lines:
        out.print(Text(line))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of the kind that nodes use; Ctrl-C cancels it and lets it end in order."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work)
