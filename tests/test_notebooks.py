"""The notebooks do what they say, with real kernels and real hosts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from running_host import RunningHost, write_providers
from running_notebooks import FOLDER, environment, run, two_hosts

from dpc_jupyter.backends.models import SMOLLM2
from dpc_jupyter.home import Home

WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def asker(tmp_path: Path) -> Home:
    home = Home(tmp_path / "asker")
    write_providers(home)
    return home


@pytest.fixture
def hosts(tmp_path: Path, asker: Home) -> Iterator[tuple[RunningHost, RunningHost]]:
    with two_hosts(tmp_path, asker) as running:
        yield running


def printed(notebook: Any) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [each.get("text") or each.get("data", {}).get("text/plain", "") for each in outputs]
    return "\n".join(text.rstrip("\n") for text in texts)  # two prints of a cell may come as one output, or as two


def test_an_owner_lets_a_colleague_in_watches_him_and_cuts_him_off(tmp_path: Path, asker: Home) -> None:
    said = printed(run("02_share_a_lab_gpu.ipynb", tmp_path, environment(asker, tmp_path)))
    assert re.search(r"^Address to give away: dpc://127\.0\.0\.1:", said, re.MULTILINE)
    assert "Access denied: You are not authorized to request inference. Send its owner your node id:" in said
    assert f"dave may use {SMOLLM2.name}, until " in said
    assert "with running=1, queued=2, requests_per_minute=20, tokens_per_day=50000." in said
    assert "no: line" in said and f"allowed_models of dave: {SMOLLM2.name}" in said
    assert f"lab-gpu · {SMOLLM2.name} · 40 tokens" in said
    assert f"Serving dave · {SMOLLM2.name} · running" in said
    assert "The host's owner has withdrawn the permission for this request." in said
    served = next(line.split() for line in said.splitlines() if line.startswith("served"))
    assert served[:5] == ["served", "dave", SMOLLM2.name, "2", "1"]
    assert said.rstrip().endswith("Sharing is off.\nThe node is stopped.")


def test_the_widgets_have_state_and_a_chat_is_python(
    tmp_path: Path, asker: Home, hosts: tuple[RunningHost, RunningHost]
) -> None:
    anna, _ = hosts
    notebook = run("03_host_picker_and_firewall.ipynb", tmp_path, environment(asker, tmp_path, DPC_DEMO_HOST=anna.uri))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [each["data"] for each in outputs if WIDGET in each.get("data", {})]
    names = [data["text/plain"].partition(":")[0] for data in shown]
    assert names == ["HostPicker", "FirewallEditor", "NodePanel", "Chat"]
    models = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    for data in shown:
        number = data[WIDGET]["model_id"]
        assert models[number]["state"]["client"] == number
        assert "export default { render: mounted(" in models[number]["state"]["_esm"]
    said = printed(notebook)
    assert "This notebook asks anna." in said
    assert f"('anna', '{SMOLLM2.name}'," in said
    assert "[{'role': 'user', 'content': 'In one sentence: what is a magnet?'}" in said
    assert f"[('{anna.node_id}'" in said and f"sha256:{SMOLLM2.sha256}" in said


def test_the_study_keeps_forty_answers_with_where_they_came_from_and_plots_them(
    tmp_path: Path, asker: Home, hosts: tuple[RunningHost, RunningHost]
) -> None:
    addresses = {"DPC_DEMO_HOST": hosts[0].uri, "DPC_DEMO_HOST_2": hosts[1].uri}
    notebook = run("04_research_notebook.ipynb", tmp_path, environment(asker, tmp_path, **addresses))
    rows = pd.read_csv(tmp_path / "answers.csv")
    assert len(rows) == 40 and rows["question"].nunique() == 20
    assert rows.groupby("host").size().to_dict() == {host.node_id: 20 for host in hosts}
    assert set(rows["digest"]) == {f"sha256:{SMOLLM2.sha256}"} and set(rows["model"]) == {SMOLLM2.name}
    assert rows.groupby("host_name")["temperature"].unique().str[0].to_dict() == {"anna": 0.0, "carol": 0.8}
    assert set(rows["seed"]) == {1} and rows["request_id"].is_unique and rows["text"].str.len().min() > 0
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    assert re.search(r"^anna and carol +[01]\.\d", printed(notebook), re.MULTILINE)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_kept_notebook_says_what_it_needs_and_names_no_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    first = notebook.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ") and "needs `dpc-jupyter`" in first.source
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert any(cell.outputs for cell in code) and all(cell.execution_count for cell in code)
    text = path.read_text()
    private = ["widget-view", "/home/", "/tmp/", str(Path(__file__).parents[1])]
    assert not [word for word in private if word in text]
