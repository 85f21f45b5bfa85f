"""A kernel that dies in the middle of an answer, and the next one that has it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from node.stub import PIECE
from node.waiting import until_in_thread

from dpc_jupyter.home import Home
from jupyter.conftest import StubHost
from jupyter.kernel import Kernel

CELL = "%%dpc_ask -H anna -m stub-1 -t 0 -o ideas\nGive three ideas."


@pytest.fixture
def killed(environment: dict[str, str], stub_host: StubHost, asker_home: Home) -> None:
    """A kernel was killed after the first token of an answer, which its host has finished since."""
    kernel = Kernel(environment)
    kernel.ok(f"%dpc_connect {stub_host.uri} --name anna")
    assert kernel.ok("%dpc_pending").stdout.startswith("Nothing is left to collect")
    stub_host.node._loop.call_soon_threadsafe(stub_host.engine.hold)
    kernel.begin(CELL)
    until_in_thread(lambda: stub_host.engine.produced == 1 and asker_home.read_asked())
    kernel.kill()
    stub_host.node._loop.call_soon_threadsafe(stub_host.engine.gate.set)
    until_in_thread(lambda: not stub_host.busy)


@pytest.fixture
def after(killed: None, environment: dict[str, str]) -> Iterator[Kernel]:
    """The kernel that was started then."""
    kernel = Kernel(environment)
    yield kernel
    kernel.close()


def test_the_same_cell_in_a_new_kernel_collects_its_answer_and_the_engine_runs_once(
    after: Kernel, stub_host: StubHost, asker_home: Home
) -> None:
    ran = after.ok(CELL)
    assert ran.text.startswith((PIECE * 4).strip()) and after.value("ideas.text") == PIECE * 4
    assert len(stub_host.engine.seen) == 1
    until_in_thread(lambda: not asker_home.read_asked())
    after.ok(CELL)
    assert len(stub_host.engine.seen) == 2, "what was collected is asked anew"


def test_what_is_left_is_listed_and_collected_in_another_cell(
    after: Kernel, stub_host: StubHost, asker_home: Home
) -> None:
    (request_id,) = asker_home.read_asked()
    listed = after.ok("%dpc_pending")
    assert listed.text.splitlines()[1].split() == ["anna", "stub-1", "just", "now", request_id]
    assert "Run its cell again" in listed.stdout and "%dpc_pending collect" in listed.stdout
    assert "There is nothing such" in after.run("%dpc_pending collect other").sentence
    ran = after.ok("%dpc_pending collect -o ideas")
    assert ran.text.startswith((PIECE * 4).strip()) and ran.facts["host_name"] == "anna"
    assert after.value("ideas is _dpc, ideas.model, ideas.finish_reason") == "True stub-1 stop"
    assert len(stub_host.engine.seen) == 1
    until_in_thread(lambda: not asker_home.read_asked())
    assert after.ok("%dpc_pending").stdout.startswith("Nothing is left to collect")
    assert "There is nothing such" in after.run(f"%dpc_pending collect {request_id}").sentence


def test_a_host_that_is_away_is_named_and_what_it_keeps_stays_listed(after: Kernel, stub_host: StubHost) -> None:
    stub_host.node.stop()
    assert "Nothing listens at" in after.run("%dpc_pending collect").sentence
    assert "anna" in after.ok("%dpc_pending").text
