"""Liveness: tell a silent link from a dead one by counting beats. Pure."""

from __future__ import annotations

from enum import Enum, auto

PING_EVERY_S = 5.0
# A kernel may hold the interpreter lock in one long computation. A TCP peer that has ended is known far sooner.
SILENCE_S = 30.0
# After so many beats without a word, not even to a PING, a request that is open tries another link beside this one.
SILENT_BEATS = 2


class Verdict(Enum):
    """What a beat says of a link."""

    ALIVE = auto()
    SILENT = auto()
    DEAD = auto()


class Liveness:
    """The beats of one link.

    Beats are counted, not seconds: when this process itself stalls, only one beat is late, and what the peer sent
    meanwhile is read before the next.
    """

    def __init__(self) -> None:
        self._beats = 0

    @property
    def silent(self) -> bool:
        """Whether the peer has said nothing for some time, and not answered a PING."""
        return self._beats >= SILENT_BEATS

    def heard(self) -> None:
        """Take note that the peer said something."""
        self._beats = 0

    def beat(self, *, listening: bool) -> Verdict:
        """Count a beat and judge the link. While this node does not read it, a link is not silent."""
        self._beats += listening
        if self._beats > SILENCE_S / PING_EVERY_S:
            return Verdict.DEAD
        return Verdict.SILENT if listening and self._beats == SILENT_BEATS else Verdict.ALIVE
