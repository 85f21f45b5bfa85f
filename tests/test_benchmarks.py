"""A tiny run of the benchmark goes through and says what it measured. No time is judged here: machines are noisy."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transports.signalling import needs_an_address

from benchmarks.measure import interleave, median_ratio, percentile
from benchmarks.rows import as_table, missing, row, write
from benchmarks.stub import TOKEN_CHARS, made_at, token

ROOT = Path(__file__).parent.parent
FIELDS = {"metric", "unit", "ours", "peer", "peer_name", "ratio", "target", "ok"}


def quick_run(results: Path, names: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", names, "--results", str(results)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the engine is a stub" in done.stdout
    rows: list[dict[str, Any]] = json.loads(results.read_text("utf-8"))
    return rows


def test_a_quick_run_writes_well_formed_rows(tmp_path: Path) -> None:
    rows = quick_run(tmp_path / "results.json", "request,first-token,throughput,streams,connect,interrupt,idle-peer")
    assert all(set(row) == FIELDS for row in rows)
    measured = [row for row in rows if row["ours"] is not None]
    assert {"request p50, engine in process", "interrupt to slot free"} <= {row["metric"] for row in measured}
    # Processor time comes in hundredths of a second, memory in pages: a tiny run may see none of either.
    assert all(
        row["ours"] > 0 for row in measured if row["unit"] in ("ms", "1/s") or row["metric"].startswith("request")
    )
    # A peer that is not installed here leaves its row in place, empty and unjudged.
    assert all(row["ok"] is None for row in rows if row["ours"] is None)
    assert all(row["peer_name"] for row in measured if row["ratio"] is not None)


@needs_an_address
def test_a_quick_run_over_webrtc_has_its_three_rows(tmp_path: Path) -> None:
    rows = quick_run(tmp_path / "results.json", "webrtc")
    assert [row["target"] for row in rows] == [">= 3", "<= 1.2", "<= 1.5"]
    assert all(row["ours"] > 0 and row["peer"] > 0 for row in rows)


def test_an_unknown_scenario_is_refused_by_name(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--only", "warp"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "warp" in done.stderr


@pytest.mark.parametrize(
    ("ratio", "target", "ok"), [(2.9, "<= 3", True), (3.1, "<= 3", False), (2, ">= 1.5", True), (1, ">= 50", False)]
)
def test_a_ratio_is_judged_by_its_target(ratio: float, target: str, ok: bool) -> None:
    assert row("metric", "µs", 1.0, target, peer=2.0, peer_name="somebody", ratio=ratio).ok is ok


def test_a_figure_without_a_peer_is_judged_itself() -> None:
    assert row("memory", "MB", 39.0, "<= 40").ok is True
    assert row("memory", "MB", 41.0, "<= 40").ok is False
    assert row("memory", "MB", 41.0).ok is None


def test_rows_are_written_as_a_list_of_objects(tmp_path: Path) -> None:
    rows = [row("a", "µs", 1.0, "<= 3", peer=2.0, peer_name="b", ratio=0.5), missing("a", "µs", "<= 1", "c")]
    write(rows, tmp_path / "new" / "results.json")
    assert [set(each) for each in json.loads((tmp_path / "new" / "results.json").read_text("utf-8"))] == [
        FIELDS,
        FIELDS,
    ]
    assert as_table(rows).row_count == 2


def test_percentiles_are_values_that_occurred() -> None:
    assert percentile([3, 1, 2], 50) == 2
    assert percentile(list(range(1, 101)), 99) == 99


async def test_rounds_are_interleaved_and_each_begins_with_another() -> None:
    order: list[str] = []

    async def run(name: str) -> dict[str, float]:
        order.append(name)
        return {"p50": 4.0 if name == "ours" else 2.0}

    found = await interleave(2, {"ours": lambda: run("ours"), "peer": lambda: run("peer")})
    assert order == ["ours", "peer", "peer", "ours"]
    assert median_ratio(found["ours"], found["peer"], "p50") == 2.0


def test_a_token_says_when_it_was_made() -> None:
    assert len(token(12_345)) == TOKEN_CHARS
    assert made_at(token(12_345) + token(2**50)) == [12_345, 2**50]
