"""The node of this notebook: start and stop it, link it to peers, and see what it does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments

from dpc_jupyter.identity import short
from dpc_jupyter.jupyter.drawing.one_line import UsageError, one_line
from dpc_jupyter.jupyter.drawing.tables import show_table
from dpc_jupyter.jupyter.magics.arguments import fill_in, parse
from dpc_jupyter.jupyter.notebook import LOCAL, Notebook, asks, is_invitation, linked, status_at_hub
from dpc_jupyter.node.status import PeerStatus
from dpc_jupyter.sanitize import is_word, label
from dpc_jupyter.wording import (
    MODEL_HEAD,
    PAUSED,
    USAGE_HEAD,
    joined_host,
    let_in_line,
    model_row,
    offered,
    reached,
    tried,
    usage_rows,
)

if TYPE_CHECKING:
    from dpc_jupyter.node.thread import BackgroundNode


@magics_class
class NodeMagics(Magics):
    """Everything about the node but asking and the access file."""

    def __init__(self, shell: InteractiveShell, notebook: Notebook) -> None:
        super().__init__(shell)
        self._shell = shell
        self._notebook = notebook

    @line_magic
    @no_var_expand
    @one_line
    @magic_arguments()
    @argument("--share", action="store_true", help="let the people in your access file use this machine's models")
    @argument("--port", type=int, help="first port to try; default: 8889")
    @argument("--listen", metavar="ADDRESS", help="listen on this address alone; default: all")
    @argument("--name", help="what the node calls itself; default: the machine's name")
    def dpc_start(self, line: str) -> None:
        """Start this notebook's node; again does no harm. One that only asks does not listen.

        Examples::

            %dpc_start
            %dpc_start --share
            %dpc_start --share --listen 127.0.0.1 --port 8890
        """
        wanted = parse(self, "dpc_start", line)
        node = self._notebook.node(wanted.name)
        if wanted.share:
            node.service.access.set_sharing(True)
        if wanted.share or wanted.listen is not None or wanted.port is not None:
            from dpc_jupyter.transports.tls import DEFAULT_PORT

            port = DEFAULT_PORT if wanted.port is None else wanted.port
            listened = node.status().uri is not None
            uri = self._notebook.listen(wanted.listen or "", port)
            if port and not listened and f":{port}?" not in uri:
                print(f"Port {port} was taken.")
        self._say_who_we_are()

    @line_magic
    @no_var_expand
    @one_line
    def dpc_stop(self, line: str) -> None:
        """Stop the node: links end, and what is open fails by name."""
        print("The node is stopped." if self._notebook.stop() else "No node runs.")

    @line_magic
    @no_var_expand
    @one_line
    @magic_arguments()
    @argument(
        "where",
        nargs="?",
        default="",
        help="a dpc:// address, an invitation, or the name of a peer met before",
    )
    @argument("--name", help="what to call the peer here")
    def dpc_connect(self, line: str) -> None:
        """Link to a peer, and see which of its models you may use.

        Examples::

            %dpc_connect dpc://10.0.0.7:8889?node_id=dpc-node-... --name anna
            %dpc_connect anna
            %dpc_connect {address}
        """
        wanted = parse(self, "dpc_connect", line)
        if not wanted.where:
            raise UsageError("Whom? %dpc_connect dpc://... with the address that the host's owner gives you.")
        where = fill_in(wanted.where, self._notebook.variables, self._shell)
        if not where:
            raise UsageError(f"{wanted.where} is empty: put the address into it that the host's owner gives you.")
        if is_invitation(where):
            self._offer(self._join(where, wanted.name))
            return
        node = self._notebook.node()
        peer = node.run(node.service.connect(where, name=wanted.name))
        models = node.run(node.service.models(peer.node_id))
        name = next((known.name for known in node.status().peers if known.node_id == peer.node_id), peer.name)
        print(f"Connected to {name} ({short(peer.node_id)}) {reached(peer)}.")
        if before := tried(node.service.attempts(peer.node_id)):
            print(before)
        print(offered(name, models, node.status().node_id))
        if models and self._notebook.host == LOCAL:
            host = name if is_word(name) else peer.node_id
            print(f"Ask it with %dpc_ask -H {host} ..., or make it this notebook's host: %dpc_host {host}")

    @line_cell_magic
    @no_var_expand
    @one_line
    @magic_arguments()
    @argument("invitation", nargs="*", help="the line that the host's owner sent: dpc-invite:...")
    @argument("--name", help="what to call the host here; default: its own name")
    def dpc_join(self, line: str, cell: str = "") -> None:
        """Go to a host by the line that its owner sent, and be let in.

        One that a mail or chat has broken goes into the lines below %%dpc_join.

        Examples::

            %dpc_join dpc-invite:...
            %dpc_join dpc-invite:... --name lab-gpu
            %dpc_join {line}
        """
        wanted = parse(self, "dpc_join", line)
        pasted = fill_in("".join(wanted.invitation), self._notebook.variables, self._shell) + cell
        if not pasted.strip():
            raise UsageError("By which invitation? %dpc_join dpc-invite:... with the line that the host's owner sent.")
        self._offer(self._join(pasted, wanted.name))

    @line_magic
    @no_var_expand
    @one_line
    @magic_arguments()
    @argument("peer", nargs="?", default="")
    def dpc_disconnect(self, line: str) -> None:
        """End the link to a peer; what it has open fails by name."""
        wanted = parse(self, "dpc_disconnect", line)
        if not wanted.peer:
            raise UsageError("Which one? %dpc_disconnect NAME; %dpc_peers lists them.")
        if (node := self._notebook.running) is None:
            raise UsageError("No node runs: there is nothing to disconnect.")
        node.run(node.service.disconnect(wanted.peer))
        print(f"Disconnected from {label(wanted.peer)}.")

    @line_magic
    @no_var_expand
    @one_line
    def dpc_peers(self, line: str) -> None:
        """Show who is linked to this node."""
        if (node := self._notebook.running) is None or not (peers := node.status().peers):
            print("Nobody is linked: %dpc_connect dpc://... with the address that a host's owner gives you.")
            return
        _show_peers(node, peers)

    @line_magic
    @no_var_expand
    @one_line
    @magic_arguments()
    @argument("host", nargs="?", help="a peer, or local; default: what %%dpc_host says")
    def dpc_models(self, line: str) -> None:
        """Show the models that a compute host lets you use now."""
        wanted = parse(self, "dpc_models", line)
        node = self._notebook.node()
        host = linked(node, wanted.host or self._notebook.host)
        if models := node.run(node.service.models(host)):
            show_table(MODEL_HEAD, [model_row(model) for model in models])
        elif host == LOCAL:
            print("This machine has no model: run `dpc-jupyter models pull`, or `dpc-jupyter doctor` to see why.")
        else:
            print(offered(label(host), models, node.status().node_id))

    @line_magic
    @no_var_expand
    @one_line
    @magic_arguments()
    @argument("host", nargs="?", help="a peer's name, node id or dpc:// address, or local")
    @argument("model", nargs="?", help="one of its models; default: the first one that it lets you use")
    def dpc_host(self, line: str) -> None:
        """Show or choose whom this notebook asks, and for which model, as long as its kernel lives.

        Examples::

            %dpc_host
            %dpc_host anna
            %dpc_host anna llama3-70b
            %dpc_host local
        """
        wanted = parse(self, "dpc_host", line)
        if wanted.host:
            host = self._join(wanted.host, None).node_id if is_invitation(wanted.host) else wanted.host
            self._notebook.choose(host, wanted.model)
        print(asks(self._notebook))

    @line_magic
    @no_var_expand
    @one_line
    def dpc_status(self, line: str) -> None:
        """Show this node: its id, its address, who is linked, and what runs."""
        if (node := self._notebook.running) is None:
            print("No node runs: %dpc_start, or just ask.")
            print(f"Your node id is {self._notebook.home.load_identity().node_id}.")
            return
        self._say_who_we_are()
        status = node.status()
        for kind, requests in (("Serving", status.serving), ("Asking", status.asking)):
            for each in requests:
                place = "" if each.position is None else f", place {each.position}"
                print(f"{kind} {each.peer_name} · {label(each.model)} · {each.state}{place} · {each.waited_s:.0f} s")
        if status.peers:
            _show_peers(node, status.peers)
        if status.ledger_error:
            print(status.ledger_error)

    @line_magic
    @no_var_expand
    @one_line
    @magic_arguments()
    @argument("--days", type=float, metavar="N", help="only the last N days; default: everything")
    def dpc_usage(self, line: str) -> None:
        """Show who used what: peers here, and you here and elsewhere."""
        wanted = parse(self, "dpc_usage", line)
        node = self._notebook.node()
        sums = node.service.ledger.usage(None if wanted.days is None else time.time() - wanted.days * 86_400)
        if not sums:
            print("Nothing yet.")
            return
        show_table(USAGE_HEAD, usage_rows(sums, node.service.directory.name_of))

    def _join(self, invitation: str, name: str | None) -> PeerStatus:
        """Join, and say so."""
        node = self._notebook.node()
        joined = node.run(node.service.join(invitation, name=name))
        print(*joined_host(joined), sep="\n")
        return joined.host

    def _offer(self, joined: PeerStatus) -> None:
        if joined.models and self._notebook.host == LOCAL:
            word = joined.name if is_word(joined.name) else joined.node_id
            print(f"Or make it this notebook's host: %dpc_host {word}")

    def _say_who_we_are(self) -> None:
        node = self._notebook.node()
        status = status_at_hub(node)
        print(f"{status.name} is {status.node_id}.")
        if status.access_error:
            print(f"Nobody is let in: {status.access_error}")
        elif not status.sharing:
            print("Sharing is off: nobody can ask this node. %dpc_start --share turns it on.")
        else:
            if status.paused:
                print(PAUSED)
            rules = node.service.access.rules
            who = let_in_line(rules, datetime.now(UTC))
            print(f"Let in: {who}." if who else "Nobody is let in yet: %dpc_invite NAME")
        if status.hub:
            print(f"Hub: {status.hub}{'' if status.takes_calls else ' (it can call others, and is not called)'}")
        if status.uri is not None:
            print(f"Address to give away: {status.uri}")


def _show_peers(node: BackgroundNode, peers: Sequence[PeerStatus]) -> None:
    show_table(
        ("Peer", "Node", "Link", "Round trip", "Models for us"),
        [
            (
                peer.name,
                peer.node_id,
                f"{'to it' if peer.dialled else 'from it'} {reached(peer)}",
                "" if peer.rtt_s is None else f"{peer.rtt_s * 1000:.0f} ms",
                ", ".join(dict.fromkeys(model.model for model in peer.models)) or "none",
            )
            for peer in peers
        ],
    )
    for peer in peers:
        if peer.dialled and (before := tried(node.service.attempts(peer.node_id))):
            print(f"{peer.name} is linked {reached(peer)}. {before}")
