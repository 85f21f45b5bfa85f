"""Whether and when to dial one peer: a small state machine for each peer, as a table.

`words` names states, events and actions. `rules` holds the guards and actions, and the pauses with their reasons.
`table` says for each pair of state and event which rows may apply; the first row whose guard holds is taken. All of
it is pure: the caller (`reach`) hands in the clock and chance, and does what `step` returns.
"""

from __future__ import annotations

from dpc_jupyter.node.reaching.wanted.table import step
from dpc_jupyter.node.reaching.wanted.words import (
    DIALS,
    LINKED,
    PAUSES,
    Action,
    Closed,
    Connect,
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
    Silent,
    State,
    Tell,
    TellWaiting,
    Timer,
    Wanted,
)

__all__ = [
    "DIALS",
    "LINKED",
    "PAUSES",
    "Action",
    "Closed",
    "Connect",
    "Dial",
    "Disconnect",
    "Event",
    "Fail",
    "Failed",
    "Failure",
    "Keep",
    "Lost",
    "Now",
    "Opened",
    "Pause",
    "Silent",
    "State",
    "Tell",
    "TellWaiting",
    "Timer",
    "Wanted",
    "step",
]
