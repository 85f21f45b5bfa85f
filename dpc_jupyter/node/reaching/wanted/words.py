"""The words of the machine: states, events, actions, and what it remembers of one peer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class State(Enum):
    """Why this node dials a peer, or does not."""

    UNWANTED = "no link, and nobody wants one"
    ASKED = "dials, because a user asked for it"
    RESUMING = "dials, because requests wait"
    RESUME_PAUSE = "requests wait for the next dial"
    RECONNECTING = "dials a link that nobody waits for"
    RECONNECT_PAUSE = "waits to dial it again"
    CONNECTED = "linked by the best way"
    CONNECTED_WORSE = "linked, and will look for a better way"
    IMPROVING = "linked, and dials better ways"
    BYPASSING = "linked, but the link is silent: dials another"
    BYPASS_PAUSE = "linked, silent, and will dial again"


DIALS = frozenset({State.ASKED, State.RESUMING, State.RECONNECTING, State.IMPROVING, State.BYPASSING})
PAUSES = frozenset({State.RESUME_PAUSE, State.RECONNECT_PAUSE, State.CONNECTED_WORSE, State.BYPASS_PAUSE})
LINKED = frozenset({State.CONNECTED, State.CONNECTED_WORSE, State.IMPROVING, State.BYPASSING, State.BYPASS_PAUSE})


class Failure(Enum):
    """How a dial failed."""

    SILENCE = auto()  # a network that is down looks the same
    NOBODY = auto()  # the machine says that no node listens there
    NO_WAY = auto()  # no way is known
    ANOTHER = auto()  # another node answered
    REFUSED = auto()  # the node answered, and refused the link


@dataclass(frozen=True, slots=True)
class Connect:
    """A user, or a cell, wants the link now."""


@dataclass(frozen=True, slots=True)
class Keep:
    """The link is wanted from now on, whenever it is possible."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A dial ended with a link; `worse` if there may be a better way."""

    worse: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """The last link to the peer broke, or its node ended.

    Attributes
    ----------
    reason : str
        For the sentence of each request that fails with it.
    keep : bool
        This node dialled the link, and dials it again.
    carried : bool
        Another peer carried the link. While that peer is unreachable too, a failed dial says nothing of this one.
    brought : bool
        It brought a part of an answer, a request, or a stream.
    lasted_s : float
        How long it was open.
    """

    reason: str
    keep: bool
    carried: bool
    brought: bool
    lasted_s: float


@dataclass(frozen=True, slots=True)
class Closed:
    """One side ended the last link on purpose."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A dial ended without a link."""

    failure: Failure
    sentence: str


@dataclass(frozen=True, slots=True)
class Timer:
    """The pause is over."""


@dataclass(frozen=True, slots=True)
class Silent:
    """The link is open and says nothing, and a request is open on it."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The user wants no link any more."""


Event = Connect | Keep | Opened | Lost | Closed | Failed | Timer | Silent | Disconnect
EVENTS: tuple[type[Event], ...] = (Connect, Keep, Opened, Lost, Closed, Failed, Timer, Silent, Disconnect)


@dataclass(frozen=True, slots=True)
class Dial:
    """Dial now; a dial that is under way ends first. `nearby` if the local network is searched, too."""

    why: State
    nearby: bool = True


@dataclass(frozen=True, slots=True)
class Pause:
    """Send `Timer` after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Fail:
    """Fail the requests that wait, for this reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class TellWaiting:
    """Tell the requests that wait why the last dial failed."""

    sentence: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the user that the peer is unreachable, or, if `final`, that it is not dialled again."""

    sentence: str
    final: bool


Action = Dial | Pause | Fail | TellWaiting | Tell


@dataclass(frozen=True, slots=True)
class Now:
    """What is true at the moment of an event.

    Attributes
    ----------
    time_s : float
        Monotonic seconds.
    chance : float
        A random number from 0 to 1, which spreads the dials of many nodes.
    waits : bool
        A request waits for the link to come back.
    silent : bool
        The link is open and silent, and a request is open on it.
    """

    time_s: float
    chance: float
    waits: bool
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """What this node remembers of its wish for one peer.

    Attributes
    ----------
    keep : bool
        The link is dialled again when it breaks.
    worse : bool
        There may be a better way than the present one.
    tries : int
        Dials that have failed in a row, for the present reason.
    barren : int
        Links in a row that brought nothing and ended early.
    since_s, look_at_s : float
        When the link was lost, and when the local network is to be searched.
    reason : str
        Why the link was lost.
    carried : bool
        As of `Lost`.
    """

    state: State = State.UNWANTED
    keep: bool = False
    worse: bool = False
    tries: int = 0
    barren: int = 0
    since_s: float = 0.0
    look_at_s: float = 0.0
    reason: str = ""
    carried: bool = False
