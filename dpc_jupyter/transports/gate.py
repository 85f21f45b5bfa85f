"""Who may be half open: a bound on what peers cost before they have proved who they are."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

# From accept to a finished HELLO; OpenSSH gives 120 s for a password, a key needs none.
HANDSHAKE_S = 5.0


class HalfOpen:
    """A connection between its first step and a finished HELLO. `done` frees its place; after its time it is cut.

    Attributes
    ----------
    source : str
        Who holds this place: an address, or what a hub calls the sender.
    """

    def __init__(self, gate: Gate, cut: Callable[[], object], source: str, time_s: float) -> None:
        self._gate = gate
        self._cut = cut
        self.source = source
        self._timer = asyncio.get_running_loop().call_later(time_s, self.drop)

    def done(self) -> None:
        """The peer is authenticated, or gone. More than once does no harm."""
        self._timer.cancel()
        self._gate.leave(self)

    def drop(self) -> None:
        """Cut it off in whatever step it is."""
        self.done()
        self._cut()


class Gate:
    """Bounds who is half open. The newest gets in, and the oldest of the source that holds the most gives way.

    Parameters
    ----------
    limit : int
        Places in all.
    each : int, optional
        Places of one source; its own oldest gives way to its newest. Default: all.
    """

    def __init__(self, limit: int, each: int | None = None) -> None:
        self._limit = limit
        self._each = each or limit
        self._waiting: dict[HalfOpen, None] = {}
        self._by_source: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, cut: Callable[[], object], source: str, time_s: float) -> HalfOpen:
        """Take a place for `time_s`; `cut` ends whoever holds it when the time is over or the place is needed."""
        if self._by_source[source] >= self._each:
            self._oldest_of(source).drop()
        elif len(self._waiting) >= self._limit:
            self._oldest_of(self._by_source.most_common(1)[0][0]).drop()
        entered = HalfOpen(self, cut, source, time_s)
        self._waiting[entered] = None
        self._by_source[source] += 1
        return entered

    def leave(self, half_open: HalfOpen) -> None:
        """From a `HalfOpen`."""
        if half_open in self._waiting:
            del self._waiting[half_open]
            self._by_source -= Counter({half_open.source: 1})

    def _oldest_of(self, source: str) -> HalfOpen:
        return next(waiting for waiting in self._waiting if waiting.source == source)
