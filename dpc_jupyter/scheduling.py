"""Who runs next, and how fast a node may talk: pure state, with the clock handed in.

Every backend has a number of slots. Peers that wait for one take turns, one request each (round robin by node id,
which is a proven key, so opening more sessions wins nothing); within a peer's own line interactive goes before batch.
A peer at its own limit steps out of the ring until one of its requests ends, so it never blocks another.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Literal, Protocol, TypeAlias

WINDOW_S = 60.0
QUEUE_LIMIT = 256  # waiting in all; a longer queue only promises what nobody will wait for (Ollama keeps 512)
IDLE_NODES_LIMIT = 4096  # remembered for their last minute; only nodes of the access file ever get here
_NEWEST_WEIGHT = 0.2  # of one service time in the mean: about the last ten count

Priority: TypeAlias = Literal["interactive", "batch"]


class PeerLimits(Protocol):
    """What one peer may take at most; `firewall.Limits` is one."""

    @property
    def requests_per_minute(self) -> int: ...  # noqa: D102
    @property
    def tokens_per_day(self) -> int | None: ...  # noqa: D102
    @property
    def running(self) -> int: ...  # noqa: D102
    @property
    def queued(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Started:
    """The request has a slot now."""


@dataclass(frozen=True, slots=True)
class Queued:
    """The request waits: `position` counts from 1; `eta_s` is a guess, None before any request has ended."""

    position: int
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The request is not taken: `reason` names the limit and when to try again, `retry_after_s` where that is known."""

    reason: str
    retry_after_s: float | None = None


@dataclass(slots=True)
class _Line:
    interactive: OrderedDict[Hashable, None] = field(default_factory=OrderedDict)
    batch: OrderedDict[Hashable, None] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self.interactive) + len(self.batch)

    def __iter__(self) -> Iterator[Hashable]:
        yield from self.interactive
        yield from self.batch


@dataclass(slots=True)
class _Backend:
    slots: int
    running: int = 0
    mean_s: float | None = None
    lines: dict[str, _Line] = field(default_factory=dict)
    ring: OrderedDict[str, None] = field(default_factory=OrderedDict)  # nodes of `lines` that may start one more

    def turns(self) -> list[str]:
        """Order the waiting nodes: the ring, then those at their own limit."""
        return [*self.ring, *(node_id for node_id in self.lines if node_id not in self.ring)]

    def queued(self, place: int) -> Queued:
        return Queued(place, None if self.mean_s is None else self.mean_s * place / self.slots)

    def positions(self) -> dict[Hashable, Queued]:
        rounds = zip_longest(*(self.lines[node_id] for node_id in self.turns()))
        keys = (key for turn in rounds for key in turn if key is not None)
        return {key: self.queued(place) for place, key in enumerate(keys, 1)}

    def position(self, node_id: str, index: int) -> Queued:
        """Say for one node's `index`-th (from 0) what `positions` says, without walking the whole queue."""
        turns = self.turns()
        own = turns.index(node_id)
        others = (min(len(self.lines[each]), index + (turn < own)) for turn, each in enumerate(turns) if turn != own)
        return self.queued(1 + index + sum(others))


@dataclass(slots=True)
class _Node:
    limits: PeerLimits
    running: int = 0
    waiting: int = 0
    admitted: deque[float] = field(default_factory=deque)  # moments in the last WINDOW_S, at most the limit
    requests: dict[Hashable, None] = field(default_factory=dict)

    def may_start(self) -> bool:
        return self.running < self.limits.running


@dataclass(slots=True)
class _Request:
    node_id: str
    backend: str
    priority: Priority
    started_s: float | None = None


class FrameBudget:
    """How fast each node may send frames, over all of its links: a token bucket by node id.

    Parameters
    ----------
    clock : callable
        Seconds, monotonic; only differences count.
    per_s : float
        Frames a second that may go on for ever.
    at_once : float
        Frames that a node which was quiet may send at once.
    """

    def __init__(self, clock: Callable[[], float], per_s: float, at_once: float) -> None:
        self._clock = clock
        self._per_s = per_s
        self._at_once = at_once
        self._full_at: dict[str, float] = {}  # when the bucket is full again; the node that spent last is the last

    def spend(self, node_id: str, frames: float = 1.0) -> float:
        """Take frames out of a node's bucket, also more than it holds; returns the seconds until none is owed."""
        now = self._clock()
        full_at = max(self._full_at.pop(node_id, now), now) + frames / self._per_s
        while self._full_at and self._full_at[first := next(iter(self._full_at))] <= now:
            del self._full_at[first]
        self._full_at[node_id] = full_at
        return max(0.0, full_at - now - self._at_once / self._per_s)


class FairQueue:
    """Slots of every backend, and who waits for them. Not thread-safe: it belongs to one event loop.

    Parameters
    ----------
    clock : callable
        Seconds, monotonic; only differences count.

    Notes
    -----
    A key names a request for as long as it waits or runs; it may be any hashable value but None. Peers choose
    request ids, so a key holds the session too.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._backends: dict[str, _Backend] = {}
        self._nodes: dict[str, _Node] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._requests: dict[Hashable, _Request] = {}
        self._waiting = 0

    def submit(
        self,
        key: Hashable,
        node_id: str,
        backend: str,
        slots: int,
        limits: PeerLimits,
        tokens_today: int,
        priority: Priority = "interactive",
    ) -> Started | Queued | Refused:
        """Ask for a slot of `backend`.

        Parameters
        ----------
        slots : int
            How many requests `backend` runs at once, at least 1. A new number holds from the next start on.
        limits : PeerLimits
            Of this peer, as they are now.
        tokens_today : int
            What the peer used since 00:00 UTC.
        """
        now = self._clock()
        self._forget_idle(now)
        node = self._nodes.get(node_id) or _Node(limits)
        node.limits = limits
        lane = self._backends.get(backend)
        if lane is None:
            lane = self._backends[backend] = _Backend(slots)
        lane.slots = slots
        starts = not lane.ring and lane.running < slots and node.may_start()
        if refused := self._refusal(key, node, lane, tokens_today, now, starts):
            return refused
        self._nodes[node_id] = node
        self._idle.pop(node_id, None)
        node.admitted.append(now)
        node.requests[key] = None
        request = self._requests[key] = _Request(node_id, backend, priority)
        if starts:
            self._start(request, node, lane, now)
            return Started()
        line = lane.lines.setdefault(node_id, _Line())
        getattr(line, priority)[key] = None
        index = len(line.interactive if priority == "interactive" else line) - 1
        node.waiting += 1
        self._waiting += 1
        self._enter_or_leave_rings(node_id, node)
        return lane.position(node_id, index)

    def finish(self, key: Hashable) -> list[Hashable]:
        """Give a slot back; the time that it was held counts for the guesses. Returns the keys that start now."""
        request = self._requests.get(key)
        if request is not None and request.started_s is not None:
            lane, held_s = self._backends[request.backend], self._clock() - request.started_s
            lane.mean_s = held_s if lane.mean_s is None else lane.mean_s + _NEWEST_WEIGHT * (held_s - lane.mean_s)
        return self.cancel(key)

    def cancel(self, key: Hashable) -> list[Hashable]:
        """Take a request out, waiting or running; unknown keys are ignored. Returns the keys that start now."""
        request = self._requests.pop(key, None)
        if request is None:
            return []
        node, lane = self._nodes[request.node_id], self._backends[request.backend]
        del node.requests[key]
        if request.started_s is None:
            self._leave_line(key, request, node, lane)
        else:
            node.running -= 1
            lane.running -= 1
        self._enter_or_leave_rings(request.node_id, node)
        if not node.requests:
            self._idle[request.node_id] = None
        return self._fill()

    def drop_node(self, node_id: str) -> list[Hashable]:
        """Take out everything of one peer. Returns the keys of other peers that start now."""
        node = self._nodes.get(node_id)
        mine = list(node.requests) if node else []
        # Waiting ones first: none of them may start in a slot that this very call frees.
        mine.sort(key=lambda key: self._requests[key].started_s is not None)
        return [started for key in mine for started in self.cancel(key)]

    def relimit(self, node_id: str, limits: PeerLimits) -> list[Hashable]:
        """Apply edited limits to what already waits; nothing that runs is stopped. Returns the keys that start now."""
        if node := self._nodes.get(node_id):
            node.limits = limits
            self._enter_or_leave_rings(node_id, node)
        return self._fill()

    def position(self, key: Hashable) -> Queued | None:
        """Where a waiting request stands; None when it runs or is unknown."""
        request = self._requests.get(key)
        if request is None or request.started_s is not None:
            return None
        return self._backends[request.backend].positions()[key]

    def positions(self) -> dict[Hashable, Queued]:
        """Where every waiting request stands."""
        return {key: queued for lane in self._backends.values() for key, queued in lane.positions().items()}

    def _refusal(
        self, key: Hashable, node: _Node, lane: _Backend, tokens_today: int, now: float, starts: bool
    ) -> Refused | None:
        limits, window = node.limits, node.admitted
        if key in self._requests:
            return Refused("A request with this id is running or waiting already; send a new one under a new id")
        while window and window[0] <= now - WINDOW_S:
            window.popleft()
        if len(window) >= limits.requests_per_minute:
            wait_s = window[-limits.requests_per_minute] + WINDOW_S - now
            limit = f"{limits.requests_per_minute:,} requests a minute"
            return Refused(f"Busy: your limit at this host is {limit}, try again in {max(1, round(wait_s))} s", wait_s)
        if limits.tokens_per_day is not None and tokens_today >= limits.tokens_per_day:
            quota = f"daily quota of {limits.tokens_per_day:,} tokens"
            return Refused(f"Busy: your {quota} at this host is used; it resets at 00:00 UTC")
        if starts:
            return None
        if node.waiting >= limits.queued:
            taken = f"{limits.running:,} running and {limits.queued:,} waiting requests"
            if node.may_start():
                taken = f"{limits.queued:,} waiting requests, while others hold every slot,"
            return Refused(f"Busy: your limit of {taken} at this host is reached; try again when one has finished")
        if self._waiting >= QUEUE_LIMIT:
            return Refused(f"Busy: this host's queue of {QUEUE_LIMIT} requests is full; try again in a minute")
        return None

    def _start(self, request: _Request, node: _Node, lane: _Backend, now: float) -> None:
        request.started_s = now
        node.running += 1
        lane.running += 1
        if not node.may_start():
            self._enter_or_leave_rings(request.node_id, node)

    def _leave_line(self, key: Hashable, request: _Request, node: _Node, lane: _Backend) -> None:
        line = lane.lines[request.node_id]
        del getattr(line, request.priority)[key]
        node.waiting -= 1
        self._waiting -= 1
        if not line:
            del lane.lines[request.node_id]
            lane.ring.pop(request.node_id, None)

    def _enter_or_leave_rings(self, node_id: str, node: _Node) -> None:
        for lane in self._backends.values():
            if node_id in lane.lines and node.may_start():
                lane.ring.setdefault(node_id)
            else:
                lane.ring.pop(node_id, None)

    def _fill(self) -> list[Hashable]:
        started: list[Hashable] = []
        for lane in self._backends.values():
            while lane.ring and lane.running < lane.slots:
                node_id = next(iter(lane.ring))
                lane.ring.move_to_end(node_id)
                key = next(iter(lane.lines[node_id]))
                request, node = self._requests[key], self._nodes[node_id]
                self._leave_line(key, request, node, lane)
                self._start(request, node, lane, self._clock())
                started.append(key)
        return started

    def _forget_idle(self, now: float) -> None:
        """Drop idle nodes whose last minute is over; two a call outpace the one that a call can add."""
        for node_id in [node_id for node_id, _ in zip(self._idle, range(2), strict=False)]:
            window = self._nodes[node_id].admitted
            if len(self._idle) > IDLE_NODES_LIMIT or not window or window[-1] <= now - WINDOW_S:
                del self._idle[node_id], self._nodes[node_id]
