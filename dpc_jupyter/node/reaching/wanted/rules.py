"""The guards and actions that the table names. Pure: clock and chance are handed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dpc_jupyter.node.reaching.wanted.words import (
    Action,
    Closed,
    Dial,
    Disconnect,
    Event,
    Fail,
    Failed,
    Failure,
    Keep,
    Lost,
    Now,
    Opened,
    Pause,
    State,
    Tell,
    TellWaiting,
    Wanted,
)
from dpc_jupyter.protocol.messages import RESUME_WITHIN_S

# A network that is back is found within seconds; a host that has ended is not dialled ten times a second.
RESUME_FIRST_S, RESUME_LAST_S = 0.1, 0.5
# A search in the local network takes longer than a dial, and a dial finds most hosts again.
LOOK_FIRST_S, LOOK_EVERY_S = 3.0, 10.0
# Nobody waits for this link: its node is restarted within seconds, or off for the night.
RECONNECT_FIRST_S, RECONNECT_LAST_S = 1.0, 120.0
# A laptop comes home, or a port is opened. Most better ways are there at once or never.
BETTER_FIRST_S, BETTER_LAST_S = 5.0, 600.0
# A peer must not make this node spin: after so many links in a row that bring nothing and end early, the next dial
# waits, and each further one twice as long. A link that brings something ends the count: resuming is never slowed down.
BARREN_FREE, BARREN_LAST_S, STEADY_S = 4, 30.0, 30.0
# A host keeps an answer no longer than this for an asker that has lost its link.
COME_BACK_S = RESUME_WITHIN_S

Guard = Callable[[Wanted, Event, Now], bool]
Act = Callable[[Wanted, Event, Now], Action | None]


def always(_: Wanted, __: Event, ___: Now) -> bool:
    """Hold in every case."""
    return True


def waits(_: Wanted, __: Event, now: Now) -> bool:
    """Hold while a request waits."""
    return now.waits


def keep(wanted: Wanted, _: Event, __: Now) -> bool:
    """Hold if the link is kept."""
    return wanted.keep


def idle_keep(wanted: Wanted, _: Event, now: Now) -> bool:
    """Hold if the link is kept and no request waits."""
    return wanted.keep and not now.waits


def idle(_: Wanted, __: Event, now: Now) -> bool:
    """Hold if no request waits."""
    return not now.waits


def worse(wanted: Wanted, _: Event, __: Now) -> bool:
    """Hold if there may be a better way."""
    return wanted.worse


def silent(_: Wanted, __: Event, now: Now) -> bool:
    """Hold while the link is silent."""
    return now.silent


def hopeless(wanted: Wanted, event: Event, now: Now) -> bool:
    """Hold if the answer cannot come back: its node has ended, or it is too late."""
    assert isinstance(event, Failed)
    lost_for_good = event.failure in (Failure.ANOTHER, Failure.REFUSED)
    unreachable = event.failure in (Failure.NOBODY, Failure.NO_WAY) and not wanted.carried
    return lost_for_good or unreachable or now.time_s - wanted.since_s >= COME_BACK_S


def hopeless_keep(wanted: Wanted, event: Event, now: Now) -> bool:
    """Hold if the answer cannot come back, and the link is kept."""
    return wanted.keep and hopeless(wanted, event, now)


def refused(_: Wanted, event: Event, __: Now) -> bool:
    """Hold if the peer refused the link."""
    assert isinstance(event, Failed)
    return event.failure is Failure.REFUSED


def dial(wanted: Wanted, _: Event, now: Now) -> Action:
    """Dial, and search the local network when it is time for it."""
    return Dial(wanted.state, wanted.state is not State.RESUMING or now.time_s > wanted.look_at_s)


def soon(wanted: Wanted, _: Event, __: Now) -> Action:
    """Pause for no time, or for longer if the last links brought nothing."""
    return Pause(_barren_s(wanted))


def resume_later(wanted: Wanted, _: Event, now: Now) -> Action:
    """Pause before the next dial that requests wait for."""
    spread_s = _spread(0.0, RESUME_FIRST_S, RESUME_LAST_S, wanted.tries, now)
    return Pause(max(spread_s, _barren_s(wanted)))


def reconnect_later(wanted: Wanted, _: Event, now: Now) -> Action:
    """Pause before the next dial that nobody waits for."""
    spread_s = _spread(RECONNECT_FIRST_S, RECONNECT_FIRST_S, RECONNECT_LAST_S, wanted.tries, now)
    return Pause(max(spread_s, _barren_s(wanted)))


def improve_later(wanted: Wanted, _: Event, now: Now) -> Action:
    """Pause before better ways are dialled."""
    return Pause(_spread(BETTER_FIRST_S, BETTER_FIRST_S, BETTER_LAST_S, wanted.tries, now))


def bypass_later(_: Wanted, __: Event, ___: Now) -> Action:
    """Pause before another link is dialled beside a silent one."""
    return Pause(RESUME_LAST_S)


def fail(wanted: Wanted, event: Event, now: Now) -> Action | None:
    """Fail what waits."""
    if not now.waits:
        return None
    if isinstance(event, Disconnect):
        return Fail("disconnected by its user")
    ended = isinstance(event, Failed) and event.failure is Failure.NOBODY and not wanted.carried
    return Fail("its node has ended" if ended else wanted.reason)


def tell_waiting(_: Wanted, event: Event, __: Now) -> Action:
    """Tell what waits why the last dial failed."""
    assert isinstance(event, Failed)
    return TellWaiting(event.sentence)


def tell_unreachable(wanted: Wanted, event: Event, _: Now) -> Action | None:
    """Tell the user, once."""
    assert isinstance(event, Failed)
    return Tell(event.sentence, final=False) if wanted.tries == 0 else None


def tell_refused(_: Wanted, event: Event, __: Now) -> Action:
    """Tell the user that the peer is not dialled again."""
    assert isinstance(event, Failed)
    return Tell(event.sentence, final=True)


def _spread(least_s: float, first_s: float, last_s: float, tries: int, now: Now) -> float:
    """Return a random pause between `least_s` and a bound that doubles with each try (AWS: full jitter)."""
    most_s = min(first_s * 2.0 ** min(tries, 32), last_s)
    return min(least_s, most_s) + now.chance * max(most_s - least_s, 0.0)


def _barren_s(wanted: Wanted) -> float:
    often = wanted.barren - BARREN_FREE
    return min(0.1 * 2.0 ** min(often, 10), BARREN_LAST_S) if often > 0 else 0.0


def learn(wanted: Wanted, event: Event, now: Now) -> Wanted:
    """Return what an event adds to the memory, whatever the state."""
    match event:
        case Keep():
            return replace(wanted, keep=True)
        case Opened():
            return replace(wanted, worse=event.worse)
        case Lost():
            barren = 0 if event.brought or event.lasted_s >= STEADY_S else wanted.barren + 1
            return replace(
                wanted,
                keep=wanted.keep or event.keep,
                barren=barren,
                since_s=now.time_s,
                look_at_s=now.time_s + LOOK_FIRST_S,
                reason=event.reason,
                carried=event.carried,
            )
        case Closed():
            return replace(wanted, keep=False)
        case _:
            return wanted
