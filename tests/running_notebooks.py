"""A notebook of ours run to its end, in a kernel of its own; as a program: all of them, written down as they ran."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from running_host import RunningHost, let_in, serving, write_providers

from dpc_jupyter.home import Home

FOLDER = Path(__file__).parents[1] / "notebooks"
CELL_LIMIT_S = 150
_WIDGET = "application/vnd.jupyter.widget-view+json"


def environment(home: Home, folder: Path, **addresses: str) -> dict[str, str]:
    """What keeps a kernel from touching anything of the user's own."""
    places = {
        "DPC_HOME": str(home.path),
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "MPLCONFIGDIR": str(folder / "matplotlib"),
        "OLLAMA_HOST": "127.0.0.1:1",
    }
    return {**os.environ, **places, **addresses}


def run(name: str, folder: Path, variables: dict[str, str]) -> Any:
    """Run every cell; a cell that fails raises."""
    notebook = nbformat.read(FOLDER / name, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_LIMIT_S,
        kernel_name="python3",
        extra_arguments=["--IPKernelApp.log_level=40"],
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=variables)
    return notebook


@contextlib.contextmanager
def two_hosts(folder: Path, asker: Home) -> Iterator[tuple[RunningHost, RunningHost]]:
    """Two machines that let the asker in, each a process of its own."""
    with contextlib.ExitStack() as stack:
        hosts = []
        for name in ("anna", "carol"):
            home = Home(folder / name)
            write_providers(home)
            let_in(home, asker.load_identity().node_id)
            hosts.append(stack.enter_context(serving(home)))
        yield hosts[0], hosts[1]


def write_down(notebook: Any, name: str) -> None:
    """Keep it with its outputs, without what only this run or this machine had."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(_WIDGET, None)  # nobody can draw it once the kernel is gone
    text = nbformat.writes(notebook)
    for private in (str(Path.home()), tempfile.gettempdir(), sys.prefix, str(Path(__file__).parents[1])):
        assert not re.search(rf"{re.escape(private)}(?![\w-]*\.py)", text), f"{name} names {private}"
    (FOLDER / name).write_text(text + "\n")


def main() -> None:
    """Run those named, else all but the quickstart, which ``make demo`` runs."""
    names = sys.argv[1:] or [path.name for path in sorted(FOLDER.glob("0[2-9]*.ipynb"))]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        asker = Home(folder / "asker")
        write_providers(asker)
        with two_hosts(folder, asker) as (anna, carol):
            variables = environment(asker, folder, DPC_DEMO_HOST=anna.uri, DPC_DEMO_HOST_2=carol.uri)
            for name in names:
                write_down(run(name, folder, variables), name)


if __name__ == "__main__":
    main()
