"""A node for programs that are not asynchronous: blocking calls, `await` on another loop, interrupts, and its end."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import pytest

from dpc_jupyter.backends.registry import Registry
from dpc_jupyter.errors import DpcError, PeerNotConnected, RequestCancelled
from dpc_jupyter.node.asking.answer import TextDelta
from dpc_jupyter.node.thread import BackgroundNode
from node.conftest import MakeHome
from node.stub import PIECE, StubEngine
from node.waiting import until, until_in_thread


@dataclass(frozen=True)
class Threads:
    """An asker and a host, each in a thread of its own."""

    host: BackgroundNode
    asker: BackgroundNode
    engine: StubEngine

    @property
    def host_id(self) -> str:
        return self.host.service.identity.node_id

    def hold(self) -> None:
        self.host.run(_on_loop(self.engine.hold))

    def free(self) -> None:
        self.host.run(_on_loop(self.engine.gate.set))


async def _on_loop(function: Callable[[], Any]) -> Any:
    return function()


@pytest.fixture
def threads(make_home: MakeHome) -> Iterator[Threads]:
    before = set(threading.enumerate())
    engine = StubEngine()
    host = BackgroundNode(make_home("host"), name="anna", registry=Registry([engine]))
    asker = BackgroundNode(make_home("asker"), name="bob", registry=Registry([]))
    try:
        host.start(("127.0.0.1", 0))
        asker.start()
        host.service.access.allow(asker.service.identity.node_id, name="bob")
        host.service.access.set_sharing(True)
        asker.run(asker.service.connect(host.status().uri or "", name="anna"))
        yield Threads(host, asker, engine)
    finally:
        asker.stop()
        host.stop()
    until_in_thread(lambda: not set(threading.enumerate()) - before)


def test_a_blocking_call_answers(threads: Threads) -> None:
    assert threads.asker.send_ai_query("hello", "anna").text == PIECE * 4


def test_an_answer_is_read_as_it_comes_and_the_reader_is_free_between(threads: Threads) -> None:
    threads.hold()
    reader = threads.asker.execute_ai_query("hello", "anna")
    kinds: list[type] = []
    for item in reader:
        kinds.append(type(item))
        if item is None:
            threads.free()
    assert TextDelta in kinds
    assert type(None) in kinds
    assert reader.answer is not None
    assert reader.answer.text == PIECE * 4


async def test_a_cell_may_await_it_on_its_own_loop(threads: Threads) -> None:
    answer = await threads.asker.aio.send_ai_query("hello", "anna")
    assert answer.text == PIECE * 4
    with pytest.raises(PeerNotConnected):
        await threads.asker.aio.send_ai_query("hello", "carol")


async def test_cancelling_such_an_await_frees_the_slot(threads: Threads) -> None:
    threads.hold()
    asking = asyncio.ensure_future(threads.asker.aio.send_ai_query("hello", "anna"))
    await until(lambda: threads.engine.running)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await until(lambda: not threads.engine.running) < 1


def test_what_cannot_be_sent_raises_in_the_reader(threads: Threads) -> None:
    reader = threads.asker.execute_ai_query("hello", "carol")
    with pytest.raises(PeerNotConnected):
        list(reader)
    assert reader.answer is None


def interrupt_soon() -> list[float]:
    """Do as Jupyter's interrupt does, in 20 ms; returns where the moment will stand."""
    moment: list[float] = []

    def interrupt() -> None:
        moment.append(time.monotonic())
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Timer(0.02, interrupt).start()
    return moment


@pytest.mark.parametrize("how", ["streamed", "blocking"])
def test_an_interrupt_is_felt_within_500_ms_and_frees_the_slot_within_100_ms_20_times(
    threads: Threads, how: str
) -> None:
    threads.hold()
    for _ in range(20):
        until_in_thread(lambda: not threads.host.status().serving)
        reader = None
        moment: list[float] = []
        with pytest.raises(KeyboardInterrupt):
            if how == "blocking":
                moment = interrupt_soon()
                threads.asker.send_ai_query("hello", "anna")
            else:
                reader = threads.asker.execute_ai_query("hello", "anna")
                for item in reader:
                    if isinstance(item, TextDelta):
                        moment = interrupt_soon()
        assert time.monotonic() - moment[0] < 1
        answer = None if reader is None else reader.answer
        assert until_in_thread(lambda: not threads.engine.running) < 1
        assert answer is None or (answer.text, answer.finish_reason) == (PIECE, "cancelled")
    threads.free()
    assert threads.asker.send_ai_query("hello", "anna").text == PIECE * 4


def test_a_stop_button_ends_the_reader_by_name(threads: Threads) -> None:
    threads.hold()
    reader = threads.asker.execute_ai_query("hello", "anna")
    with pytest.raises(RequestCancelled):
        for item in reader:
            if isinstance(item, TextDelta):
                reader.cancel()
    assert until_in_thread(lambda: not threads.engine.running) < 1


def test_leaving_the_loop_of_a_reader_frees_the_slot(threads: Threads) -> None:
    threads.hold()
    for item in threads.asker.execute_ai_query("hello", "anna"):
        if isinstance(item, TextDelta):
            break
    assert until_in_thread(lambda: not threads.engine.running) < 1


def test_a_wait_whose_poll_ends_with_the_work_gives_the_result(threads: Threads) -> None:
    class Late(Future[int]):
        """Is done just after a poll of it has timed out."""

        def result(self, timeout: float | None = None) -> int:
            if not self.done():
                self.set_result(7)
                raise TimeoutError
            return super().result(timeout)

    async def work() -> int:
        return 7

    submitted = work()
    threads.asker.submit = lambda _: Late()  # type: ignore[method-assign,assignment,return-value]
    try:
        assert threads.asker.run(submitted) == 7
    finally:
        submitted.close()
        del threads.asker.submit


def test_stopping_twice_does_no_harm_and_a_stopped_node_says_so(threads: Threads) -> None:
    threads.asker.stop()
    threads.asker.stop()
    assert not threads.asker.running
    with pytest.raises(DpcError, match="stopped"):
        threads.asker.send_ai_query("hello", "anna")
    until_in_thread(lambda: not threads.host.status().peers)


@pytest.mark.filterwarnings("error")
def test_a_stop_ends_whoever_waits_in_another_thread(threads: Threads, caplog: pytest.LogCaptureFixture) -> None:
    threads.hold()
    ended: list[BaseException] = []

    def ask() -> None:
        try:
            threads.asker.send_ai_query("hello", "anna")
        except BaseException as error:
            ended.append(error)

    def sleep() -> None:
        try:
            threads.asker.run(asyncio.sleep(60))
        except BaseException as error:
            ended.append(error)

    waiting = [threading.Thread(target=ask, daemon=True), threading.Thread(target=sleep, daemon=True)]
    for thread in waiting:
        thread.start()
    until_in_thread(lambda: threads.engine.running)
    began = time.monotonic()
    threads.asker.stop()
    for thread in waiting:
        thread.join(2)
    assert time.monotonic() - began < 2
    assert len(ended) == 2
    assert "pending" not in caplog.text


def test_a_node_that_cannot_start_leaves_no_thread(make_home: MakeHome) -> None:
    before = set(threading.enumerate())
    node = BackgroundNode(make_home("host"), registry=Registry([]))
    with pytest.raises(DpcError):
        node.start(("192.0.2.1", 0))
    assert not node.running
    until_in_thread(lambda: not set(threading.enumerate()) - before)


def test_a_damaged_home_leaves_no_thread(make_home: MakeHome) -> None:
    before = set(threading.enumerate())
    home = make_home("host")
    (home.path / "node.key").write_text("damaged")
    with pytest.raises(DpcError):
        BackgroundNode(home, registry=Registry([]))
    until_in_thread(lambda: not set(threading.enumerate()) - before)


def test_work_that_comes_while_the_loop_ends_fails_by_name_and_is_not_waited_for_for_ever(threads: Threads) -> None:
    node, submit, submitted = threads.asker, threads.asker.submit, threading.Event()
    outcome: list[str] = []

    def submit_and_tell(work: Any) -> Future[Any]:
        future = submit(work)
        submitted.set()
        return future

    def look() -> None:
        try:
            node.run(_on_loop(node.service.status))
        except DpcError as error:
            outcome.append(str(error))

    def end_loop() -> None:
        """The loop has turned for the last time when a face looks, and is closed after that."""
        node._loop.call_soon_threadsafe(node._loop.stop)
        node._thread.join(5)
        node.submit = submit_and_tell  # type: ignore[method-assign]
        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        until_in_thread(submitted.is_set)
        node._loop.close()
        looking.join(5)

    node._end_loop = end_loop  # type: ignore[method-assign]
    node.stop()
    assert outcome == ["The node is stopped: start it again with %dpc_start."]
