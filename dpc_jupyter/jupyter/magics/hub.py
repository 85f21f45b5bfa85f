"""``%dpc_hub``: where this home's nodes find others, and are found."""

from __future__ import annotations

from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments

from dpc_jupyter.hub.wire import FOUND_LIMIT
from dpc_jupyter.jupyter.drawing.one_line import UsageError, one_line
from dpc_jupyter.jupyter.drawing.tables import show_table
from dpc_jupyter.jupyter.magics.arguments import parse
from dpc_jupyter.jupyter.notebook import Notebook, status_at_hub
from dpc_jupyter.sanitize import label

_HEAD = ("Name", "Node", "Models", "Groups")


@magics_class
class HubMagics(Magics):
    """Shows and edits ``network.json``, and asks the hub."""

    def __init__(self, shell: InteractiveShell, notebook: Notebook) -> None:
        super().__init__(shell)
        self._notebook = notebook

    @line_magic
    @no_var_expand
    @one_line
    @magic_arguments()
    @argument("hub", nargs="?", default="show", help="a hub's address, off, search, or show")
    @argument("words", nargs="*", metavar="name", help="for search: as --name")
    @argument("--fingerprint", default="", metavar="SHA256", help="of a self-signed hub's certificate, as it prints it")
    @argument("--ca-file", metavar="FILE", help="PEM certificates to trust instead of this machine's")
    @argument("--model", default="", help="for search: a part of its name")
    @argument("--name", default="", help="for search: a part of the node's name")
    @argument("--group", default="", help="for search: the whole name of a group")
    def dpc_hub(self, line: str) -> None:
        """Show or set the hub of this home, over which nodes without an open port find and call each other.

        Examples::

            %dpc_hub
            %dpc_hub https://hub.example.org:8890
            %dpc_hub https://192.0.2.7:8890 --fingerprint 6f0c...
            %dpc_hub off
            %dpc_hub search anna
            %dpc_hub search --model llama

        A hub sees who is online and who calls whom; prompts and answers never go there.
        """
        wanted = parse(self, "dpc_hub", line)
        words = " ".join(wanted.words)
        if wanted.hub == "search":
            if words and wanted.name:
                raise UsageError(f"Which name? {label(words)!r} and {label(wanted.name)!r} were given.")
            self._search(wanted.model, wanted.name or words, wanted.group)
        elif words:
            raise UsageError(f"{label(words)!r} is one word too many.")
        elif wanted.hub == "show":
            self._show()
        elif wanted.hub == "off":
            self._set("")
        elif ":" in wanted.hub:
            self._set(wanted.hub, wanted.fingerprint, wanted.ca_file)
        else:
            raise UsageError(f"{label(wanted.hub)!r} is none of off, search, show and an address like https://...")

    def _set(self, url: str, fingerprint: str = "", ca_file: str | None = None) -> None:
        from dpc_jupyter.hub.client.trust import Trust
        from dpc_jupyter.node.reaching import HUB_VARIABLE, Network, set_hub

        home = self._notebook.home
        set_hub(home, url, Trust((ca_file and Path(ca_file).expanduser().absolute()) or None, fingerprint))
        print(f"{home.network_path} names {'the hub' if url else 'no hub now'}{url and ' ' + label(url, 200)}.")
        named = Network.read(home)
        if named.from_variable:
            print(f"But {HUB_VARIABLE} names {label(named.hub, 200)}, and wins.")
        if (node := self._notebook.running) is None:
            print("It holds from the next %dpc_start on.")
        else:
            node.run(node.service.change_network())
            print(f"This node is {status_at_hub(node).hub or 'at no hub now.'}")

    def _show(self) -> None:
        from dpc_jupyter.node.reaching import Network

        named = Network.read(self._notebook.home).hub
        running = "" if (node := self._notebook.running) is None else node.status().hub
        if running:
            print(f"This node is {running}")
        elif named:
            print(f"The next %dpc_start goes online at {label(named, 200)}.")
        else:
            print("No hub is set: %dpc_hub https://... with the address that your lab gives you.")

    def _search(self, model: str, name: str, group: str) -> None:
        node = self._notebook.node()
        found = node.run(node.service.search(model=model, name=name, group=group))
        if not found:
            print("The hub shows nobody such to you. Hosts are found by those whom they let in.")
            return
        show_table(_HEAD, [(each.name, each.node_id, ", ".join(each.models), ", ".join(each.groups)) for each in found])
        if len(found) >= FOUND_LIMIT:
            print(f"A hub shows {FOUND_LIMIT} at most: narrow it with --model, --name or --group.")
        print("That is the hub's word. Connecting proves who it is: %dpc_connect NODE --name NAME")
