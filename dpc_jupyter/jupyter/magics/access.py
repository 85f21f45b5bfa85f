"""``%dpc_firewall`` and ``%dpc_invite``: who may use this machine's models."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments
from IPython.display import display

from dpc_jupyter.errors import DpcError
from dpc_jupyter.jupyter.drawing.one_line import UsageError, one_line
from dpc_jupyter.jupyter.drawing.tables import show_table
from dpc_jupyter.jupyter.magics.arguments import fill_in, parse
from dpc_jupyter.jupyter.notebook import Notebook
from dpc_jupyter.node.joining import EXPIRES, VALID
from dpc_jupyter.node.status import NodeEvent
from dpc_jupyter.sanitize import label
from dpc_jupyter.wording import (
    INVITATION_HEAD,
    LET_IN_HEAD,
    allow_command,
    allowed,
    asked_for,
    doubts,
    invitation_rows,
    invited,
    let_in,
    relaying,
    several,
    sharing,
)

ACTIONS = ("show", "on", "off", "pause", "resume", "allow", "deny", "explain", "pending", "relay")


@magics_class
class AccessMagics(Magics):
    """Reads and edits the access file; a running node follows at once."""

    def __init__(self, shell: InteractiveShell, notebook: Notebook) -> None:
        super().__init__(shell)
        self._shell = shell
        self._notebook = notebook

    @line_magic
    @no_var_expand
    @one_line
    @magic_arguments()
    @argument("action", nargs="?", choices=ACTIONS, default="show")
    @argument("who", nargs="?", help="a node id, or a name in the access file; for relay: on or off")
    @argument("what", nargs="?", metavar="model", help="for deny and explain: this model alone")
    @argument("--model", action="append", help="for allow: add this model, * at the end for a family")
    @argument("--name", help="for allow: what to call the node here")
    @argument("--group", help="for allow: let it in as a member of this group")
    @argument("--expires", metavar="WHEN", help="for allow: 12h, 7d, a date, or never")
    @argument(
        "--limit",
        action="append",
        metavar="NAME=N",
        help="for allow: running, queued, requests_per_minute, tokens_per_day",
    )
    def dpc_firewall(self, line: str) -> None:
        """See and say who may use this machine's models.

        A new node that is allowed without --model may use all. --model may be repeated; it is added to the
        models that the node was allowed before, and deny takes one away.

        Examples::

            %dpc_firewall on
            %dpc_firewall pending
            %dpc_firewall allow dpc-node-... --name anna --model llama3-70b --expires 7d
            %dpc_firewall allow {her_id} --name anna
            %dpc_firewall explain anna llama3-70b
            %dpc_firewall deny anna
            %dpc_firewall allow anna --limit running=1 --limit tokens_per_day=50000
            %dpc_firewall pause
            %dpc_firewall relay on
            %dpc_firewall off

        off stops what runs for peers; pause lets it end, and takes nothing new until resume. Both hold for every node
        of this home. relay lets peers of this node reach each other over it; it carries what it cannot read.
        """
        wanted = parse(self, "dpc_firewall", line)
        for option, typed in vars(wanted).items():
            setattr(wanted, option, self._filled(typed))
        access = self._notebook.access
        if wanted.action in ("allow", "deny", "explain") and not wanted.who:
            raise UsageError(f"Who? %dpc_firewall {wanted.action} with a node id or a name; pending lists who asked.")
        if wanted.action in ("on", "off"):
            access.set_sharing(wanted.action == "on")
            print(sharing(access.rules) if access.rules.enabled else "Sharing is off.")
        elif wanted.action in ("pause", "resume"):
            access.set_paused(wanted.action == "pause")
            print(sharing(access.rules))
        elif wanted.action == "relay":
            if wanted.who not in ("on", "off"):
                raise UsageError("On or off? %dpc_firewall relay on, or %dpc_firewall relay off.")
            access.set_relaying(wanted.who == "on")
            print(relaying(access.rules, datetime.now(UTC)))
        elif wanted.action == "allow":
            models = (*(wanted.model or ()), *([wanted.what] if wanted.what else ()))
            before = access.rules.document
            node_id = access.allow(
                wanted.who,
                name=wanted.name,
                models=models,
                group=wanted.group,
                expires=wanted.expires,
                limits=wanted.limit or (),
            )
            print(allowed(access.rules, datetime.now(UTC), node_id, models))
            print(access.explain(node_id).reason)
            for doubt in doubts(before, models, wanted.group, self._notebook.models_here() if models else ()):
                print(doubt)
        elif wanted.action == "deny":
            node_id = access.deny(wanted.who, wanted.what)
            print(access.explain(node_id, wanted.what).reason)
        elif wanted.action == "explain":
            print(access.explain(wanted.who, wanted.what).reason)
        elif wanted.action == "pending":
            self._show_pending()
        else:
            self._show()

    @line_magic
    @no_var_expand
    @one_line
    @magic_arguments()
    @argument("guest", nargs="?", metavar="name", help="what to call whoever joins")
    @argument("--models", "--model", action="append", help="what may be used, commas between; default: all models")
    @argument("--group", help="let in as a member of this group")
    @argument(
        "--expires",
        metavar="WHEN",
        default=EXPIRES,
        help="when the permission ends: 12h or 7d (default) from joining, a date, or never",
    )
    @argument("--valid", metavar="WHEN", default=VALID, help="how long the line can be used: 12h, 7d (default), a date")
    @argument(
        "--limit",
        action="append",
        metavar="NAME=N",
        help="running, queued, requests_per_minute, tokens_per_day",
    )
    @argument(
        "--address", action="append", metavar="HOST:PORT", help="another way to this host: a VPN, a forwarded port"
    )
    @argument("--list", action="store_true", help="show the invitations, and what became of them")
    @argument("--revoke", metavar="NAME|ID", help="take an open one back")
    def dpc_invite(self, line: str) -> None:
        """Make a line that lets one person in, once; the other side pastes it behind %dpc_join.

        The line ends (--valid), and the permission that it gives ends (--expires): two things. Send it to nobody else,
        since whoever uses it first is in. The secret in it never goes over the network.

        Examples::

            %dpc_invite anna --models llama3.1:8b --expires 7d
            %dpc_invite bob --group lab --limit running=1 --valid 12h
            %dpc_invite --list
            %dpc_invite --revoke anna
        """
        wanted = parse(self, "dpc_invite", line)
        for option, typed in vars(wanted).items():
            if not isinstance(typed, bool):
                setattr(wanted, option, self._filled(typed))
        access, invitations = self._notebook.access, self._notebook.invitations
        if wanted.revoke is not None:
            print(f"The invitation for {label(invitations.revoke(wanted.revoke).name)} is taken back.")
        elif wanted.list:
            if rows := invitation_rows(invitations.all(), access.rules):
                show_table(INVITATION_HEAD, rows)
            else:
                print("There are no invitations: %dpc_invite NAME")
        elif not wanted.guest:
            raise UsageError("Whom? %dpc_invite NAME; --list shows the invitations that there are.")
        else:
            models, before = several(wanted.models or ()), access.rules.document
            made = invitations.make(
                wanted.guest,
                models=models,
                group=wanted.group,
                expires=wanted.expires,
                limits=wanted.limit or (),
                valid=wanted.valid,
                addresses=wanted.address or (),
            )
            about, *rest = invited(invitations.status(made.invite_id), access.rules)
            print(about, made, *rest, sep="\n")
            for doubt in doubts(before, models, wanted.group, self._notebook.models_here() if models else ()):
                print(doubt)
            self._tell_when_used(made.invite_id, wanted.guest)

    def _tell_when_used(self, invite_id: str, name: str) -> None:
        """Let the cell that made an invitation say who came by it, as long as this kernel's node runs."""
        if (node := self._notebook.running) is None:
            return
        invitations = node.service.invitations
        shown = display(_line("Nobody has joined by it yet."), raw=True, display_id=True)

        def look() -> None:
            try:
                status = invitations.status(invite_id)
            except DpcError:  # a file is broken, which others say
                return
            if status.state != "open" and (end := ends.pop("watch", None)) is not None:
                end()
                who = f"{label(name)} has joined: {status.used_by}." if status.used_by else f"It is {status.state}."
                shown.update(_line(who), raw=True)

        def changed(event: NodeEvent) -> None:
            if event.kind in ("peer_joined", "access_changed"):  # here, or at another node of this home
                asyncio.get_running_loop().run_in_executor(None, look)

        ends = {"watch": node.service.subscribe(changed)}

    def _filled(self, typed: Any) -> Any:
        """What was typed, with the notebook's variables in it: node ids are long."""
        if isinstance(typed, list):
            return [self._filled(each) for each in typed]
        return typed and fill_in(typed, self._notebook.variables, self._shell)

    def _show(self) -> None:
        rules = self._notebook.access.rules
        if rules.error:
            print(f"Nobody is let in: {rules.error}")
            return
        print(sharing(rules))
        if rows := let_in(rules, datetime.now(UTC)):
            show_table(LET_IN_HEAD, rows)
        else:
            print("Nobody is listed yet: %dpc_invite NAME")
        print(relaying(rules, datetime.now(UTC)))

    def _show_pending(self) -> None:
        access = self._notebook.access
        asked = access.pending()
        for node_id, entry in asked.items():
            who = asked_for(node_id, entry, access.rules, time.time())
            print(f"{who} {allow_command('%dpc_firewall', node_id, entry, access.rules)}")
        if not asked:
            print("Nobody has asked and been refused.")


def _line(text: str) -> dict[str, str]:
    return {"text/plain": text}
