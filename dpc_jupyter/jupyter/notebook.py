"""What lasts as long as the notebook's kernel: its node, its chosen host, its conversations."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dpc_jupyter.errors import ConnectError, DpcError
from dpc_jupyter.hub.wire import CALLING
from dpc_jupyter.identity import is_node_id
from dpc_jupyter.node.reaching import Directory
from dpc_jupyter.protocol.invitation import PREFIX
from dpc_jupyter.protocol.messages import ChatMessage
from dpc_jupyter.sanitize import label

if TYPE_CHECKING:
    from dpc_jupyter.home import Home
    from dpc_jupyter.node.asking import Answer
    from dpc_jupyter.node.joining import Invitations
    from dpc_jupyter.node.serving import Access
    from dpc_jupyter.node.status import NodeStatus, PeerStatus
    from dpc_jupyter.node.thread import BackgroundNode

LOCAL = "local"
# An engine that hangs must not hold up an edit of the access file.
_LOOK_S = 1.0
# What is told of a question that `turn_of` leaves out.
# A hub that is there has answered by then; what is said before would be wrong as soon as it is read.
_FIRST_WORD_S = 1.0
UNANSWERED = "No answer came: this question is no part of the conversation."


def status_at_hub(node: BackgroundNode) -> NodeStatus:
    """As `BackgroundNode.status`, after the first word of a hub that was only just called."""
    status, until = node.status(), time.monotonic() + _FIRST_WORD_S
    while status.hub.endswith(CALLING) and time.monotonic() < until:
        time.sleep(0.05)
        status = node.status()
    return status


def linked(node: BackgroundNode, host: str) -> str:
    """A host to ask: its node id, linked to if need be, or ``local``; raises as `link`."""
    return host if host == LOCAL else link(node, host).node_id


def link(node: BackgroundNode, host: str) -> PeerStatus:
    """The link to a host, made if there is none.

    Parameters
    ----------
    host : str
        A peer's name or node id, or a ``dpc://`` address.

    Raises
    ------
    PeerNotConnected, ConnectError, HandshakeError
        Nobody is called so, or it cannot be linked to; the sentence names it.
    """
    try:
        return node.run(node.service.link_to(host))
    except ConnectError as error:
        if ":" in host:  # the sentence has the address
            raise
        name = node.service.directory.name_of(host) if is_node_id(host) else label(host)
        raise type(error)(f"{name} cannot be reached: {error}") from error


def asks(notebook: Notebook) -> str:
    """Whom a notebook asks, as a sentence."""
    model = f" for {label(notebook.model)}" if notebook.model else ""
    return f"This notebook asks {label(notebook.host_name)}{model}."


def is_invitation(pasted: str) -> bool:
    """Whether somebody gave an invitation where an address or a name is meant: then she joins by it."""
    return PREFIX in pasted


def turn_of(question: ChatMessage, answer: Answer) -> tuple[ChatMessage, ...]:
    """What a conversation keeps of a question and its answer: what its reader sees is what the model sees next.

    An answer that was stopped, or that ended in an error, stands on the screen with the text that came, and counts with
    that text. Where none came there is no turn, and the face says so.
    """
    return (question, ChatMessage("assistant", answer.text)) if answer.text.strip() else ()


@dataclass
class Conversation:
    """What was said, as `turn_of` keeps it, and the system prompt that holds for it."""

    system: str | None = None
    turns: tuple[ChatMessage, ...] = ()


@dataclass
class Notebook:
    """State that the magics share.

    Attributes
    ----------
    variables : dict
        The notebook's own.
    host, host_name : str
        Whom ``%dpc_ask`` asks when no ``--host`` is given: ``local`` or a node id, and what it is called here.
    model : str or None
        Which of the host's models; None for its first.
    restored : bool
        The choice is the one of the notebook's file, and nobody has made another since.
    changed : callable
        Called when something here has changed that a face shows.
    drawn : (Answer, int), optional
        What ``%dpc_ask`` showed last, and the number of its cell.
    """

    variables: dict[str, Any]
    host: str = LOCAL
    host_name: str = "this machine"
    model: str | None = None
    restored: bool = False
    changed: Callable[[], None] = lambda: None
    conversations: dict[str, Conversation] = field(default_factory=dict)
    drawn: tuple[Answer, int] | None = None
    _node: BackgroundNode | None = None
    _starting: threading.Lock = field(default_factory=threading.Lock)

    def shows(self, answer: Answer, cell: int) -> bool:
        """Whether this cell has drawn this answer already."""
        return self.drawn is not None and self.drawn[0] is answer and self.drawn[1] == cell

    @property
    def running(self) -> BackgroundNode | None:
        """The node, if one runs."""
        return self._node if self._node is not None and self._node.running else None

    def node(self, name: str | None = None) -> BackgroundNode:
        """The node, started if need be; one that only asks does not listen."""
        with self._starting:
            if (running := self.running) is not None:
                return running
            from dpc_jupyter.node.thread import BackgroundNode

            node = BackgroundNode(name=name)
            node.start()
            self._node = node
        self.changed()
        return node

    def choose(self, host: str, model: str | None = None) -> None:
        """Ask this host from now on; a peer that was linked before is linked again.

        Raises
        ------
        PeerNotConnected, ConnectError, HandshakeError
            As `notebook.link`; the choice stays as it was.
        """
        if host == LOCAL:
            self.host, self.host_name = LOCAL, "this machine"
        else:
            peer = self.link(host)
            self.host, self.host_name = peer.node_id, peer.name
        self.model, self.restored = model, False
        self.changed()

    def restore(self, host: str, model: str | None) -> bool:
        """Ask the host of a saved notebook, if this machine has met it; nobody is called, and no node is started.

        A notebook from a stranger must not make its reader's machine call anybody.
        """
        if host != LOCAL:
            try:
                access = self.access
                directory = Directory(self.home, lambda: access.rules)
            except DpcError:  # whoever asks hears of it
                return False
            if host not in directory.known and access.rules.name_of(host) == host:
                return False
            self.host_name = directory.name_of(host)
        self.host, self.model, self.restored = host, model, True
        return True

    def link(self, host: str) -> PeerStatus:
        """As `notebook.link`, by this notebook's node."""
        return link(self.node(), host)

    def share(self) -> str:
        """Turn sharing on, and listen; returns the URI to give away."""
        from dpc_jupyter.transports.tls import DEFAULT_PORT

        self.node().service.access.set_sharing(True)
        return self.listen("", DEFAULT_PORT)

    def listen(self, address: str, port: int) -> str:
        """Let peers in at an address; returns the URI to give away."""
        node = self.node()
        uri = str(node.run(node.service.listen(address, port)))
        self.changed()
        return uri

    def models_here(self) -> list[str]:
        """Of the engines that answer at once; without a running node none: a permission starts nothing."""
        if (node := self.running) is None:
            return []

        async def look() -> list[str]:
            async with asyncio.timeout(_LOOK_S):
                return [model.model for model in await node.service.models()]

        with contextlib.suppress(DpcError, TimeoutError):
            return node.run(look())
        return []

    def stop(self) -> bool:
        """Stop the node; whether one ran."""
        node, self._node = self.running, None
        if node is not None:
            node.stop()
            self.changed()
        return node is not None

    @property
    def home(self) -> Home:
        """The folder of this user's node."""
        from dpc_jupyter.home import Home

        return Home.default() if (running := self.running) is None else running.service.home

    @property
    def access(self) -> Access:
        """The access file: the running node's view of it, so that an edit is in force when the magic returns."""
        from dpc_jupyter.node.serving import Access

        return Access(self.home) if (running := self.running) is None else running.service.access

    @property
    def invitations(self) -> Invitations:
        """The owner's invitations; a running node's own, as `access`."""
        from dpc_jupyter.node.joining import Invitations

        running = self.running
        return Invitations(self.home, self.access) if running is None else running.service.invitations
