"""What widgets and the Lab extension see and do: one state for all of them, one table of calls, two comms."""

from __future__ import annotations

import threading
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from IPython.core.interactiveshell import InteractiveShell

from dpc_jupyter.jupyter.notebook import Notebook

if TYPE_CHECKING:
    from dpc_jupyter.jupyter.chat import Chats
    from dpc_jupyter.jupyter.faces.listeners import Listeners

RPC, EVENTS = "dpc.rpc", "dpc.events"


class Faces:
    """The faces of one kernel; nothing of them is imported before the first one opens."""

    def __init__(self, notebook: Notebook) -> None:
        self._notebook = notebook
        self._lock = threading.Lock()
        self._made: tuple[Listeners, Chats] | None = None

    @property
    def _parts(self) -> tuple[Listeners, Chats]:
        with self._lock:  # the first comms come at the same time, in subshells of their own
            if self._made is None:
                self._made = self._make()
            return self._made

    def _make(self) -> tuple[Listeners, Chats]:
        from dpc_jupyter.jupyter.chat import Chats
        from dpc_jupyter.jupyter.faces.calls import Calls
        from dpc_jupyter.jupyter.faces.listeners import Listeners
        from dpc_jupyter.jupyter.faces.watch import Watcher

        chats = Chats(self._notebook)
        listeners = Listeners(Calls(self._notebook, chats), Watcher(self._notebook, version("dpc-jupyter")))
        chats.tell = listeners.tell
        self._notebook.changed = listeners.look
        return listeners, chats

    @property
    def listeners(self) -> Listeners:
        """Who listens."""
        return self._parts[0]

    @property
    def chats(self) -> Chats:
        """The chats of this kernel."""
        return self._parts[1]

    def register(self, shell: InteractiveShell) -> None:
        """Let the Lab extension open its comms; in a plain IPython there are none."""
        if (manager := _comm_manager(shell)) is not None:
            manager.register_target(RPC, lambda comm, message: self.listeners.open_rpc(comm, message))
            manager.register_target(EVENTS, lambda comm, message: self.listeners.open_events(comm, message))

    def close(self, shell: InteractiveShell) -> None:
        """Let go of every face."""
        if (manager := _comm_manager(shell)) is not None:
            manager.targets.pop(RPC, None)
            manager.targets.pop(EVENTS, None)
        if self._made is not None:
            self.listeners.close()


def _comm_manager(shell: InteractiveShell) -> Any:
    return getattr(getattr(shell, "kernel", None), "comm_manager", None)
