"""What ``%load_ext dpc_jupyter`` and ``%unload_ext dpc_jupyter`` do."""

from __future__ import annotations

import re

from IPython.core.interactiveshell import InteractiveShell

from dpc_jupyter.jupyter.access_magic import AccessMagics
from dpc_jupyter.jupyter.ask_magic import AskMagics
from dpc_jupyter.jupyter.completion import Completer
from dpc_jupyter.jupyter.node_magics import NodeMagics
from dpc_jupyter.jupyter.notebook import Notebook

_QUESTION = re.compile(r"^([ \t]*)%dpc_ask[ \t]+(\S.*\?)[ \t]*$", re.MULTILINE)
_NOTEBOOK = "_dpc_notebook"


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics. No node is started, and nothing is listened to."""
    notebook = Notebook(shell.user_ns)
    setattr(shell, _NOTEBOOK, notebook)
    magics = [kind(shell, notebook) for kind in (NodeMagics, AskMagics, AccessMagics)]
    shell.register_magics(*magics)
    Completer(notebook).install(shell, magics)
    shell.input_transformers_cleanup.append(keep_question_marks)


def keep_question_marks(lines: list[str]) -> list[str]:
    """Let ``%dpc_ask What is it?`` ask: IPython reads a line's last question mark as a call for help."""
    return [
        _QUESTION.sub(lambda found: f"{found[1]}get_ipython().run_line_magic('dpc_ask', {found[2]!r})", line)
        for line in lines
    ]


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Stop the node, if one runs."""
    notebook: Notebook | None = getattr(shell, _NOTEBOOK, None)
    if notebook is not None:
        notebook.stop()
        delattr(shell, _NOTEBOOK)
        shell.input_transformers_cleanup.remove(keep_question_marks)
