"""The demo in a notebook: run it in a real kernel, and tell what passed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpc_jupyter.cli.console import out, say
from dpc_jupyter.cli.demo.place import PRIVATE_MODEL, Place
from dpc_jupyter.errors import ConfigError, DpcError
from dpc_jupyter.sanitize import plain
from dpc_jupyter.wording import duration

NOTEBOOK = "01_quickstart.ipynb"
_CELL_LIMIT_S = 120


@dataclass(frozen=True, slots=True)
class Report:
    """What the notebook's outputs say; `failure` is the sentence when that is not what the demo promises."""

    text: str
    facts: dict[str, Any]
    refusal: str
    host_id: str
    asker_id: str

    @property
    def failure(self) -> str:
        """Empty if a model of the host answered, and the other model was refused."""
        if not self.text.strip():
            return "The demo failed: the answer is empty."
        if self.facts.get("host") != self.host_id:
            return f"The demo failed: the answer came from {self.facts.get('host')}, not from the host."
        if not self.refusal:
            return f"The demo failed: {PRIVATE_MODEL} was not refused."
        return ""


def run_notebook(place: Place, uri: str) -> Report:
    """Run the quickstart with a real kernel, and write it down as it ran."""
    os.environ.update(place.asker_environment)
    try:
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError
    except ImportError:
        raise ConfigError("The demo runs a notebook: in a checkout, pip install '.[notebook]'") from None
    notebook = nbformat.read(notebook_path(), as_version=4)
    client = NotebookClient(
        notebook,
        timeout=_CELL_LIMIT_S,
        kernel_name="python3",
        extra_arguments=["--IPKernelApp.log_level=40"],  # it warns that loopback is not encrypted
        resources={"metadata": {"path": str(place.folder)}},
        on_cell_start=_say_cell,
    )
    say("starting the notebook's kernel")
    failure = ""
    try:
        client.execute(env={**os.environ, "DPC_DEMO_HOST": uri})
    except CellExecutionError as error:
        failure = f"The demo failed in a cell: {plain(error.evalue, 500)}"
    nbformat.write(notebook, place.folder / NOTEBOOK)
    if failure:
        raise DpcError(failure)
    return _report(notebook.cells, place)


def notebook_path() -> Path:
    """The quickstart: package data of an installed wheel, else the checkout's."""
    package = Path(__file__).parents[2]
    installed = package / "notebooks" / NOTEBOOK
    return installed if installed.exists() else package.parent / "notebooks" / NOTEBOOK


def _say_cell(cell: Any, cell_index: int) -> None:
    if cell.cell_type == "code":
        say(f"  [{cell_index}] {cell.source.strip().splitlines()[0][:100]}")


def _report(cells: list[Any], place: Place) -> Report:
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    answers = [output for output in outputs if "dpc" in output.get("metadata", {}) and output.metadata["dpc"]["model"]]
    answer = answers[0] if answers else None
    refusals = [output.evalue for output in outputs if output.output_type == "error" and output.ename == "AccessDenied"]
    return Report(
        text="" if answer is None else answer["data"]["text/plain"].rpartition("\n\n")[0],
        facts={} if answer is None else answer.metadata["dpc"],
        refusal=refusals[0] if refusals else "",
        host_id=place.host.load_identity().node_id,
        asker_id=place.asker.load_identity().node_id,
    )


def print_report(report: Report, place: Place, took_s: float) -> None:
    """Print the answer, and the facts about it."""
    timings = report.facts.get("timings", {})
    first_s, rate = timings.get("first_token_s"), timings.get("tokens_per_s")
    out.print()
    out.print(f"{report.facts.get('model')} on {report.facts.get('host_name')} answered:", markup=False, style="bold")
    out.print(plain(report.text).strip(), markup=False, style="cyan")
    out.print()
    facts = {
        "host": report.host_id,
        "notebook": report.asker_id,
        "first token": "none" if first_s is None else f"after {duration(first_s)}",
        "speed": "unknown" if rate is None else f"{rate:.0f} tokens a second",
        "refused": plain(report.refusal) or "nothing",
        "as it ran": str(place.folder / NOTEBOOK),
        "took": f"{took_s:.0f} s",
        "go on": "make lab" if Path("Makefile").exists() else "dpc-jupyter demo --lab",
    }
    for name, fact in facts.items():
        out.print(f"{name:<12}{fact}", markup=False)
