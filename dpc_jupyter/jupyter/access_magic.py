"""``%dpc_firewall``: who may use this machine's models."""

from __future__ import annotations

import time
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments

from dpc_jupyter.jupyter.arguments import fill_in, parse
from dpc_jupyter.jupyter.notebook import Notebook
from dpc_jupyter.jupyter.one_line import UsageError, one_line
from dpc_jupyter.jupyter.tables import show_table
from dpc_jupyter.wording import LET_IN_HEAD, allow_command, allowed, asked_for, let_in

ACTIONS = ("show", "on", "off", "pause", "resume", "allow", "deny", "explain", "pending")


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
    @argument("who", nargs="?", help="a node id, or a name in the access file")
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

        A node that is allowed without --model may use all. --model may be repeated; it is added to the
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
            %dpc_firewall off

        off stops what runs for peers; pause lets it end, and takes nothing new until resume, or until the kernel ends.
        """
        wanted = parse(self, "dpc_firewall", line)
        for option, typed in vars(wanted).items():
            setattr(wanted, option, self._filled(typed))
        access = self._notebook.access
        if wanted.action in ("allow", "deny", "explain") and not wanted.who:
            raise UsageError(f"Who? %dpc_firewall {wanted.action} with a node id or a name; pending lists who asked.")
        if wanted.action in ("on", "off"):
            access.set_sharing(wanted.action == "on")
            print(f"Sharing is {wanted.action}.")
        elif wanted.action in ("pause", "resume"):
            self._pause(wanted.action == "pause")
        elif wanted.action == "allow":
            models = (*(wanted.model or ()), *([wanted.what] if wanted.what else ()))
            node_id = access.allow(
                wanted.who,
                name=wanted.name,
                models=models,
                group=wanted.group,
                expires=wanted.expires,
                limits=wanted.limit or (),
            )
            print(allowed(self._notebook.home.access_document(), access.rules, node_id, models))
            print(access.explain(node_id).reason)
        elif wanted.action == "deny":
            node_id = access.deny(wanted.who, wanted.what)
            print(access.explain(node_id, wanted.what).reason)
        elif wanted.action == "explain":
            print(access.explain(wanted.who, wanted.what).reason)
        elif wanted.action == "pending":
            self._show_pending()
        else:
            self._show()

    def _pause(self, paused: bool) -> None:
        if (node := self._notebook.running) is None:
            raise UsageError("No node runs: there is nothing to pause.")
        node.run(node.service.pause(paused))
        self._notebook.changed()
        print("Sharing is paused: what runs goes on, new requests are refused." if paused else "Sharing goes on.")

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
        print(f"Sharing is {'on' if rules.enabled else 'off: nobody is let in. %dpc_firewall on turns it on'}.")
        if rows := let_in(self._notebook.home.access_document(), rules):
            show_table(LET_IN_HEAD, rows)
        else:
            print("Nobody is listed yet: %dpc_firewall allow NODE_ID --name NAME")

    def _show_pending(self) -> None:
        asked = self._notebook.access.pending()
        for node_id, entry in asked.items():
            print(f"{asked_for(node_id, entry, time.time())} {allow_command('%dpc_firewall', node_id, entry)}")
        if not asked:
            print("Nobody has asked and been refused.")
