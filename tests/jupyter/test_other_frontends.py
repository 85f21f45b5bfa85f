"""nbclient, papermill and a plain IPython terminal: the same magics where nobody looks, or in text alone."""

from __future__ import annotations

import io
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pexpect
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook
from running_host import RunningHost

from jupyter.conftest import StubHost


def notebook(*cells: str) -> Any:
    made = new_notebook(cells=[new_code_cell(cell) for cell in ("%load_ext dpc_jupyter", *cells)])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return made


def test_nbclient_keeps_the_final_text_and_stops_at_a_refusal(
    environment: dict[str, str], stub_host: StubHost, tmp_path: Path
) -> None:
    made = notebook(
        f"%dpc_connect {stub_host.uri} --name anna", "%dpc_ask -H anna Hello", "%dpc_ask -H carol Hello", "print('no')"
    )
    client = NotebookClient(made, timeout=60, resources={"metadata": {"path": str(tmp_path)}})
    with pytest.raises(CellExecutionError, match="Nobody is known as carol") as stopped:
        client.execute(env=environment)
    assert "Traceback" not in str(stopped.value)
    (answer,) = made.cells[2].outputs
    assert answer["data"]["text/plain"].startswith("stub stub stub stub\n\nanna · stub-1 · 4 tokens")
    assert answer.metadata["dpc"]["host_name"] == "anna"
    assert made.cells[4].outputs == []


def test_papermill_runs_a_notebook_with_its_parameters(
    environment: dict[str, str], real_host: RunningHost, tmp_path: Path
) -> None:
    made = notebook(
        "address = 'none'; word = 'none'",
        "%dpc_connect {address} --name anna",
        "%dpc_ask -H anna --max-tokens 6 -o said Say {word}.",
        "print(said.model)",
    )
    made.cells[1].metadata["tags"] = ["parameters"]
    nbformat.write(made, tmp_path / "in.ipynb")
    ran = papermill.execute_notebook(
        str(tmp_path / "in.ipynb"),
        str(tmp_path / "out.ipynb"),
        parameters={"address": real_host.uri, "word": "hello"},
        progress_bar=False,
        log_output=False,
    )
    assert "smollm2:135m\n" in [output.get("text") for cell in ran.cells for output in cell.outputs]


def test_a_plain_ipython_terminal_prints_the_pieces_and_survives_ctrl_c(
    environment: dict[str, str], stub_host: StubHost
) -> None:
    stub_host.engine.texts = ("The an\x1b[3", "1mswer.")
    seen = io.StringIO()
    command = [*("-m", "IPython", "--simple-prompt", "--no-banner", "--colors=NoColor", "--no-confirm-exit")]
    shell = pexpect.spawn(
        sys.executable, command, env=environment, encoding="utf-8", timeout=30, dimensions=(50, 250), echo=False
    )
    shell.logfile_read = seen

    def enter(line: str, number: int) -> None:
        shell.expect(rf"In \[{number}\]: ")
        shell.sendline(line)

    enter("%load_ext dpc_jupyter", 1)
    enter(f"%dpc_connect {stub_host.uri} --name anna", 2)
    enter("%dpc_ask -H anna What's it?", 3)
    shell.expect(r"The answer\.\r\n\x1b\[2manna · stub-1 · 2 tokens")
    enter("%dpc_ask -H carol Hello", 4)
    shell.expect(re.escape("\x1b[31mNobody is known as carol."))
    stub_host.engine.texts, stub_host.engine.tokens, stub_host.engine.pause_s = (), 100_000, 0.01
    enter("%dpc_ask -H anna Go on", 5)
    shell.expect("stub stub")
    pressed = time.monotonic()
    shell.sendintr()
    shell.expect(re.escape("\x1b[31mStopped."))
    assert time.monotonic() - pressed < 2
    enter("print(_dpc.finish_reason, _dpc.text[:9])", 6)
    shell.expect("cancelled stub stub")
    enter("exit()", 7)
    shell.expect(pexpect.EOF)
    shell.close()
    assert "Traceback" not in seen.getvalue()
