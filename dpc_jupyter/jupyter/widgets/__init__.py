"""The four widgets: host picker, firewall editor, node panel and chat, as anywidgets for every notebook front end.

Each is a view without a state of its own: what it draws comes from `faces`, what it does goes there.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from dpc_jupyter.jupyter.chat import Chat as Conversation
from dpc_jupyter.jupyter.extension import current_faces
from dpc_jupyter.node.asking import Answer

_HERE = Path(__file__).parent
_IMPORT = re.compile(r"^import .*;\n", re.MULTILINE)
_SHARED = ("dom", "format", "client")
_FIREWALL_PARTS = (
    *("access_draft", "access_words", "access_row", "access_table", "access_additions", "access_requests"),
    *("access_invitations", "access_review", "fields", "dry_run"),
)


@functools.cache
def _module(function: str, *names: str) -> str:
    """One ES module of several files: a front end loads it as text, so it can import none beside it."""
    parts = [(_HERE / f"{name}.js").read_text("utf-8") for name in (*_SHARED, *names)]
    return _IMPORT.sub("", "\n".join(parts)) + f"\nexport default {{ render: mounted({function}) }};\n"


@functools.cache
def _style(*names: str) -> str:
    return "\n".join((_HERE / f"{name}.css").read_text("utf-8") for name in ("style", *names))


class _View(anywidget.AnyWidget):
    """A widget that is one of the faces of this kernel.

    Raises
    ------
    DpcError
        ``%load_ext dpc_jupyter`` has not been run.
    """

    # Its name as a face, and as a chat.
    client = traitlets.Unicode().tag(sync=True)

    def __init__(self) -> None:
        faces = current_faces()
        super().__init__()
        self.client = self.model_id
        self._listeners = faces.listeners
        self._listeners.attach(self.model_id, self.send)
        # For a front end that opens no comm of its own; JupyterLab's calls come by `dpc.rpc`, while a cell runs too.
        self.on_msg(lambda _widget, message, _buffers: self._listeners.take(message))

    def __repr__(self) -> str:
        # What a saved notebook shows of it where nothing draws widgets.
        return f"{type(self).__name__}: run this cell in JupyterLab, Notebook 7 or VS Code to see it."

    def close(self) -> None:
        """End it in every view."""
        if self.comm is not None:  # else it is closed, or was never made whole
            self._listeners.detach(self.client)
            super().close()


class HostPicker(_View):
    """Choose the compute host that this notebook asks: this machine, or a peer, and one of its models."""

    _esm = _module("hostPicker", "hub_search", "host_picker")
    _css = _style()


class NodePanel(_View):
    """This node: its address, sharing, hosts, and what runs now."""

    _esm = _module("nodePanel", "node_panel")
    _css = _style()


class FirewallEditor(_View):
    """Who may use this machine's models, and how much."""

    _esm = _module("firewallEditor", *_FIREWALL_PARTS, "firewall_editor")
    _css = _style("firewall_editor")


class Chat(_View):
    """A chat with a model on any host."""

    _esm = _module("chat", "chat")
    _css = _style("chat")

    def __init__(self) -> None:
        super().__init__()
        self._chats = current_faces().chats
        self._conversation: Conversation = self._chats[self.client]

    def close(self) -> None:
        """End it in every view, and stop its answer; what was said stays with this object."""
        if self.comm is not None:
            super().close()
            self._chats.close(self.client)

    def ask(
        self, prompt: str, host: str | None = None, model: str | None = None, options: Mapping[str, Any] | None = None
    ) -> Answer:
        """Say something in it from Python; the answer streams into the chat, and is returned.

        Parameters
        ----------
        host : str, optional
            A peer's name or node id, or ``local``; default: whom the notebook asks.
        options : dict, optional
            ``max_tokens``, ``temperature``, ``seed`` and the like.

        Returns
        -------
        Answer
            Whole, or what came; then `error` says why.

        Raises
        ------
        DpcError
            Nothing could be asked.
        """
        return self._conversation.ask_and_wait(prompt, host, model, options)

    @property
    def transcript(self) -> list[dict[str, str]]:
        """The turns so far, as ``{"role": ..., "content": ...}``."""
        return self._conversation.transcript

    @property
    def answers(self) -> list[Answer]:
        """The answers, each with where it came from."""
        return list(self._conversation.answers)
