"""``dpc-jupyter invite`` and ``dpc-jupyter join``: one line to paste lets somebody in."""

from __future__ import annotations

from typing import Annotated

import typer

from dpc_jupyter.cli.console import home_of, in_cli_words, out, run, say, show_table
from dpc_jupyter.cli.firewall import models_here
from dpc_jupyter.errors import InvitationError
from dpc_jupyter.home import Home
from dpc_jupyter.node.core_service import CoreService
from dpc_jupyter.node.joining import EXPIRES, VALID, Invitations
from dpc_jupyter.node.serving import Access
from dpc_jupyter.node.status import JoinedHost
from dpc_jupyter.wording import INVITATION_HEAD, doubts, invitation_rows, invited, joined_host, several

_EXPIRES = "When the permission ends: 12h or 7d from joining, a date, or never."
_VALID = "How long the line can be used: 12h, 7d, or a date."
_MODELS = "What may be used, commas between; * at the end for a family; may be repeated. Default: all models."
_LIMIT = "running, queued, requests_per_minute or tokens_per_day; may be repeated."
_ADDRESS = "A way to this host beside those where it listens: a VPN's name, a forwarded port; may be repeated."


def invite(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(help="What to call whoever joins.")] = None,
    models: Annotated[list[str] | None, typer.Option("--models", "--model", help=_MODELS)] = None,
    group: Annotated[str | None, typer.Option(help="Let in as a member of this group.")] = None,
    expires: Annotated[str, typer.Option(help=_EXPIRES)] = EXPIRES,
    limit: Annotated[list[str] | None, typer.Option(metavar="NAME=N", help=_LIMIT)] = None,
    valid: Annotated[str, typer.Option(help=_VALID)] = VALID,
    address: Annotated[list[str] | None, typer.Option(metavar="HOST:PORT", help=_ADDRESS)] = None,
    show: Annotated[bool, typer.Option("--list", help="Show the invitations, and what became of them.")] = False,
    revoke: Annotated[str | None, typer.Option(metavar="NAME|ID", help="Take an open one back.")] = None,
) -> None:
    """Make a line that lets one person in, once; the other side pastes it behind `dpc-jupyter join`.

    The line is the one thing on standard output. When it is used a node of this home must listen, or be online at its
    hub: dpc-jupyter serve.
    """
    access = Access(home_of(ctx))
    invitations = Invitations(home_of(ctx), access)
    if revoke is not None:
        say(f"The invitation for {invitations.revoke(revoke).name} is taken back.")
    elif show:
        if rows := invitation_rows(invitations.all(), access.rules):
            show_table(INVITATION_HEAD, rows)
        else:
            out.print("There are no invitations: dpc-jupyter invite NAME")
    elif name is None:
        raise InvitationError("Whom? dpc-jupyter invite NAME; --list shows the invitations that there are.")
    else:
        wanted, before = several(models or ()), access.rules.document
        made = invitations.make(
            name,
            models=wanted,
            group=group,
            expires=expires,
            limits=limit or (),
            valid=valid,
            addresses=address or (),
        )
        about, terms, *rest = invited(invitations.status(made.invite_id), access.rules)
        say(in_cli_words(about))
        out.print(str(made))
        for sentence in (terms, *rest, *doubts(before, wanted, group, models_here(home_of(ctx)) if wanted else ())):
            say(in_cli_words(sentence))


def join(
    ctx: typer.Context,
    line: Annotated[list[str], typer.Argument(help="The line: dpc-invite:...")],
    name: Annotated[str | None, typer.Option(help="What to call the host here; default: its own name.")] = None,
) -> None:
    """Go to a host by the line that its owner sent, and be let in."""
    joined = run(_join(home_of(ctx), " ".join(line), name))
    for sentence in joined_host(joined):
        out.print(in_cli_words(sentence), markup=False)


async def _join(home: Home, line: str, name: str | None) -> JoinedHost:
    async with CoreService(home) as service:
        await service.start()
        return await service.join(line, name=name)
