"""A `CoreService` on its own event loop in a background thread: cells cannot block it, ipykernel cannot stall it."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import queue
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from dpc_jupyter.errors import DpcError
from dpc_jupyter.home import Home
from dpc_jupyter.node.asking import Answer, AnswerStream, TextDelta, UnfinishedRequest
from dpc_jupyter.node.core_service import CoreService
from dpc_jupyter.node.status import NodeStatus
from dpc_jupyter.protocol.messages import RemoteInferenceStatus

T = TypeVar("T")
_STOP_S = 5.0
# How long the main thread sleeps at most before it looks for an interrupt; Python runs signal handlers between waits.
_POLL_S = 0.05
_CANCEL_S = 0.2
_STOPPED = "The node is stopped: start it again with %dpc_start."


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it exists, for its TLS; asyncio's elsewhere."""
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


class AnswerReader:
    """An `AnswerStream` read from another thread.

    Iterate for what comes, with None whenever nothing has come for `_POLL_S`; then `answer` is complete. Leaving the
    loop by any exception, KeyboardInterrupt included, cancels the request.
    """

    def __init__(self, node: BackgroundNode, start: Callable[[], AnswerStream]) -> None:
        self._items: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stream: AnswerStream | None = None
        self._node = node
        self._future = node.submit(self._pump(start))
        self._future.add_done_callback(lambda _: self._items.put(None))

    async def _pump(self, start: Callable[[], AnswerStream]) -> None:
        self._stream = start()
        async for item in self._stream:
            self._items.put(item)

    def __iter__(self) -> Iterator[RemoteInferenceStatus | TextDelta | None]:
        try:
            while not (self._future.done() and self._items.empty()):
                try:
                    item = self._items.get(timeout=_POLL_S)
                except queue.Empty:
                    yield None
                    continue
                if item is None:
                    break
                yield item
        except BaseException:
            self.cancel()
            raise
        self._future.result()

    def cancel(self) -> None:
        """Stop the request, and wait the moment until its `answer` is the last word."""
        with contextlib.suppress(DpcError, TimeoutError, CancelledError):
            self._node.submit(self._cancel()).result(_CANCEL_S)

    async def _cancel(self) -> None:
        if self._stream is None:
            self._future.cancel()
        else:
            self._stream.cancel()

    @property
    def away(self) -> bool:
        """As `AnswerStream.away`."""
        return self._stream is not None and self._stream.away

    @property
    def answer(self) -> Answer | None:
        """What has come so far; None if the request could not even be sent."""
        return None if self._stream is None else self._stream.answer


class _Aio:
    """`CoreService`'s coroutines, awaitable from any event loop: ``await node.aio.send_ai_query(...)``."""

    def __init__(self, node: BackgroundNode) -> None:
        self._node = node

    def __getattr__(self, name: str) -> Callable[..., asyncio.Future[Any]]:
        method = getattr(self._node.service, name)

        def call(*args: Any, **settings: Any) -> asyncio.Future[Any]:
            return asyncio.wrap_future(self._node.submit(method(*args, **settings)))

        return call


class BackgroundNode:
    """A node for a program that is not asynchronous itself, such as a notebook's cells.

    Parameters
    ----------
    settings
        As `CoreService`.

    Attributes
    ----------
    service : CoreService
        Only for use on its own loop: through `run`, `submit` or `aio`.
    aio : object
        Its coroutines for ``await`` in a cell.
    """

    def __init__(self, home: Home | None = None, **settings: Any) -> None:
        self._loop = new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="dpc-node", daemon=True)
        self._thread.start()
        self.aio = _Aio(self)
        try:
            self.service = self._call(lambda: CoreService(home, **settings))
        except BaseException:
            self._end_loop()
            raise
        atexit.register(self.stop)

    @property
    def running(self) -> bool:
        """Whether it has not been stopped."""
        return not self._loop.is_closed()

    def start(self, listen: tuple[str, int] | None = None) -> None:
        """As `CoreService.start`; a node that cannot start is stopped."""
        try:
            self.run(self.service.start(listen))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End links and thread; more than once does no harm."""
        atexit.unregister(self.stop)
        if not self.running:
            return
        try:
            self.submit(self.service.stop()).result(_STOP_S)
        except (TimeoutError, DpcError):
            pass
        finally:
            self._end_loop()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the node's loop.

        Raises
        ------
        DpcError
            The node is stopped.
        """
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise DpcError(_STOPPED) from None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the node's loop and wait; an interrupt cancels it."""
        future = self.submit(work)
        try:
            while True:
                try:
                    return future.result(_POLL_S)
                except TimeoutError:
                    if future.done():  # by the wait or by the work: its own outcome says
                        return future.result()
                    if not self.running:  # its loop ended before it came to this
                        work.close()
                        raise DpcError(_STOPPED) from None
        except KeyboardInterrupt:
            future.cancel()
            raise

    def status(self) -> NodeStatus:
        """As `CoreService.status`."""
        return self._call(self.service.status)

    def execute_ai_query(self, *args: Any, **settings: Any) -> AnswerReader:
        """Ask, and read the answer as it comes; parameters as `CoreService.execute_ai_query`."""
        return AnswerReader(self, lambda: self.service.execute_ai_query(*args, **settings))

    def unfinished(self) -> tuple[UnfinishedRequest, ...]:
        """As `CoreService.unfinished`."""
        return self._call(self.service.unfinished)

    def collect(self, request_id: str) -> AnswerReader:
        """As `CoreService.collect`."""
        return AnswerReader(self, lambda: self.service.collect(request_id))

    def send_ai_query(self, *args: Any, **settings: Any) -> Answer:
        """Ask, and wait for the whole answer; parameters as `CoreService.send_ai_query`."""
        return self.run(self.service.send_ai_query(*args, **settings))

    def _call(self, function: Callable[[], T]) -> T:
        async def on_loop() -> T:
            return function()

        return self.run(on_loop())

    def _end_loop(self) -> None:
        # Whoever still waits for a task from another thread gets its cancellation, not silence.
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(_end_tasks(), self._loop).result(_STOP_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_S)
        if not self._thread.is_alive():
            self._loop.close()


async def _end_tasks() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=1)
    await asyncio.get_running_loop().shutdown_asyncgens()
