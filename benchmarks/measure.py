"""Numbers from runs: percentiles within a round, medians over rounds, and what a process costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence

import psutil

Sample = dict[str, float]
Round = Callable[[], Awaitable[Sample]]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of all do not exceed; NaN for none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


async def interleave(rounds: int, contenders: Mapping[str, Round]) -> dict[str, list[Sample]]:
    """Run everyone once a round, each round from another one on, so that a noisy moment hits nobody alone."""
    found: dict[str, list[Sample]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            found[name].append(await contenders[name]())
    return found


def median(samples: Sequence[Sample], key: str) -> float:
    """Over the rounds."""
    return statistics.median(sample[key] for sample in samples)


def median_ratio(ours: Sequence[Sample], peers: Sequence[Sample], key: str) -> float | None:
    """The median of each round's own ratio; None where a round was too short to see the peer's figure."""
    pairs = [(our[key], peer[key]) for our, peer in zip(ours, peers, strict=True)]
    return statistics.median(our / peer for our, peer in pairs) if all(peer for _, peer in pairs) else None


def own_memory_bytes(pid: int) -> int:
    """What ending this process would give back to the machine (USS)."""
    return int(psutil.Process(pid).memory_full_info().uss)


def resident_bytes(pid: int) -> int:
    """All memory of a process, libraries that others share included (RSS)."""
    return int(psutil.Process(pid).memory_info().rss)


def cpu_s(pid: int) -> float:
    """User and system time that a process has used."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
