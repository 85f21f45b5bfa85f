"""Who listens: the faces that are open in the browser, what each has seen, and the two comms of the Lab extension.

Messages go up on ``dpc.rpc`` and come down on ``dpc.events``. JupyterLab gives a comm that it opened a subshell of the
kernel's, so a call is heard while a cell runs; the answer comes from a thread of ours and not from the handler, so
that no call waits for another. Nothing here is needed to stop a cell: that is the kernel's interrupt.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any, Protocol

import msgspec

from dpc_jupyter.errors import DpcError
from dpc_jupyter.jupyter.faces.calls import Calls
from dpc_jupyter.jupyter.faces.watch import Watcher
from dpc_jupyter.sanitize import label

# A page that went away does not say so; a face says that it is there every 20 s, in a hidden page every minute. One
# that is silent sleeps: it gets nothing until it is heard again.
SILENT_S = 150.0
# Each reload of a page leaves one behind.
FACES_LIMIT = 256
# Eight times a second is live to an eye, and costs an idle kernel under one percent of a core.
LOOK_EVERY_S = 0.125
# A slow call (linking to a dead host) must not hold up the others; more at once than this is no user.
_WORKERS = 8

Send = Callable[[dict[str, Any]], None]
_log = logging.getLogger(__name__)


class Comm(Protocol):
    """What is used of a comm."""

    def send(self, data: Any = None) -> None: ...  # noqa: D102
    def on_msg(self, callback: Callable[[Any], None]) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102
    def on_close(self, callback: Callable[[Any], None]) -> None: ...  # noqa: D102


class _Face:
    def __init__(self, send: Send, close: Callable[[], None] = lambda: None) -> None:
        self.send = send
        self.close = close
        self.heard_at = time.monotonic()
        self.seen: dict[str, Any] = {}
        self.knows_nothing = False


class Listeners:
    """The faces of one kernel.

    Parameters
    ----------
    calls : Calls
        What they may ask for.
    watcher : Watcher
        What they see.
    """

    def __init__(self, calls: Calls, watcher: Watcher) -> None:
        self._calls = calls
        self._watcher = watcher
        self._faces: dict[str, _Face] = {}
        self._lock = threading.Lock()
        self._showing = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="dpc-face")
        self._closed = False
        self._fault = ""

    def attach(self, client: str, send: Send) -> None:
        """A face opens: `send` takes what goes down to it, from any thread."""
        self._attach(client, _Face(send))

    def detach(self, client: str) -> None:
        """A face closes."""
        with self._lock:
            self._faces.pop(client, None)

    def look(self) -> None:
        """Something has changed: tell the faces now."""
        self._wake.set()

    def tell(self, message: dict[str, Any]) -> None:
        """Send one message to every face."""
        message = msgspec.to_builtins(message)
        for client, face in self._open():
            self._send(client, face, message)

    def take(self, message: Any) -> None:
        """A face calls: ``{"client", "id", "method", "params"}``. The answer goes down to it when it is there."""
        if not isinstance(message, Mapping):
            return
        client, number = str(message.get("client")), message.get("id")
        if (face := self._faces.get(client)) is None or self._closed:
            return
        method, params = message.get("method"), message.get("params")
        if method == "state":
            face.knows_nothing = True
            self._send(client, face, {"reply": number, "result": None})
        face.heard_at = time.monotonic()
        self._watch()
        with self._lock:
            if method != "state" and not self._closed:
                self._workers.submit(self._answer, client, face, number, method, params)

    def close(self) -> None:
        """No more of it: the extension is unloaded."""
        with self._lock:
            self._closed = True
            faces, self._faces = list(self._faces.values()), {}
            self._workers.shutdown(wait=False, cancel_futures=True)
        self.look()
        for face in faces:  # its page then says at once that nobody is here
            with contextlib.suppress(Exception):
                face.close()

    # The comms.

    def open_events(self, comm: Comm, message: Any) -> None:
        """Target ``dpc.events``: what goes down to one face."""
        client, face = str(_data(message).get("client")), _Face(comm.send, comm.close)
        comm.on_close(lambda _: self._drop(client, face))
        self._attach(client, face)

    def open_rpc(self, comm: Comm, _message: Any) -> None:
        """Target ``dpc.rpc``: what comes up from faces, each call with the name of its own."""
        comm.on_msg(lambda message: self.take(_data(message)))

    # On our own threads.

    def _attach(self, client: str, face: _Face) -> None:
        with self._lock:
            if self._closed:
                return
            self._faces[client] = face
            while len(self._faces) > FACES_LIMIT:
                del self._faces[min(self._faces, key=lambda each: self._faces[each].heard_at)]
        self._watch()

    def _drop(self, client: str, face: _Face) -> None:
        """As `detach`; but a page that has come back has the same name, and its old comm may close late."""
        with self._lock:
            if self._faces.get(client) is face:
                del self._faces[client]

    def _watch(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="dpc-faces", daemon=True)
                self._thread.start()
        self.look()

    def _answer(self, client: str, face: _Face, number: Any, method: Any, params: Any) -> None:
        try:
            result = self._calls.call(method, params)
        except DpcError as error:
            answer = {"reply": number, "error": label(str(error), 1000)}
        except CancelledError:
            answer = {"reply": number, "error": "The node was stopped meanwhile."}
        except Exception as error:
            _log.exception("a call of a face failed: %s", label(str(method)))
            answer = {"reply": number, "error": f"That failed: {type(error).__name__}. The kernel's log has more."}
        else:
            answer = {"reply": number, "result": msgspec.to_builtins(result)}
        # The new state first: whoever waits for the answer then sees what it has done.
        self._show(fresh=True)
        self._send(client, face, answer)

    def _look(self) -> None:
        while True:
            with self._lock:
                if not self._awake():
                    self._thread = None
                    return
            self._wake.wait(LOOK_EVERY_S)
            self._wake.clear()
            self._show()

    def _show(self, *, fresh: bool = False) -> None:
        with self._showing:  # an older state must not overtake a newer one
            try:
                state = self._watcher.state(fresh=fresh)
            except Exception as error:
                # A face that stands still is better than none; the next look may go well. A node that stops meanwhile
                # is no fault, and one fault is told once and not eight times a second.
                if not isinstance(error, DpcError | CancelledError) and repr(error) != self._fault:
                    self._fault = repr(error)
                    _log.exception("the faces cannot be drawn")
                return
            for client, face in self._open():
                if face.knows_nothing:
                    face.knows_nothing, face.seen = False, {}
                changed = {section: value for section, value in state.items() if face.seen.get(section) != value}
                if changed:
                    face.seen = {**face.seen, **changed}
                    self._send(client, face, {"state": changed})

    def _open(self) -> list[tuple[str, _Face]]:
        with self._lock:
            return self._awake()

    def _awake(self) -> list[tuple[str, _Face]]:
        since = time.monotonic() - SILENT_S
        for face in self._faces.values():
            if face.heard_at <= since:
                face.seen = {}  # may be large, and is not what its page shows when it wakes
        return [(client, face) for client, face in self._faces.items() if face.heard_at > since]

    def _send(self, client: str, face: _Face, message: dict[str, Any]) -> None:
        try:
            face.send(message)
        except Exception:
            _log.debug("a face is gone", exc_info=True)
            self._drop(client, face)


def _data(message: Any) -> Mapping[str, Any]:
    data = message.get("content", {}).get("data") if isinstance(message, Mapping) else None
    return data if isinstance(data, Mapping) else {}
