from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dpc_jupyter import ledger as module
from dpc_jupyter.errors import ConfigError
from dpc_jupyter.ledger import Entry, Ledger, Usage

DAY = 20_000 * 86_400.0
ANNA, BOB = "dpc-node-" + "a" * 32, "dpc-node-" + "b" * 32


def entry(**more: Any) -> Entry:
    known: dict[str, Any] = {
        "id": "r1",
        "role": "host",
        "peer": ANNA,
        "model": "llama3",
        "provider": "ollama",
        "started_at": DAY + 60,
        "queue_s": 0.5,
        "first_token_s": 1.0,
        "total_s": 2.0,
        "prompt_tokens": 3,
        "response_tokens": 4,
    }
    return Entry(**{**known, **more})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "ledger.sqlite3"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    made = Ledger(path)
    yield made
    made.close()


def test_an_entry_comes_back_as_it_was(ledger: Ledger) -> None:
    noted = [entry(), entry(role="asker", queue_s=None, prompt_tokens=None, outcome="cancelled", started_at=DAY + 61)]
    for each in noted:
        ledger.record(each)
    assert ledger.rows() == noted
    assert ledger.rows(since=DAY + 61) == noted[1:]


def test_usage_sums_by_role_peer_and_model(ledger: Ledger) -> None:
    for each in (entry(), entry(response_tokens=None), entry(model="qwen3"), entry(role="asker"), entry(peer=BOB)):
        ledger.record(each)
    assert ledger.usage() == [
        Usage("asker", ANNA, "llama3", 1, 0, 3, 4, 2.0),
        Usage("host", ANNA, "llama3", 2, 0, 6, 4, 4.0),
        Usage("host", ANNA, "qwen3", 1, 0, 3, 4, 2.0),
        Usage("host", BOB, "llama3", 1, 0, 3, 4, 2.0),
    ]
    assert ledger.usage(since=DAY + 61) == []


def test_refused_requests_are_counted_apart(ledger: Ledger) -> None:
    for outcome in ("denied", "busy", "not_found", "invalid"):
        ledger.record(entry(outcome=outcome, prompt_tokens=None, response_tokens=None))
    for outcome in ("ok", "cancelled", "revoked", "backend"):
        ledger.record(entry(outcome=outcome))
    assert ledger.usage() == [Usage("host", ANNA, "llama3", 4, 4, 12, 16, 8.0)]


def test_a_watcher_hears_of_each_entry_and_its_fault_is_its_own(ledger: Ledger) -> None:
    heard: list[Entry] = []
    ledger.watch(lambda _: 1 / 0)  # type: ignore[arg-type]
    ledger.watch(heard.append)
    ledger.record(entry())
    assert heard == ledger.rows() == [entry()]


def test_the_file_and_its_journal_are_private_from_the_start_whatever_the_umask(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    before = os.umask(0)
    try:
        made = Ledger(path)
        with sqlite3.connect(path) as database:
            database.execute("INSERT INTO requests (id) VALUES ('x')")
            modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
        database.close()
        made.close()
    finally:
        os.umask(before)
    assert modes == {"ledger.sqlite3": 0o600, "ledger.sqlite3-journal": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_wider_mode_is_tightened(path: Path) -> None:
    Ledger(path).close()
    path.chmod(0o644)
    Ledger(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_only_todays_tokens_spent_as_a_host_count(ledger: Ledger) -> None:
    now = DAY + 3600
    for each in (
        entry(),
        entry(role="asker"),
        entry(peer=BOB, prompt_tokens=100),
        entry(started_at=DAY - 1, prompt_tokens=1000),
        entry(started_at=DAY, prompt_tokens=None),
        entry(outcome="cancelled", response_tokens=1),
    ):
        ledger.record(each)
    for _ in range(2):
        assert ledger.tokens_today(ANNA, now) == 7 + 4 + 4
        assert ledger.tokens_today(BOB, now) == 104
        assert ledger.tokens_today(ANNA, now + 86_400) == 0
        assert ledger.tokens_today(ANNA, now - 86_400) == 1004
        assert ledger.flush()


def test_tokens_survive_a_restart(path: Path) -> None:
    for runs in range(1, 4):
        ledger = Ledger(path)
        ledger.record(entry())
        ledger.record(entry(role="asker"))
        assert ledger.tokens_today(ANNA, DAY) == 7 * runs
        assert ledger.tokens_today(ANNA, DAY + 86_400) == 0
        ledger.close()


def test_tokens_of_another_process_are_seen_within_a_second(path: Path) -> None:
    clock = Clock()
    ours, theirs = Ledger(path, monotonic=clock), Ledger(path)
    assert ours.tokens_today(ANNA, DAY) == 0
    theirs.record(entry())
    theirs.close()
    ours.record(entry(prompt_tokens=0, response_tokens=1))
    assert ours.tokens_today(ANNA, DAY) == 1
    clock.now += module.CACHE_S
    assert ours.tokens_today(ANNA, DAY) == 8
    ours.close()


def test_own_tokens_count_exactly_once_while_batches_are_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH_EVERY_S", 0.001)
    monkeypatch.setattr(module, "CACHE_S", 0.0)
    ledger, recorded, wrong = Ledger(path), 0, []

    def watch() -> None:
        while recorded < 2000:
            least = recorded
            found = ledger.tokens_today(ANNA, DAY)
            if not 7 * least <= found <= 7 * (recorded + 1):
                wrong.append((least, found, recorded))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(2000):
        ledger.record(entry())
        recorded += 1
        time.sleep(0.0002)
    watcher.join()
    assert not wrong
    ledger.close()
    assert Ledger(path).tokens_today(ANNA, DAY) == 14_000


PROCESS = """
import sys, time
from pathlib import Path
from dpc_jupyter.ledger import Entry, Ledger
ledger = Ledger(Path(sys.argv[1]))
for index in range(int(sys.argv[3])):
    ledger.record(Entry(str(index), "host", sys.argv[2], "m", "p", float(sys.argv[4]), response_tokens=1))
    time.sleep(0.001)
    if index == 700: print("ready", flush=True)
assert ledger.flush(), ledger.error
ledger.close()
"""


def process(path: Path, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(path), ANNA, str(count), str(DAY)], stdout=subprocess.PIPE, text=True
    )


def test_two_processes_at_once_lose_nothing(path: Path) -> None:
    running = [process(path, 300) for _ in range(2)]
    for each in running:
        each.communicate(timeout=60)
        assert each.returncode == 0
    assert Ledger(path).tokens_today(ANNA, DAY) == 600


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_kill_9_loses_at_most_the_last_moments_and_leaves_a_sound_file(path: Path) -> None:
    victim = process(path, 100_000)
    assert victim.stdout is not None
    assert victim.stdout.readline() == "ready\n"
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=10)
    ledger = Ledger(path)
    # 700 at about 1 a millisecond; 0.2 s of them, and a slow disk's batch, may be gone.
    assert ledger.tokens_today(ANNA, DAY) >= 100
    ledger.record(entry())
    ledger.close()
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    database.close()


def test_a_broken_file_stops_no_request_but_daily_quotas(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("this is no database" * 100)
    ledger = Ledger(path)
    assert "cannot be written" in (ledger.error or "")
    assert "move it away" in (ledger.error or "")
    ledger.record(entry())
    assert not ledger.flush()
    with pytest.raises(ConfigError, match=r"ledger\.sqlite3 cannot be written"):
        ledger.tokens_today(ANNA, DAY)
    with pytest.raises(ConfigError, match="cannot be read"):
        ledger.usage()
    path.rename(path.with_suffix(".old"))
    assert ledger.flush()
    assert ledger.error is None
    assert ledger.tokens_today(ANNA, DAY) == 7
    assert ledger.rows() == [entry()]
    ledger.close()


def test_what_waits_for_a_broken_file_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUFFER_LIMIT", 5)
    path.mkdir(parents=True)
    ledger = Ledger(path)
    for index in range(20):
        ledger.record(entry(id=str(index)))
        assert len(ledger._buffer) <= 5
    assert not ledger.flush()
    path.rmdir()
    assert [each.id for each in ledger.rows()] == ["15", "16", "17", "18", "19"]
    ledger.close()


def test_a_ledger_that_is_moved_away_is_made_anew(ledger: Ledger, path: Path) -> None:
    ledger.record(entry())
    ledger.flush()
    path.unlink()
    assert ledger.usage() == []
    ledger.record(entry(id="r2"))
    assert [each.id for each in ledger.rows()] == ["r2"]


def test_what_a_host_claims_cannot_spoil_the_batch_or_the_sums(ledger: Ledger) -> None:
    for _ in range(3000):
        ledger.record(entry(role="asker", model="\ud800", response_tokens=2**70))
    ledger.record(entry())
    assert ledger.flush()
    assert [(row.model, row.requests) for row in ledger.usage()] == [("?", 3000), ("llama3", 1)]


def test_a_record_after_close_is_written_too(ledger: Ledger) -> None:
    ledger.record(entry())
    ledger.close()
    ledger.close()
    ledger.record(entry())
    assert len(ledger.rows()) == 2


def test_a_set_back_clock_counts_its_own_day(ledger: Ledger) -> None:
    for years in (0, -10, 10):
        moment = DAY + years * 365 * 86_400
        ledger.record(entry(started_at=moment))
        assert ledger.tokens_today(ANNA, moment) == 7


def test_recording_costs_the_event_loop_microseconds(ledger: Ledger) -> None:
    noted = entry()
    costs = []
    for _ in range(2000):
        start = time.perf_counter()
        ledger.record(noted)
        costs.append(time.perf_counter() - start)
    assert sorted(costs)[len(costs) // 2] < 100e-6
