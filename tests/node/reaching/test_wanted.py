"""The machine of a link: every pair of state and event, the pauses, and random walks."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dpc_jupyter.node.reaching.wanted import (
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
    rules,
    step,
)
from dpc_jupyter.node.reaching.wanted.table import TABLE
from dpc_jupyter.node.reaching.wanted.words import EVENTS

S = State
IDLE, WAITS = Now(1000.0, 0.5, waits=False), Now(1000.0, 0.5, waits=True)
LOST = Lost("the cable", keep=True, carried=False, brought=True, lasted_s=1.0)
SILENCE = Failed(Failure.SILENCE, "Network is unreachable.")
EXAMPLES: dict[type[Event], Event] = {
    Connect: Connect(),
    Keep: Keep(),
    Opened: Opened(worse=False),
    Lost: replace(LOST, keep=False),
    Closed: Closed(),
    Failed: SILENCE,
    Timer: Timer(),
    Silent: Silent(),
    Disconnect: Disconnect(),
}
# What follows in each state, in the order of EVENTS: "." for no change.
# The order is: connect, keep, opened, lost, closed, failed, timer, silent, disconnect.
NOBODY_WAITS = {
    S.UNWANTED: "asked reconnect_pause connected . . . . . unwanted",
    S.ASKED: ". . connected . . unwanted . . unwanted",
    S.RESUMING: ". . connected . . unwanted . . unwanted",
    S.RESUME_PAUSE: "asked . connected . . . unwanted . unwanted",
    S.RECONNECTING: ". . connected . . unwanted . . unwanted",
    S.RECONNECT_PAUSE: "asked . connected . . . reconnecting . unwanted",
    S.CONNECTED: "asked . connected unwanted unwanted . . bypassing unwanted",
    S.CONNECTED_WORSE: "asked . connected unwanted unwanted . improving bypassing unwanted",
    S.IMPROVING: ". . connected unwanted unwanted connected_worse . bypassing unwanted",
    S.BYPASSING: ". . connected unwanted unwanted connected . . unwanted",
    S.BYPASS_PAUSE: "asked . connected unwanted unwanted . connected . unwanted",
}
A_REQUEST_WAITS = {
    S.UNWANTED: "asked reconnect_pause connected resume_pause . . . . unwanted",
    S.ASKED: ". . connected . . resume_pause . . unwanted",
    S.RESUMING: ". . connected . . resume_pause . . unwanted",
    S.RESUME_PAUSE: "asked . connected . . . resuming . unwanted",
    S.RECONNECTING: ". . connected resuming . resume_pause . . unwanted",
    S.RECONNECT_PAUSE: "asked . connected resume_pause . . resuming . unwanted",
    S.CONNECTED: "asked . connected resume_pause resume_pause . . bypassing unwanted",
    S.CONNECTED_WORSE: "asked . connected resume_pause resume_pause . improving bypassing unwanted",
    S.IMPROVING: ". . connected resume_pause resume_pause connected_worse . bypassing unwanted",
    S.BYPASSING: ". . connected resuming resume_pause connected . . unwanted",
    S.BYPASS_PAUSE: "asked . connected resume_pause resume_pause . connected . unwanted",
}
IT_IS_KEPT = NOBODY_WAITS | {
    S.ASKED: ". . connected . . reconnect_pause . . unwanted",
    S.RESUMING: ". . connected . . reconnect_pause . . unwanted",
    S.RESUME_PAUSE: "asked . connected . . . reconnecting . unwanted",
    S.RECONNECTING: ". . connected . . reconnect_pause . . unwanted",
    S.CONNECTED: "asked . connected reconnect_pause unwanted . . bypassing unwanted",
    S.CONNECTED_WORSE: "asked . connected reconnect_pause unwanted . improving bypassing unwanted",
    S.IMPROVING: ". . connected reconnect_pause unwanted connected_worse . bypassing unwanted",
    S.BYPASSING: ". . connected reconnecting unwanted connected . . unwanted",
    S.BYPASS_PAUSE: "asked . connected reconnect_pause unwanted . connected . unwanted",
}


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
@pytest.mark.parametrize(
    ("expected", "keep", "now"),
    [(NOBODY_WAITS, False, IDLE), (A_REQUEST_WAITS, False, WAITS), (IT_IS_KEPT, True, IDLE)],
    ids=["nobody waits", "a request waits", "it is kept"],
)
def test_each_event_in_each_state_leads_where_the_plan_says(
    expected: dict[State, str], keep: bool, now: Now, state: State, event: type[Event]
) -> None:
    word = expected[state].split()[EVENTS.index(event)]
    target = state if word == "." else State[word.upper()]
    found, actions = step(Wanted(state, keep=keep, since_s=now.time_s), EXAMPLES[event], now)
    assert found.state is target
    assert word != "." or not actions
    assert any(isinstance(each, Pause) for each in actions) == (word != "." and target in PAUSES)


def test_the_table_names_every_state_and_knows_every_event() -> None:
    assert set(TABLE) == set(State)
    assert {event for rows in TABLE.values() for event in rows} == set(EVENTS)
    assert not DIALS & PAUSES and {S.IMPROVING, S.BYPASSING} == LINKED & DIALS


def test_the_page_shows_the_machine_as_it_is() -> None:
    drawn = _script("docs/link_machine.py")
    assert drawn.PAGE.read_text() == drawn.page_with_diagram(), "run: python docs/link_machine.py --write"


def _script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("link_machine", Path(__file__).parents[3] / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_answer_that_cannot_come_back_fails_with_its_reason() -> None:
    wanted, _ = step(Wanted(S.CONNECTED), LOST, WAITS)
    wanted, _ = step(wanted, Timer(), WAITS)
    ended, actions = step(wanted, Failed(Failure.NOBODY, "Nothing listens."), WAITS)
    assert actions[0] == Fail("its node has ended") and ended.state is S.RECONNECT_PAUSE
    assert step(wanted, Failed(Failure.NO_WAY, "No way is known."), WAITS)[1][0] == Fail("the cable")
    _, actions = step(wanted, Failed(Failure.ANOTHER, "Another node."), WAITS)
    assert actions[0] == Fail("the cable")
    late = replace(WAITS, time_s=WAITS.time_s + rules.COME_BACK_S)
    assert step(wanted, SILENCE, late)[1][0] == Fail("the cable")
    assert step(wanted, SILENCE, WAITS)[1][0] == TellWaiting("Network is unreachable.")


def test_behind_a_peer_that_carried_the_link_nobody_is_no_end_of_the_host() -> None:
    wanted, _ = step(Wanted(S.CONNECTED), replace(LOST, carried=True), WAITS)
    wanted, _ = step(wanted, Timer(), WAITS)
    assert step(wanted, Failed(Failure.NOBODY, "Nothing listens."), WAITS)[0].state is S.RESUME_PAUSE


def test_a_peer_that_refuses_the_link_is_told_of_and_not_dialled_again() -> None:
    kept = Wanted(S.RECONNECTING, keep=True)
    refused, actions = step(kept, Failed(Failure.REFUSED, "No place."), IDLE)
    assert refused == Wanted() and actions == (Tell("No place.", final=True),)
    other, _ = step(kept, Failed(Failure.ANOTHER, "Another node."), IDLE)
    assert other.state is S.RECONNECT_PAUSE


def test_that_a_peer_is_unreachable_is_told_once() -> None:
    wanted, told = Wanted(S.RECONNECTING, keep=True), list[Action]()
    for _ in range(5):
        wanted, actions = step(wanted, SILENCE, IDLE)
        told += [each for each in actions if isinstance(each, Tell)]
        wanted, _ = step(wanted, Timer(), IDLE)
    assert told == [Tell("Network is unreachable.", final=False)]


def test_pauses_grow_with_each_failure_up_to_a_bound() -> None:
    wanted, pauses = Wanted(S.RECONNECTING, keep=True), list[float]()
    for _ in range(20):
        wanted, actions = step(wanted, SILENCE, replace(IDLE, chance=1.0))
        pauses.append(actions[-1].seconds)  # type: ignore[union-attr]
        wanted, _ = step(wanted, Timer(), IDLE)
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0] and pauses[-1] == rules.RECONNECT_LAST_S
    wanted, pauses = Wanted(S.RESUMING, since_s=IDLE.time_s), []
    for _ in range(20):
        wanted, actions = step(wanted, SILENCE, replace(WAITS, chance=1.0))
        pauses.append(actions[-1].seconds)  # type: ignore[union-attr]
        wanted, _ = step(wanted, Timer(), WAITS)
    assert pauses[:3] == [0.1, 0.2, 0.4] and pauses[-1] == rules.RESUME_LAST_S


def test_a_new_reason_to_dial_begins_with_its_shortest_pause() -> None:
    wanted = Wanted(S.RESUMING, keep=True, since_s=IDLE.time_s)
    for _ in range(10):
        wanted, _ = step(wanted, SILENCE, WAITS)
        wanted, _ = step(wanted, Timer(), WAITS)
    assert step(wanted, SILENCE, replace(IDLE, chance=1.0))[1] == (Pause(rules.RECONNECT_FIRST_S),)


def test_the_local_network_is_searched_later_than_a_host_is_dialled_and_seldom() -> None:
    wanted, _ = step(Wanted(S.CONNECTED), LOST, WAITS)
    nearby = []
    for second in range(30):
        now = replace(WAITS, time_s=WAITS.time_s + second)
        wanted, (dial,) = step(wanted, Timer(), now)
        assert isinstance(dial, Dial)
        nearby.append(dial.nearby)
        wanted, _ = step(wanted, SILENCE, now)
    assert [second for second, searched in enumerate(nearby) if searched] == [4, 15, 26]


def links_in_a_row(count: int, lost: Lost) -> list[float]:
    """Lose so many links, each as soon as it is made; the pause before each dial."""
    wanted, pauses = Wanted(S.CONNECTED), []
    for _ in range(count):
        wanted, (pause,) = step(wanted, lost, WAITS)
        assert isinstance(pause, Pause)
        pauses.append(pause.seconds)
        wanted, _ = step(wanted, Timer(), WAITS)
        wanted, _ = step(wanted, Opened(worse=False), IDLE)
    return pauses


def test_a_link_that_brings_something_is_made_again_as_fast_after_the_fiftieth_cut_as_after_the_first() -> None:
    assert links_in_a_row(60, LOST) == [0.0] * 60
    assert links_in_a_row(60, replace(LOST, brought=False, lasted_s=rules.STEADY_S)) == [0.0] * 60


def test_a_peer_that_accepts_and_drops_is_dialled_ever_later() -> None:
    pauses = links_in_a_row(20, replace(LOST, brought=False))
    assert pauses[:4] == [0.0] * 4 and pauses == sorted(pauses) and pauses[-1] == rules.BARREN_LAST_S
    wanted = Wanted(S.RESUMING, barren=12, since_s=WAITS.time_s)
    _, actions = step(wanted, Failed(Failure.SILENCE, "ended as soon as it was made"), WAITS)
    assert actions[-1] == Pause(0.1 * 2**8), "and so where the link ends before its dial does"


class Walk(RuleBasedStateMachine):
    """A peer, its network and its user, in any order; the caller's part is played as `Reach` plays it."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted = Wanted()
        self.time_s = 0.0
        self.dials = self.timer = False
        self.links = 0
        self.open = self.waits = 0
        self.silent = False

    def send(self, event: Event) -> tuple[Action, ...]:
        now = Now(self.time_s, 0.5, waits=self.waits > 0, silent=self.silent)
        self.wanted, actions = step(self.wanted, event, now)
        if self.wanted.state not in PAUSES:
            self.timer = False
        if self.wanted.state not in DIALS:
            self.dials = False
        for action in actions:
            if isinstance(action, Dial):
                assert action.why is self.wanted.state
                self.dials = True
            elif isinstance(action, Pause):
                self.timer = True
            elif isinstance(action, Fail):
                assert self.waits and not (self.links and not isinstance(event, Disconnect))
                self.waits = 0
        return actions

    @rule()
    def a_user_connects(self) -> None:
        if not self.links:
            self.send(Connect())
            assert self.dials

    @rule()
    def a_user_keeps_it(self) -> None:
        self.send(Keep())
        assert self.wanted.keep

    @rule()
    def a_user_disconnects(self) -> None:
        self.send(Disconnect())
        assert not (self.dials or self.timer or self.waits or self.wanted.keep)
        self.links = self.open = 0

    @precondition(lambda self: self.links)
    @rule()
    def a_request_is_sent(self) -> None:
        self.open += 1

    @precondition(lambda self: self.waits)
    @rule()
    def those_who_wait_are_stopped(self) -> None:
        self.waits = 0

    @precondition(lambda self: self.dials)
    @rule(worse=st.booleans())
    def a_dial_works(self, worse: bool) -> None:
        self.dials = False
        self.links, self.silent = 1, False
        self.open, self.waits = self.open + self.waits, 0
        self.send(Opened(worse))
        assert self.wanted.state in LINKED

    @precondition(lambda self: self.dials)
    @rule(failure=st.sampled_from(Failure))
    def a_dial_fails(self, failure: Failure) -> None:
        self.dials = False
        self.send(Failed(failure, "no"))

    @precondition(lambda self: self.links)
    @rule(brought=st.booleans(), keep=st.booleans(), carried=st.booleans(), lasted_s=st.floats(0, 100))
    def the_link_breaks(self, brought: bool, keep: bool, carried: bool, lasted_s: float) -> None:
        self.links, self.silent = 0, False
        self.open, self.waits = 0, self.open
        self.send(Lost("the cable", keep, carried, brought, lasted_s))

    @precondition(lambda self: self.links)
    @rule()
    def the_link_is_closed(self) -> None:
        self.links = self.open = 0
        self.silent = False
        self.send(Closed())

    @precondition(lambda self: self.open)
    @rule()
    def the_link_is_silent(self) -> None:
        self.silent = True
        self.send(Silent())

    @rule()
    def the_peer_speaks(self) -> None:
        self.silent = False

    @precondition(lambda self: self.timer)
    @rule()
    def the_pause_is_over(self) -> None:
        self.timer = False
        self.send(Timer())

    @rule(by_s=st.floats(0, 700))
    def time_passes(self, by_s: float) -> None:
        self.time_s += by_s

    @invariant()
    def a_state_that_dials_has_one_dial_and_a_state_that_waits_one_timer(self) -> None:
        assert self.dials == (self.wanted.state in DIALS)
        assert self.timer == (self.wanted.state in PAUSES)

    @invariant()
    def a_request_that_waits_has_a_dial_or_a_timer_behind_it(self) -> None:
        assert not self.waits or self.dials or self.timer

    @invariant()
    def the_machine_knows_whether_there_is_a_link(self) -> None:
        assert bool(self.links) == (self.wanted.state in LINKED)


TestWalk = Walk.TestCase
TestWalk.settings = settings(
    max_examples=200, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
