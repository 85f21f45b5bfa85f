"""A node in a process of its own, as `serve` runs one: prints its address, then asks or serves until it is killed.

Usage: python -m node.headless [--years N] [--debug] [--ask URI PROMPT]
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import logging
import time


def _shift_clock(years: int) -> None:
    """Set this process's wall clock off, for Python's own readers of it."""
    shift_s, now_s = years * 365.25 * 86_400, time.time

    class Shifted(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Shifted:
            return cls.fromtimestamp(now_s() + shift_s, tz)

    time.time = lambda: now_s() + shift_s
    dt.datetime = Shifted  # type: ignore[misc]


async def _run(ask: tuple[str, str] | None) -> None:
    from dpc_jupyter.backends.registry import Registry
    from dpc_jupyter.node.core_service import CoreService
    from node.stub import StubEngine

    engine = StubEngine(tokens=100_000, pause_s=0.02)
    node = CoreService(name="headless", registry=Registry([engine]))
    await node.start(("127.0.0.1", 0))
    print(node.uri, flush=True)
    if ask is not None:
        peer = await node.connect(ask[0])
        async for item in node.execute_ai_query(ask[1], peer.node_id):
            print(repr(item.__class__.__name__), flush=True)
    await asyncio.sleep(60)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--years", type=int, default=0)
    parser.add_argument("--debug", action="store_true")
    parser.add_argument("--ask", nargs=2)
    chosen = parser.parse_args()
    if chosen.years:
        _shift_clock(chosen.years)
    if chosen.debug:
        logging.basicConfig(level=logging.DEBUG)
    from dpc_jupyter.node.thread import new_event_loop

    with asyncio.Runner(debug=chosen.debug, loop_factory=new_event_loop) as runner:
        runner.run(_run(chosen.ask))
