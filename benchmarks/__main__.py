"""Run the scenarios, print the table, write the results."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import psutil
from rich.console import Console

from benchmarks import face, hub, memory, reach, rows, scenarios, webrtc
from benchmarks.processes import Processes
from benchmarks.rows import Row
from benchmarks.setting import IN_FRONT, LITELLM, NGINX, SSH, Setting, prepare
from dpc_jupyter.node.thread import new_event_loop

_RESULTS = Path(__file__).parent / "results.json"
# What each scenario needs beside our host, the stub over HTTP and the echo.
_SCENARIOS: dict[str, tuple[Callable[[Setting], Awaitable[list[Row]]], frozenset[str]]] = {
    "request": (scenarios.request, frozenset()),
    "first-token": (scenarios.first_token, frozenset({IN_FRONT, NGINX, SSH, LITELLM})),
    "throughput": (scenarios.throughput, frozenset({NGINX, LITELLM})),
    "token-latency": (scenarios.token_latency, frozenset({NGINX, SSH})),
    "streams": (scenarios.streams, frozenset()),
    "connect": (scenarios.connect, frozenset()),
    "interrupt": (scenarios.interrupt, frozenset()),
    "kernel": (memory.kernel, frozenset()),
    "idle-peer": (memory.idle_peer, frozenset()),
    "face": (face.face, frozenset()),
    "webrtc": (webrtc.webrtc, frozenset()),
    "relay": (reach.relay, frozenset()),
    "resume": (reach.resume, frozenset()),
    "ladder": (reach.ladder, frozenset()),
    "hub": (hub.hub, frozenset()),
}


async def run(names: Sequence[str], console: Console, processes: Processes, *, quick: bool) -> tuple[list[Row], bool]:
    """Run scenarios by name; prints what was skipped. Returns the rows, and whether every scenario went through."""
    wanted = set().union(*(_SCENARIOS[name][1] for name in names)) - ({LITELLM} if quick else set())
    console.print("starting hosts and peers ...")
    setting = await prepare(processes, console, wanted, quick=quick)
    found: list[Row] = []
    try:
        for name in names:
            began = time.monotonic()
            try:
                found += await _SCENARIOS[name][0](setting)
            except Exception:
                # The others' figures are worth having all the same.
                console.print_exception()
                setting.failed.append(name)
            console.print(f"{name}: {time.monotonic() - began:.0f} s")
    finally:
        await setting.close()
    if quick and any(LITELLM in _SCENARIOS[name][1] for name in names):
        setting.skipped[LITELLM] = "it takes 10 s to start; a full run has it"
    for name, reason in setting.skipped.items():
        console.print(f"[yellow]skipped[/] {name}: {reason}", highlight=False)
    for note in setting.notes:
        console.print(f"note: {note}", highlight=False)
    return found, not setting.failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry; the exit status is 0 when the run went through, whatever the numbers say."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few repetitions: shows that it runs, measures nothing")
    parser.add_argument("--only", metavar="NAMES", help=f"comma-separated, of: {', '.join(_SCENARIOS)}")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="where to write (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    names = chosen.only.split(",") if chosen.only else list(_SCENARIOS)
    if unknown := [name for name in names if name not in _SCENARIOS]:
        parser.error(f"unknown: {', '.join(unknown)}")
    console = Console()
    console.print(
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {psutil.virtual_memory().total / 2**30:.0f} GiB, "
        f"Python {sys.version.split()[0]}; the engine is a stub: no model runs",
        highlight=False,
    )
    # Either signal cancels what runs, so that every connection and process is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Processes(Path(folder)) as processes,
        asyncio.Runner(loop_factory=new_event_loop) as runner,
    ):
        found, complete = runner.run(run(names, console, processes, quick=chosen.quick))
    rows.write(found, chosen.results)
    console.print(rows.as_table(found))
    console.print(f"{time.monotonic() - began:.0f} s; written to {os.path.relpath(chosen.results)}", highlight=False)
    return 0 if complete else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
