"""Machines that sleep, and clocks that jump."""

from __future__ import annotations

import datetime as dt
import signal
import time
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from dpc_jupyter.errors import Revoked
from node.conftest import MakeHome, Pair
from node.processes import Apart, share_with
from node.stub import PIECE
from node.waiting import until

HOUR_S = 3600.0


def jump(monkeypatch: pytest.MonkeyPatch, by_s: float) -> None:
    """The wall clock, as both nodes of this process read it."""
    time_s, now = time.time, dt.datetime.now
    monkeypatch.setattr(time, "time", lambda: time_s() + by_s)
    shifted = SimpleNamespace(now=lambda tz=None: now(tz) + dt.timedelta(seconds=by_s))
    for module in ("serving.host", "dispatch", "snapshot", "reaching.relays", "serving.access"):
        stand_in = SimpleNamespace(**{**vars(dt), "datetime": shifted})
        monkeypatch.setattr(f"dpc_jupyter.node.{module}.dt", stand_in)


@pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S])
async def test_a_clock_that_jumps_ends_no_request_and_no_link(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch, by_s: float
) -> None:
    allowed.engine.hold()
    stream = await allowed.started()
    link = allowed.asker_link
    jump(monkeypatch, by_s)
    allowed.host._rooms.host.reconsider()
    link._stream.abort()  # and the network is another one after such a sleep
    await until(lambda: link.closed and not stream.away)
    allowed.engine.gate.set()
    assert (await stream.complete()).text == PIECE * 4
    assert len(allowed.engine.seen) == 1
    rows = [*allowed.host.ledger.rows(), *allowed.asker.ledger.rows()]
    assert all(0 <= (row.total_s or 0) < 60 for row in rows)


async def test_a_permission_that_ended_during_the_sleep_ends_the_request(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed.host.access.allow(allowed.asker_id, expires="30m")
    allowed.engine.hold()
    stream = await allowed.started()
    jump(monkeypatch, HOUR_S)
    with pytest.raises(Revoked):
        await stream.complete()
    assert stream.answer.text == PIECE


async def test_what_was_noted_before_the_sleep_is_too_old_to_collect(
    allowed: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpc_jupyter.node.asking.asker.NOTE_AFTER_S", 0.0)
    allowed.engine.hold()
    stream = await allowed.started()
    await until(allowed.asker.home.read_asked)
    monkeypatch.setattr("dpc_jupyter.node.asking.unfinished.runs", lambda _: False)
    assert allowed.asker.unfinished()
    jump(monkeypatch, HOUR_S)
    assert not allowed.asker.unfinished()
    stream.cancel()


@pytest.mark.parametrize("who", ["the asker", "the host"])
def test_a_process_that_is_stopped_for_longer_than_silence_lasts_goes_on(make_home: MakeHome, who: str) -> None:
    homes = make_home("far"), make_home("near")
    share_with(homes[0], homes[1].load_identity().node_id)
    clocks = ("--clocks", "3", "60")  # of 30 and 600
    with ExitStack() as stack:
        host = Apart((), homes[0].path, *clocks, "serve", "900", "0.01")
        stack.callback(host.gone)
        uri = f"dpc://127.0.0.1:{host.said()['port']}?node_id={homes[0].load_identity().node_id}"
        asker = Apart((), homes[1].path, *clocks, "ask", uri)
        stack.callback(asker.gone)
        asker.until_piece(100)
        stopped = (asker if who == "the asker" else host).popen
        stopped.send_signal(signal.SIGSTOP)
        time.sleep(5)
        stopped.send_signal(signal.SIGCONT)
        end = asker.end()
        assert (end["error"], end["outcomes"]) == ("", ["ok"])
        assert end["chars"] == sum(len(f"{number} ") for number in range(900))
        assert (said := host.ask())["seen"] == 1 and said["outcomes"] == ["ok"]
