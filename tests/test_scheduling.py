from __future__ import annotations

import tracemalloc
from collections.abc import Hashable
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dpc_jupyter.firewall import Limits
from dpc_jupyter.scheduling import IDLE_NODES_LIMIT, QUEUE_LIMIT, FairQueue, FrameBudget, Queued, Refused, Started

WIDE = Limits(requests_per_minute=60_000, running=64, queued=64)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> FairQueue:
    return FairQueue(clock)


def submit(queue: FairQueue, key: Hashable, node: str = "anna", **more: Any) -> Started | Queued | Refused:
    asked: dict[str, Any] = {"backend": "ollama", "slots": 1, "limits": WIDE, "tokens_today": 0, **more}
    return queue.submit(key, node, **asked)


def refusal(answer: Started | Queued | Refused) -> str:
    assert isinstance(answer, Refused), answer
    return answer.reason


def drain(queue: FairQueue, running: list[Hashable]) -> list[Hashable]:
    order = []
    while running:
        order.append(running.pop(0))
        running += queue.finish(order[-1])
    return order


def test_a_free_slot_is_taken_at_once_and_the_next_waits(queue: FairQueue) -> None:
    assert submit(queue, 1) == Started()
    assert submit(queue, 2) == Queued(1, None)
    assert submit(queue, 3) == Queued(2, None)
    assert queue.position(1) is None
    assert queue.finish(1) == [2]
    assert queue.position(3) == Queued(1, 0.0)


def test_backends_have_slots_of_their_own(queue: FairQueue) -> None:
    assert submit(queue, 1, backend="a", slots=2) == submit(queue, 2, backend="a", slots=2) == Started()
    assert submit(queue, 3, backend="b") == Started()
    assert isinstance(submit(queue, 4, backend="a", slots=2), Queued)


def test_peers_take_turns_however_much_one_of_them_asks(queue: FairQueue) -> None:
    submit(queue, "running", "zoe")
    for index in range(4):
        submit(queue, f"a{index}", "anna")
    for index in range(2):
        submit(queue, f"b{index}", "bob")
    expected = ["a0", "b0", "a1", "b1", "a2", "a3"]
    assert list(queue.positions()) == expected
    assert drain(queue, ["running"]) == ["running", *expected]


def test_interactive_goes_before_batch_in_ones_own_line_only(queue: FairQueue) -> None:
    submit(queue, "running", "zoe")
    submit(queue, "a-batch", "anna", priority="batch")
    submit(queue, "b-batch", "bob", priority="batch")
    assert submit(queue, "a-now", "anna") == Queued(1, None)
    assert drain(queue, ["running"]) == ["running", "a-now", "b-batch", "a-batch"]


def test_a_peer_at_its_own_limit_does_not_block_another(queue: FairQueue) -> None:
    one = replace(WIDE, running=1)
    assert submit(queue, "a0", "anna", slots=2, limits=one) == Started()
    assert submit(queue, "a1", "anna", slots=2, limits=one) == Queued(1, None)
    assert submit(queue, "b0", "bob", slots=2) == Started()
    submit(queue, "b1", "bob", slots=2)
    assert queue.finish("b0") == ["b1"]
    assert queue.finish("b1") == []
    assert queue.finish("a0") == ["a1"]


def test_a_peers_running_limit_counts_over_all_backends(queue: FairQueue) -> None:
    one = replace(WIDE, running=1)
    submit(queue, "x", backend="a", limits=one)
    assert submit(queue, "y", backend="b", limits=one) == Queued(1, None)
    assert queue.finish("x") == ["y"]


def test_full_running_and_waiting_refuses_naming_both(queue: FairQueue) -> None:
    for key in range(10):
        submit(queue, key, slots=4, limits=Limits())
    assert refusal(submit(queue, 10, slots=4, limits=Limits())) == (
        "Busy: your limit of 2 running and 8 waiting requests at this host is reached; try again when one has finished"
    )
    assert submit(queue, "b", "bob", slots=4, limits=Limits()) == Started()


def test_a_peer_that_may_not_wait_is_refused_while_others_hold_the_slots(queue: FairQueue) -> None:
    submit(queue, 1)
    reason = refusal(submit(queue, 2, "bob", limits=replace(WIDE, queued=0)))
    assert reason.startswith("Busy: your limit of 0 waiting requests, while others hold every slot, at this host")


def test_requests_a_minute_are_counted_in_a_sliding_window(queue: FairQueue, clock: Clock) -> None:
    sixty = Limits()
    for key in range(60):
        assert submit(queue, key, limits=sixty) == Started()
        queue.finish(key)
        clock.now += 0.8
    answer = submit(queue, 60, limits=sixty)
    assert refusal(answer) == "Busy: your limit at this host is 60 requests a minute, try again in 12 s"
    clock.now += cast(Refused, answer).retry_after_s or 0
    assert submit(queue, 60, limits=sixty) == Started()
    assert isinstance(submit(queue, 61, limits=sixty), Refused)


def test_a_refused_request_does_not_count_in_the_window(queue: FairQueue, clock: Clock) -> None:
    two = Limits(requests_per_minute=2, running=1, queued=0)
    submit(queue, 1, limits=two)
    for key in range(2, 10):
        assert "running" in refusal(submit(queue, key, limits=two))
    queue.finish(1)
    assert submit(queue, 10, limits=two) == Started()


def test_a_used_daily_quota_refuses_and_says_when_it_resets(queue: FairQueue) -> None:
    limits = Limits(tokens_per_day=50_000)
    assert submit(queue, 1, limits=limits, tokens_today=49_999) == Started()
    assert refusal(submit(queue, 2, limits=limits, tokens_today=50_000)) == (
        "Busy: your daily quota of 50,000 tokens at this host is used; it resets at 00:00 UTC"
    )


def test_the_queue_of_all_peers_together_is_bounded(queue: FairQueue) -> None:
    answers = [submit(queue, key, f"node{key}") for key in range(QUEUE_LIMIT + 2)]
    assert answers[0] == Started()
    assert answers[-2] == Queued(QUEUE_LIMIT, None)
    assert f"queue of {QUEUE_LIMIT} requests is full" in refusal(answers[-1])


def test_an_id_in_use_is_refused_and_the_first_request_stays(queue: FairQueue) -> None:
    submit(queue, 1)
    assert "running or waiting already" in refusal(submit(queue, 1))
    assert queue.finish(1) == []
    assert submit(queue, 1) == Started()


def test_unknown_keys_are_ignored(queue: FairQueue) -> None:
    assert queue.finish("x") == queue.cancel("x") == queue.drop_node("x") == []
    assert queue.position("x") is None
    assert queue.relimit("x", WIDE) == []


def test_cancel_takes_out_what_waits_and_frees_what_runs(queue: FairQueue) -> None:
    for key in range(3):
        submit(queue, key)
    assert queue.cancel(1) == []
    assert queue.position(2) == Queued(1, None)
    assert queue.cancel(0) == [2]


def test_dropping_a_node_starts_only_others(queue: FairQueue) -> None:
    for key in range(4):
        submit(queue, f"a{key}", "anna", slots=2)
    submit(queue, "b", "bob", slots=2)
    assert queue.drop_node("anna") == ["b"]
    assert queue.positions() == {}


def test_the_guess_follows_the_service_time_and_the_slots(queue: FairQueue, clock: Clock) -> None:
    submit(queue, 0, slots=2)
    clock.now += 10
    queue.finish(0)
    for key in range(1, 3):
        submit(queue, key, slots=2)
    assert submit(queue, 3, slots=2) == Queued(1, 5.0)
    clock.now += 20
    queue.finish(1)
    submit(queue, 4, slots=2)
    assert queue.position(4) == Queued(1, 6.0)
    queue.cancel(2)
    assert submit(queue, 5, slots=2) == Queued(1, 6.0), "a cancelled request says nothing about service times"


def test_raised_limits_start_what_waits_and_lowered_ones_stop_nothing(queue: FairQueue) -> None:
    one = replace(WIDE, running=1)
    for key in range(4):
        submit(queue, key, slots=4, limits=one)
    assert queue.relimit("anna", replace(WIDE, running=3)) == [1, 2]
    assert queue.relimit("anna", one) == []
    assert queue.finish(0) == queue.finish(1) == []
    assert queue.finish(2) == [3]


def test_a_new_slot_goes_to_who_waited_first(queue: FairQueue) -> None:
    submit(queue, 1, "anna")
    submit(queue, 2, "bob")
    assert submit(queue, 3, "carl", slots=2) == Queued(2, None)
    assert queue.finish(1) == [2, 3]


def test_a_hundred_thousand_nodes_are_forgotten(queue: FairQueue, clock: Clock) -> None:
    tracemalloc.start()
    for key in range(100_000):
        clock.now += 0.0001
        submit(queue, key, f"node{key}")
        queue.finish(key)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(queue._nodes) <= IDLE_NODES_LIMIT + 1
    assert grown < 16 * 2**20
    clock.now += 61
    for key in range(IDLE_NODES_LIMIT):
        submit(queue, key, "anna")
        queue.finish(key)
    assert len(queue._nodes) == 1


def test_a_node_may_send_a_burst_and_then_as_fast_as_its_bucket_fills(clock: Clock) -> None:
    budget = FrameBudget(clock, per_s=10, at_once=5)
    waits_s = [budget.spend("anna") for _ in range(7)]
    assert waits_s == pytest.approx([0, 0, 0, 0, 0, 0.1, 0.2])
    assert budget.spend("bob") == 0.0
    clock.now += 0.3
    assert budget.spend("anna") == pytest.approx(0.0)
    clock.now += 60
    assert budget.spend("anna", 5) == pytest.approx(0.0), "never more than a burst, however long it was quiet"
    assert budget.spend("anna", 20) == pytest.approx(2.0)


def test_who_sends_no_more_is_forgotten_and_who_owes_is_not(clock: Clock) -> None:
    budget = FrameBudget(clock, per_s=10, at_once=5)
    budget.spend("anna", 200)
    for number in range(100_000):
        clock.now += 0.0001
        budget.spend(f"node{number}")
    assert budget.spend("anna", 0) > 0
    clock.now += 0.2
    budget.spend("bob")
    assert len(budget._full_at) <= 2


def test_an_idle_node_cannot_escape_its_minute_by_pausing(queue: FairQueue, clock: Clock) -> None:
    one = Limits(requests_per_minute=1)
    submit(queue, 1, limits=one)
    queue.finish(1)
    clock.now += 59
    submit(queue, 2, "bob")
    assert isinstance(submit(queue, 3, limits=one), Refused)


NODES, BACKENDS = ["anna", "bob", "carl"], ["a", "b"]


class Fairness(RuleBasedStateMachine):
    """Hold the queue against a plain list of what must be true."""

    @initialize(slots=st.tuples(st.integers(1, 3), st.integers(1, 3)))
    def begin(self, slots: tuple[int, int]) -> None:
        self.clock = Clock()
        self.queue = FairQueue(self.clock)
        self.slots = dict(zip(BACKENDS, slots, strict=True))
        self.limits = dict.fromkeys(NODES, Limits(requests_per_minute=20, running=2, queued=3))
        self.running: dict[int, tuple[str, str]] = {}
        self.waiting: dict[int, tuple[str, str]] = {}
        self.admitted: dict[str, list[float]] = {node: [] for node in NODES}
        self.next = 0

    def start(self, keys: list[Hashable]) -> None:
        for key in cast(list[int], keys):
            node, _ = self.running[key] = self.waiting.pop(key)
            assert self.count(self.running, 0, node) <= self.limits[node].running

    @staticmethod
    def count(among: dict[int, tuple[str, str]], place: int, name: str) -> int:
        return sum(each[place] == name for each in among.values())

    @rule(
        node=st.sampled_from(NODES),
        backend=st.sampled_from(BACKENDS),
        priority=st.sampled_from(["interactive", "batch"]),
    )
    def submit(self, node: str, backend: str, priority: Any) -> None:
        key, self.next = self.next, self.next + 1
        limits = self.limits[node]
        answer = self.queue.submit(key, node, backend, self.slots[backend], limits, 0, priority)
        minute = [moment for moment in self.admitted[node] if moment > self.clock.now - 60]
        if isinstance(answer, Refused):
            full = self.count(self.waiting, 0, node) >= limits.queued
            assert full or len(minute) >= limits.requests_per_minute
            return
        assert len(minute) < limits.requests_per_minute
        self.admitted[node] = [*minute, self.clock.now]
        self.waiting[key] = (node, backend)
        if isinstance(answer, Started):
            self.start([key])
        else:
            assert answer == self.queue.positions()[key]
            assert self.count(self.waiting, 0, node) <= limits.queued

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[key]
        self.start(self.queue.finish(key))

    @precondition(lambda self: self.running or self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted({**self.running, **self.waiting})))
        self.running.pop(key, None)
        self.waiting.pop(key, None)
        self.start(self.queue.cancel(key))

    @rule(node=st.sampled_from(NODES))
    def drop(self, node: str) -> None:
        for among in (self.running, self.waiting):
            for key in [key for key, each in among.items() if each[0] == node]:
                del among[key]
        self.start(self.queue.drop_node(node))

    @rule(node=st.sampled_from(NODES), running=st.integers(1, 3))
    def relimit(self, node: str, running: int) -> None:
        self.limits[node] = replace(self.limits[node], running=running)
        self.start(self.queue.relimit(node, self.limits[node]))

    @rule(seconds=st.sampled_from([0.5, 10.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def never_more_than_the_slots_run(self) -> None:
        for backend in BACKENDS:
            assert self.count(self.running, 1, backend) <= self.slots[backend]

    @invariant()
    def no_slot_is_free_while_somebody_may_take_it(self) -> None:
        for node, backend in self.waiting.values():
            at_limit = self.count(self.running, 0, node) >= self.limits[node].running
            assert at_limit or self.count(self.running, 1, backend) == self.slots[backend]

    @invariant()
    def everybody_who_waits_has_a_place(self) -> None:
        found = self.queue.positions()
        assert set(found) == set(self.waiting)
        for backend in BACKENDS:
            places = [found[key].position for key, each in self.waiting.items() if each[1] == backend]
            assert sorted(places) == list(range(1, len(places) + 1))

    def teardown(self) -> None:
        """Nobody starves: with work only ending, everything that waits starts."""
        if not hasattr(self, "queue"):
            return
        while self.running:
            key = next(iter(self.running))
            del self.running[key]
            self.start(self.queue.finish(key))
        assert not self.waiting


Fairness.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestFairness = Fairness.TestCase


def test_nobody_starves_while_others_never_stop_asking(queue: FairQueue, clock: Clock) -> None:
    limits = {node: replace(WIDE, running=1 + index % 2) for index, node in enumerate(NODES)}
    running: list[Hashable] = []
    started = dict.fromkeys(NODES, 0)
    for turn in range(3000):
        clock.now += 1
        for node in NODES[1:] * 3 + ([NODES[0]] if turn % 5 == 0 else []):
            key = (node, turn, len(running), clock.now)
            if submit(queue, key, node, slots=2, limits=replace(limits[node], queued=8)) == Started():
                running.append(key)
                started[node] += 1
        if running:
            for new in queue.finish(running.pop(0)):
                running.append(new)
                started[cast(tuple[str, int], new)[0]] += 1
    assert started["anna"] >= 590, started
