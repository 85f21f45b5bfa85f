"""The table: for each state and event the rows that may apply, and the one function that reads it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dpc_jupyter.node.reaching.wanted import rules
from dpc_jupyter.node.reaching.wanted.rules import (
    Act,
    Guard,
    always,
    bypass_later,
    dial,
    fail,
    hopeless,
    hopeless_keep,
    idle,
    idle_keep,
    improve_later,
    keep,
    learn,
    reconnect_later,
    refused,
    resume_later,
    silent,
    soon,
    tell_refused,
    tell_unreachable,
    tell_waiting,
    waits,
    worse,
)
from dpc_jupyter.node.reaching.wanted.words import (
    Action,
    Closed,
    Connect,
    Dial,
    Disconnect,
    Event,
    Failed,
    Keep,
    Lost,
    Now,
    Opened,
    Silent,
    State,
    Timer,
    Wanted,
)


@dataclass(frozen=True, slots=True)
class Row:
    """If `guard` holds, the next state and what to do."""

    guard: Guard
    target: State
    actions: tuple[Act, ...] = ()


def _rows(*rows: tuple[Guard, State] | tuple[Guard, State, Act] | tuple[Guard, State, Act, Act]) -> tuple[Row, ...]:
    return tuple(Row(guard, target, tuple(actions)) for guard, target, *actions in rows)


S = State

# Rows that several states share.
_OPENED = _rows((worse, S.CONNECTED_WORSE, improve_later), (always, S.CONNECTED))
_LOST = _rows((waits, S.RESUME_PAUSE, soon), (keep, S.RECONNECT_PAUSE, soon), (always, S.UNWANTED))
_CLOSED = _rows((waits, S.RESUME_PAUSE, soon), (always, S.UNWANTED))
_DISCONNECT = _rows((always, S.UNWANTED, fail))
_DIAL_FOR_USER = _rows((always, S.ASKED, dial))
_BYPASS = _rows((always, S.BYPASSING, dial))

# A pair of state and event that has no row changes nothing.
TABLE: dict[State, dict[type[Event], tuple[Row, ...]]] = {
    S.UNWANTED: {
        Connect: _DIAL_FOR_USER,
        Keep: _rows((always, S.RECONNECT_PAUSE, soon)),
        Opened: _OPENED,
        Lost: _rows((waits, S.RESUME_PAUSE, soon)),
        Disconnect: _DISCONNECT,
    },
    S.ASKED: {
        Opened: _OPENED,
        Failed: _rows(
            (waits, S.RESUME_PAUSE, resume_later), (keep, S.RECONNECT_PAUSE, reconnect_later), (always, S.UNWANTED)
        ),
        Disconnect: _DISCONNECT,
    },
    S.RESUMING: {
        Opened: _OPENED,
        Failed: _rows(
            (idle_keep, S.RECONNECT_PAUSE, reconnect_later),
            (idle, S.UNWANTED),
            (hopeless_keep, S.RECONNECT_PAUSE, fail, soon),
            (hopeless, S.UNWANTED, fail),
            (always, S.RESUME_PAUSE, tell_waiting, resume_later),
        ),
        Disconnect: _DISCONNECT,
    },
    S.RESUME_PAUSE: {
        Connect: _DIAL_FOR_USER,
        Opened: _OPENED,
        Timer: _rows((waits, S.RESUMING, dial), (keep, S.RECONNECTING, dial), (always, S.UNWANTED)),
        Disconnect: _DISCONNECT,
    },
    S.RECONNECTING: {
        Opened: _OPENED,
        Lost: _rows((waits, S.RESUMING)),
        Failed: _rows(
            (waits, S.RESUME_PAUSE, resume_later),
            (refused, S.UNWANTED, tell_refused),
            (keep, S.RECONNECT_PAUSE, tell_unreachable, reconnect_later),
            (always, S.UNWANTED),
        ),
        Disconnect: _DISCONNECT,
    },
    S.RECONNECT_PAUSE: {
        Connect: _DIAL_FOR_USER,
        Opened: _OPENED,
        Lost: _rows((waits, S.RESUME_PAUSE, soon)),
        Timer: _rows((waits, S.RESUMING, dial), (always, S.RECONNECTING, dial)),
        Disconnect: _DISCONNECT,
    },
    S.CONNECTED: {
        Connect: _DIAL_FOR_USER,
        Opened: _OPENED,
        Lost: _LOST,
        Closed: _CLOSED,
        Silent: _BYPASS,
        Disconnect: _DISCONNECT,
    },
    S.CONNECTED_WORSE: {
        Connect: _DIAL_FOR_USER,
        Opened: _OPENED,
        Lost: _LOST,
        Closed: _CLOSED,
        Timer: _rows((always, S.IMPROVING, dial)),
        Silent: _BYPASS,
        Disconnect: _DISCONNECT,
    },
    S.IMPROVING: {
        Opened: _OPENED,
        Lost: _LOST,
        Closed: _CLOSED,
        Failed: _rows((silent, S.BYPASS_PAUSE, bypass_later), (always, S.CONNECTED_WORSE, improve_later)),
        Silent: _BYPASS,
        Disconnect: _DISCONNECT,
    },
    S.BYPASSING: {
        Opened: _OPENED,
        Lost: _rows((waits, S.RESUMING), (keep, S.RECONNECTING), (always, S.UNWANTED)),
        Closed: _CLOSED,
        Failed: _rows(
            (silent, S.BYPASS_PAUSE, bypass_later), (worse, S.CONNECTED_WORSE, improve_later), (always, S.CONNECTED)
        ),
        Disconnect: _DISCONNECT,
    },
    S.BYPASS_PAUSE: {
        Connect: _DIAL_FOR_USER,
        Opened: _OPENED,
        Lost: _LOST,
        Closed: _CLOSED,
        Timer: _rows((silent, S.BYPASSING, dial), (worse, S.CONNECTED_WORSE, improve_later), (always, S.CONNECTED)),
        Disconnect: _DISCONNECT,
    },
}
_SAME_REASON = (
    {S.RESUMING, S.RESUME_PAUSE},
    {S.RECONNECTING, S.RECONNECT_PAUSE},
    {S.IMPROVING, S.CONNECTED_WORSE},
    {S.BYPASSING, S.BYPASS_PAUSE},
)


def step(wanted: Wanted, event: Event, now: Now) -> tuple[Wanted, tuple[Action, ...]]:
    """Return what is remembered after an event, and what to do, in this order.

    A dial that is under way ends when the next state is none of `DIALS`, or when an action is another `Dial`; a timer
    ends when the next state is none of `PAUSES`.
    """
    wanted = learn(wanted, event, now)
    for row in TABLE[wanted.state].get(type(event), ()):
        if row.guard(wanted, event, now):
            break
    else:
        return wanted, ()
    before, wanted = wanted, replace(wanted, state=row.target)
    if not any({before.state, row.target} <= states for states in _SAME_REASON):
        wanted = replace(wanted, tries=0)
    actions = tuple(action for act in row.actions if (action := act(wanted, event, now)) is not None)
    if isinstance(event, Failed):
        wanted = replace(wanted, tries=wanted.tries + 1)
    if any(isinstance(action, Dial) and action.why is S.RESUMING and action.nearby for action in actions):
        wanted = replace(wanted, look_at_s=now.time_s + rules.LOOK_EVERY_S)
    if wanted.state is S.UNWANTED:
        wanted = Wanted(barren=wanted.barren)
    return wanted, actions
