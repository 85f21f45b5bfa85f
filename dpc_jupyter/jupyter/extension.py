"""What ``%load_ext dpc_jupyter`` and ``%unload_ext dpc_jupyter`` do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from IPython.core.getipython import get_ipython
from IPython.core.interactiveshell import InteractiveShell

from dpc_jupyter.errors import DpcError
from dpc_jupyter.jupyter.faces import Faces
from dpc_jupyter.jupyter.magics.access import AccessMagics
from dpc_jupyter.jupyter.magics.ask import AskMagics
from dpc_jupyter.jupyter.magics.completion import Completer
from dpc_jupyter.jupyter.magics.hub import HubMagics
from dpc_jupyter.jupyter.magics.node import NodeMagics
from dpc_jupyter.jupyter.notebook import Notebook, asks
from dpc_jupyter.jupyter.saved_host import saved_host
from dpc_jupyter.node.asking import Answer

if TYPE_CHECKING:
    from dpc_jupyter.node.thread import BackgroundNode

_QUESTION = re.compile(r"^([ \t]*(?:[^\W\d]\w*[ \t]*=[ \t]*)?)%dpc_ask[ \t]+(\S.*\?)[ \t]*$", re.MULTILINE)
_LOADED = "_dpc_loaded"


@dataclass(frozen=True)
class _Loaded:
    notebook: Notebook
    matcher: Any
    faces: Faces


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics. No node is started, and nothing is listened to."""
    notebook = Notebook(shell.user_ns)
    magics = [kind(shell, notebook) for kind in (NodeMagics, AskMagics, AccessMagics, HubMagics)]
    shell.register_magics(*magics)
    loaded = _Loaded(notebook, Completer(notebook, magics).matcher(), Faces(notebook))
    loaded.faces.register(shell)
    shell.Completer.custom_matchers.append(loaded.matcher)
    shell.input_transformers_cleanup.append(keep_question_marks)

    def show(answer: Answer) -> None:
        if not notebook.shows(answer, shell.execution_count):
            raise NotImplementedError  # to IPython: as if there were no formatter of ours

    # A cell's last value is shown below it; an answer is there already.
    if shell.display_formatter is not None:
        shell.display_formatter.ipython_display_formatter.for_type(Answer, show)
    setattr(shell, _LOADED, loaded)
    if (saved := saved_host()) is not None and notebook.restore(saved.host, saved.model):
        print(asks(notebook))


def keep_question_marks(lines: list[str]) -> list[str]:
    """Let ``%dpc_ask What is it?`` ask: IPython reads a line's last question mark as a call for help."""
    return [_QUESTION.sub(_as_call, line) for line in lines]


def _as_call(found: re.Match[str]) -> str:
    return f"{found[1]}get_ipython().run_line_magic('dpc_ask', {found[2]!r})"


def current_node() -> BackgroundNode:
    """The node that this notebook's magics use, for Python code beside them; started if none runs.

    Raises
    ------
    DpcError
        The extension is not loaded here.
    """
    return _loaded().notebook.node()


def current_faces() -> Faces:
    """What the widgets of this notebook see and do; raises as `current_node`."""
    return _loaded().faces


def _loaded() -> _Loaded:
    loaded: _Loaded | None = getattr(get_ipython(), _LOADED, None)
    if loaded is None:
        raise DpcError("This notebook has no node: run %load_ext dpc_jupyter first.")
    return loaded


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Stop the node, if one runs."""
    loaded: _Loaded = getattr(shell, _LOADED)
    delattr(shell, _LOADED)
    loaded.faces.close(shell)
    loaded.notebook.stop()
    if shell.display_formatter is not None:
        shell.display_formatter.ipython_display_formatter.pop(Answer, None)
    shell.Completer.custom_matchers.remove(loaded.matcher)
    shell.input_transformers_cleanup.remove(keep_question_marks)
