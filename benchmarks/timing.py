"""What several scenarios time in the same way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from benchmarks.measure import Sample, median, median_ratio, percentile
from benchmarks.peers.base import Asker
from benchmarks.rows import Row, missing, row
from benchmarks.stub import TOKEN_CHARS, made_at, now_ns


def rows_against(
    metric: str, unit: str, found: dict[str, list[Sample]], key: str, against: Sequence[tuple[str, str, str]]
) -> list[Row]:
    """One row for each peer, judged by the ratio."""
    rows = []
    for ours, peer, target in against:
        if peer not in found:
            rows.append(missing(metric, unit, target, peer))
            continue
        mine, theirs = found[ours], found[peer]
        ratio = median_ratio(mine, theirs, key)
        rows.append(row(metric, unit, median(mine, key), target, peer=median(theirs, key), peer_name=peer, ratio=ratio))
    return rows


async def p50_us(
    act: Callable[[], Awaitable[None]], count: int, before: Callable[[], Awaitable[None]] | None = None
) -> Sample:
    """The median time of one act."""
    taken = []
    for _ in range(count):
        if before is not None:
            await before()
        began = now_ns()
        await act()
        taken.append((now_ns() - began) / 1000)
    return {"p50": percentile(taken, 50)}


async def first_token_us(asker: Asker, count: int) -> Sample:
    """From asking to the first piece of text."""
    taken = []
    for _ in range(count):
        began, first = now_ns(), 0
        async for _ in asker.ask(16):
            first = first or now_ns()
        taken.append((first - began) / 1000)
    return {"p50": percentile(taken, 50)}


async def tokens_per_s(asker: Asker, count: int) -> Sample:
    """As fast as the way carries them; none may be lost."""
    began, chars = now_ns(), 0
    async for text in asker.ask(count):
        chars += len(text)
    if chars != count * TOKEN_CHARS:
        raise RuntimeError(f"{asker.name} lost tokens: {chars / TOKEN_CHARS:g} of {count}")
    return {"tokens_per_s": count / ((now_ns() - began) / 1e9)}


async def latency_us(asker: Asker, count: int, per_s: int) -> Sample:
    """From a token's making to its arrival."""
    found: list[float] = []
    async for text in asker.ask(count, per_s):
        now = now_ns()
        found += [(now - made) / 1000 for made in made_at(text)]
    if len(found) != count:
        raise RuntimeError(f"{asker.name} lost tokens: {len(found)} of {count}")
    return {"p50": percentile(found, 50), "p99": percentile(found, 99)}
