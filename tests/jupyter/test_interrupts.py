from __future__ import annotations

import time
from pathlib import Path

from node.waiting import until_in_thread
from running_host import let_in, serving, write_providers

from dpc_jupyter.home import Home
from dpc_jupyter.identity import Identity
from jupyter.conftest import StubHost
from jupyter.kernel import Kernel, Ran

MESSAGE_S = 1.0
TIMES = 20


def interrupted(kernel: Kernel, cell: str, when: str) -> tuple[Ran, float]:
    """Press Stop once `when` is on the screen; the cell, and the seconds until its message."""
    pressed: list[float] = []

    def ready(ran: Ran) -> bool:
        if ran.displays and when in ran.text:
            pressed.append(time.monotonic())
            return True
        return False

    ran = kernel.run(cell, interrupt_when=ready)
    return ran, time.monotonic() - pressed[0]


def test_stop_during_a_stream_is_one_line_at_once_and_frees_the_slot_every_time(
    asking: Kernel, stub_host: StubHost
) -> None:
    stub_host.engine.tokens, stub_host.engine.pause_s = 100_000, 0.01
    for _ in range(TIMES):
        ran, took_s = interrupted(asking, "%dpc_ask -o kept Tell me everything.", "stub stub")
        assert took_s < MESSAGE_S
        until_in_thread(lambda: stub_host.busy == 0 and stub_host.engine.running == 0, 1)
        assert ran.status == "error" and ran.error is not None and ran.error["ename"] == "Interrupted"
        assert ran.sentence == "Stopped. What came is kept in _dpc; anna was told to free its slot."
        assert ran.text.startswith("stub stub") and "stopped early" in ran.text
    assert asking.value("kept.finish_reason, kept.text[:9], kept is _dpc") == "cancelled stub stub True"
    stub_host.engine.tokens, stub_host.engine.pause_s = 2, 0
    assert asking.ok("%dpc_ask Again").text.startswith("stub stub\n")


def test_stop_while_waiting_in_line_takes_the_request_out_of_it(
    asking: Kernel, stub_host: StubHost, environment: dict[str, str]
) -> None:
    stub_host.engine.tokens, stub_host.engine.pause_s = 100_000, 0.01
    other = Kernel(environment)
    try:
        other.ok("%dpc_connect anna")
        other.ok("import _thread, threading")
        first = other._client.execute("%dpc_ask -H anna I hold the slot")
        assert first
        until_in_thread(lambda: stub_host.engine.running == 1)
        ran, took_s = interrupted(asking, "%dpc_ask I wait", "1st in line at anna")
        assert took_s < MESSAGE_S and ran.sentence.startswith("Stopped.")
        until_in_thread(lambda: stub_host.busy == 1, 1)
        assert ran.text == ""
        other.interrupt()
        until_in_thread(lambda: stub_host.busy == 0)
    finally:
        other.close()


def test_a_host_that_is_killed_is_named_within_two_seconds_and_the_partial_text_stays(
    tmp_path: Path, asker: Identity, kernel: Kernel
) -> None:
    home = Home(tmp_path / "mortal")
    write_providers(home)
    let_in(home, asker.node_id)
    with serving(home) as host:
        kernel.ok(f"%dpc_connect {host.uri} --name anna")
        gone: list[float] = []

        def kill_the_host(ran: Ran) -> bool:
            answer, _, _speed = ran.text.rpartition("\n\n") if ran.displays else ("", "", "")
            if not gone and len(answer.split()) > 8:
                gone.append(time.monotonic())
                host.process.kill()
            return False

        ran = kernel.run("%dpc_ask -H anna --max-tokens 1500 Tell a very long story.", interrupt_when=kill_the_host)
        assert time.monotonic() - gone[0] < 2.0
    assert ran.error is not None and ran.error["ename"] == "PeerLost"
    assert ran.sentence.startswith("The connection to anna was lost")
    answer, _, foot = ran.text.rpartition("\n\n")
    assert len(answer.split()) > 8 and "stopped early" in foot
    assert kernel.value("len(_dpc.text.split()) > 8, _dpc.finish_reason") == "True error"
    assert kernel.ok("1 + 1").status == "ok"
