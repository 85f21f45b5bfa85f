"""The ways to a peer, tried as RFC 8305 (happy eyeballs) tries addresses: staggered, and the first that works wins."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from dpc_jupyter.errors import AnotherNode, ConnectError, DpcError, HandshakeError, NobodyListens, NotAnnounced
from dpc_jupyter.node.links import Peer

# RFC 8305's connection attempt delay is 0.25 s, and 0.1 s at least: two dead ways shall cost less than half a second.
STAGGER_S = 0.2
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to a peer: what to call it, how it is tried, and the `Peer.rank` of a link by it."""

    name: str
    dial: Callable[[], Awaitable[Peer]]
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of one way: `error` is "" for the one that won, and for those that were not needed."""

    way: str
    won: bool = False
    error: str = ""


async def climb(ways: Sequence[Way], stagger_s: float = STAGGER_S) -> tuple[Peer, tuple[Attempt, ...]]:
    """Link to a peer by the first of `ways`, in order of preference, that works.

    A way starts `stagger_s` after the one before it, or as soon as all that were started have failed.

    Returns
    -------
    Peer
    tuple of Attempt
        One for each way, in the order of `ways`.

    Raises
    ------
    HandshakeError
        No way worked, and by each of them somebody else, or a refusal, answered.
    ConnectError
        No way worked; the sentence tells each. `NobodyListens` where each one's machine says so.
    """
    tries: list[asyncio.Task[Peer]] = []
    try:
        for way in ways:
            tries.append(asyncio.ensure_future(_dial(way)))
            if (winner := await _winner(tries, stagger_s)) is not None:
                break
        else:
            winner = await _winner(tries, None)
    finally:
        for attempt in tries:
            attempt.cancel()
        await asyncio.gather(*tries, return_exceptions=True)
    attempts = tuple(_told(way, attempt, attempt is winner) for way, attempt in zip(ways, tries, strict=False))
    attempts += tuple(Attempt(way.name) for way in ways[len(tries) :])
    if winner is not None:
        return winner.result(), attempts
    errors = [error for attempt in tries if (error := attempt.exception()) is not None]
    if len(errors) == 1:
        raise errors[0]
    told = " ".join(f"{attempt.way}: {attempt.error}" for attempt in attempts)
    telling = [error for error in errors if not isinstance(error, NotAnnounced)]
    kinds: tuple[type[DpcError], ...] = (NobodyListens, AnotherNode, HandshakeError)
    # Whoever lies at one way must not speak for the others.
    kind = next((kind for kind in kinds if telling and all(isinstance(e, kind) for e in telling)), ConnectError)
    raise kind(f"No way was found. {told}")


async def _dial(way: Way) -> Peer:
    try:
        return await way.dial()
    except DpcError:
        raise
    except Exception as error:  # a fault at one way must not end the others
        _log.exception("%s failed", way.name)
        raise ConnectError(f"It failed: {type(error).__name__}; the log has more.") from error


async def _winner(tries: Sequence[asyncio.Task[Peer]], within_s: float | None) -> asyncio.Task[Peer] | None:
    """The first that has worked; None once all have failed, or the time is over."""
    until = None if within_s is None else asyncio.get_running_loop().time() + within_s
    while True:
        if (won := next((each for each in tries if _worked(each)), None)) is not None:
            return won
        open_ones = [each for each in tries if not each.done()]
        if not open_ones:
            return None
        left_s = None if until is None else until - asyncio.get_running_loop().time()
        if left_s is not None and left_s <= 0:
            return None
        await asyncio.wait(open_ones, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)


def _worked(attempt: asyncio.Task[Peer]) -> bool:
    return attempt.done() and attempt.exception() is None


def _told(way: Way, attempt: asyncio.Task[Peer], won: bool) -> Attempt:
    failed = attempt.done() and not attempt.cancelled() and attempt.exception() is not None
    return Attempt(way.name, won, str(attempt.exception()) if failed else "")
