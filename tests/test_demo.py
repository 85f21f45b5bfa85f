from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from node.waiting import until_in_thread
from running_host import COMMAND, weights
from transports.signalling import needs_an_address

from dpc_jupyter.cli.demo import hub as demo_hub
from dpc_jupyter.cli.demo import notebook
from dpc_jupyter.cli.demo import place as demo
from dpc_jupyter.errors import DpcError
from dpc_jupyter.home import Home


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that is no checkout, with the model fetched already."""
    models = tmp_path / ".demo" / "models"
    models.mkdir(parents=True)
    (tmp_path / ".demo").chmod(0o700)
    os.link(weights(), models / weights().name)
    return tmp_path


def test_the_demo_shows_an_answer_a_refusal_and_how_to_go_on(folder: Path) -> None:
    done = subprocess.run([*COMMAND, "demo"], cwd=folder, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    assert "smollm2:135m on anna answered:\n" in done.stdout
    ids = re.findall(r"^(host|notebook) +(dpc-node-[0-9a-f]{32})$", done.stdout, re.MULTILINE)
    assert [who for who, _ in ids] == ["host", "notebook"] and ids[0][1] != ids[1][1]
    assert re.search(r"^first token +after [\d.]+ s$", done.stdout, re.MULTILINE)
    assert re.search(r"^speed +\d+ tokens a second$", done.stdout, re.MULTILINE)
    assert "request inference for model smollm2:135m-private" in done.stdout
    assert "dpc-jupyter demo --lab" in done.stdout
    ran = nbformat.read(folder / ".demo" / notebook.NOTEBOOK, as_version=4)
    answer = next(
        output for cell in ran.cells for output in cell.get("outputs", []) if "dpc" in output.get("metadata", {})
    )
    said = done.stdout.partition("answered:\n")[2].partition("\n\nhost ")[0].strip()
    assert len(said.split()) > 10 and answer["data"]["text/plain"].startswith(said[:30])
    assert answer.metadata["dpc"]["host"] == ids[0][1]
    assert json.loads((folder / ".demo" / "host" / ".dpc_access.json").read_text())["compute"]["allow_nodes"] == [
        ids[1][1]
    ]


@needs_an_address
@pytest.mark.parametrize("networks", ["its own", "one"])
def test_a_host_without_a_port_and_an_asker_meet_over_a_hub(folder: Path, networks: str) -> None:
    """With `ip` out of reach all of them run in this machine's one network."""
    environment = os.environ | ({"PATH": str(Path(sys.executable).parent)} if networks == "one" else {})
    command = [*COMMAND, "demo", "--hub"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert ("network namespaces of their own" in done.stderr) != ("in this machine's one network" in done.stderr)
    assert "this machine's one network" in done.stderr or networks == "its own"
    first, *_ = done.stdout.splitlines()
    assert re.fullmatch(r"Reached anna by WebRTC\. Tried as well: TLS at \S+ \(Nothing listens at \S+\)\.", first)
    assert len(done.stdout.partition("anna answered:\n")[2].split()) > 10
    assert "anna · smollm2:135m · " in done.stdout


def test_the_demo_of_the_hub_fails_by_another_way_or_without_an_answer() -> None:
    by = "Reached anna by {}. Tried as well: TLS at 127.0.0.1:1 (Nothing listens)."
    assert demo_hub.Met(by.format("WebRTC"), "Because.", 0).failure == ""
    assert "another way" in demo_hub.Met(by.format("TLS at 127.0.0.1:1"), "Because.", 0).failure
    assert "is empty" in demo_hub.Met("", " \n", 0).failure
    assert "No way was found" in demo_hub.Met("No way was found.", "Becau", 1).failure


def place_in(folder: Path) -> demo.Place:
    return demo.Place(folder, Home(folder / "host"), Home(folder / "asker"))


def test_the_demo_fails_when_nothing_was_answered_or_nothing_refused(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    host_id = place.host.load_identity().node_id

    def cells(text: str, host: str, ename: str) -> Any:
        facts = {"dpc": {"model": "m", "host": host}}
        shown = new_output("display_data", {"text/plain": f"{text}\n\nanna · m"}, metadata=facts)
        refused = new_output("error", ename=ename, evalue="no", traceback=[])
        return new_notebook(cells=[new_code_cell(outputs=[shown]), new_code_cell(outputs=[refused])]).cells

    assert notebook._report(cells("Hello", host_id, "AccessDenied"), place).failure == ""
    assert "the answer is empty" in notebook._report(cells("", host_id, "AccessDenied"), place).failure
    assert "the answer is empty" in notebook._report([], place).failure
    assert "not from the host" in notebook._report(cells("Hello", "local", "AccessDenied"), place).failure
    assert "was not refused" in notebook._report(cells("Hello", host_id, "NameError"), place).failure


def test_a_host_that_does_not_start_is_named_with_its_log(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    place.host.path.mkdir(0o700)
    (place.host.path / "providers.json").write_text("{")
    with pytest.raises(DpcError, match=r"host\.log"), demo.running_host(place):
        pass


def test_the_quickstart_is_short_and_its_outputs_are_the_models_own() -> None:
    quickstart = nbformat.read(notebook.notebook_path(), as_version=4)
    nbformat.validate(quickstart)
    assert quickstart.cells[0].cell_type == "markdown" and len(quickstart.cells) <= 10
    facts = [
        output.metadata["dpc"]
        for cell in quickstart.cells
        for output in cell.get("outputs", [])
        if "dpc" in output.get("metadata", {})
    ]
    assert [fact["model"] for fact in facts] == ["smollm2:135m"]


def listens(port: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0


@pytest.mark.skipif(shutil.which("jupyter-lab", path=str(Path(sys.executable).parent)) is None, reason="no JupyterLab")
def test_lab_runs_beside_the_host_until_ctrl_c(folder: Path) -> None:
    log = folder / "lab.log"
    with log.open("w") as said:
        lab = subprocess.Popen(
            [*COMMAND, "demo", "--lab"], cwd=folder, stdout=said, stderr=said, env={**os.environ, "BROWSER": "true"}
        )
    try:
        until_in_thread(lambda: "/lab/tree/01_quickstart.ipynb?token=" in log.read_text(), 60)
        found = re.search(r"http://127\.0\.0\.1:(\d+)/lab/tree/01_quickstart\.ipynb\?token=\w+", log.read_text())
        assert found is not None
        until_in_thread(lambda: listens(found[1]), 60)
        with urllib.request.urlopen(found[0], timeout=20) as page:
            assert b"JupyterLab" in page.read()
        copied = {path.name for path in (folder / ".demo" / "lab").glob("*.ipynb")}
        assert copied == {path.name for path in notebook.notebook_path().parent.glob("*.ipynb")} and len(copied) == 4
        assert log.read_text().count("host up: dpc://") == 2
    finally:
        lab.send_signal(2)
        assert lab.wait(20) == 0, log.read_text()
