"""Waiting for what must come, and never for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PATIENCE_S = 30.0


async def until(happened: Callable[[], object], within_s: float = PATIENCE_S) -> float:
    """Wait until `happened()` is true; returns the seconds that it took, fails after `within_s`."""
    began = time.monotonic()
    while not happened():
        assert time.monotonic() - began < within_s, f"did not happen within {within_s:g} s"
        await asyncio.sleep(0.002)
    return time.monotonic() - began


def until_in_thread(happened: Callable[[], object], within_s: float = PATIENCE_S) -> float:
    """As `until`, outside of a loop."""
    began = time.monotonic()
    while not happened():
        assert time.monotonic() - began < within_s, f"did not happen within {within_s:g} s"
        time.sleep(0.001)
    return time.monotonic() - began
