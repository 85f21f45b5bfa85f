"""``/ws/signal``: one websocket from its opening to its end."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from dpc_jupyter.errors import DpcError, HandshakeError
from dpc_jupyter.hub.limits import OPENINGS_PER_NODE, SESSIONS_LIMIT, SESSIONS_PER_NODE, SIGNALS_PER_NODE, Rate
from dpc_jupyter.hub.metrics import Metrics
from dpc_jupyter.hub.signalling.sessions import Session
from dpc_jupyter.hub.signalling.switchboard import Switchboard
from dpc_jupyter.hub.storage.storage import StorageError
from dpc_jupyter.hub.tokens import Token, Tokens
from dpc_jupyter.hub.wire import EXPIRED, REPLACED, TokenToHub, decode_to_hub, is_session


class Refused(DpcError):
    """A websocket is not opened; `status` is the answer's."""

    def __init__(self, status: int, sentence: str, retry_after_s: float = 0.0) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = {"Retry-After": str(int(retry_after_s) + 1)} if retry_after_s else {}


class Signalling:
    """Opens websockets, and reads what comes on them.

    Attributes
    ----------
    route : WebSocketRoute
        To put into the application. Starlette's own, not FastAPI's, whose dependencies stay in memory with each socket.
    """

    def __init__(self, switchboard: Switchboard, tokens: Callable[[], Tokens], metrics: Metrics) -> None:
        self._switchboard = switchboard
        self._tokens = tokens
        self._metrics = metrics
        self._openings = Rate(OPENINGS_PER_NODE, time.monotonic)
        self._signals = Rate(SIGNALS_PER_NODE, time.monotonic)
        self._sockets: dict[str, WebSocket] = {}
        self._entering = Counter[str]()  # these are no sessions yet, and shall be
        self._closing: set[asyncio.Task[None]] = set()
        self.route = WebSocketRoute("/ws/signal", self._serve)

    async def _serve(self, socket: WebSocket) -> None:
        try:
            session = self._open(socket)
            self._entering[session.node_id] += 1
            try:
                replaced = await self._switchboard.enter(session)
            finally:
                self._entering -= Counter({session.node_id: 1})
        except (Refused, StorageError) as error:
            self._metrics.refuse("opening")
            status, headers = (error.status, error.headers) if isinstance(error, Refused) else (503, {})
            await socket.send_denial_response(JSONResponse({"detail": str(error)}, status, headers))
            return
        self._sockets[session.connection] = socket
        try:
            # Registered first: whoever sees its websocket open can be called.
            await socket.accept()
            if replaced is not None and (old := self._sockets.get(replaced.connection)) is not None:
                self._close(old)
            await self._read(socket, session)
        except WebSocketDisconnect:
            pass
        finally:
            del self._sockets[session.connection]
            await self._switchboard.leave(session)

    def _close(self, old: WebSocket) -> None:
        """End a replaced websocket, which may not read any more: nobody waits for it."""
        task = asyncio.create_task(old.close(REPLACED, "the same session connected again"))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _open(self, socket: WebSocket) -> Session:
        token = self._token(socket)
        sessions = self._switchboard.sessions
        name = socket.query_params.get("session", "")
        if not is_session(name):
            raise Refused(400, "A session's name has at most 64 letters, digits, dots, dashes and underscores.")
        if wait_s := self._openings.take(token.node_id):
            raise Refused(429, "Too many websockets were opened: try again later.", wait_s)
        here = sessions.of(token.node_id)
        entering = self._entering[token.node_id]
        if len(here) + entering >= SESSIONS_PER_NODE and (entering or all(session.name != name for session in here)):
            raise Refused(429, f"A node has at most {SESSIONS_PER_NODE} sessions.", 60.0)
        if len(sessions) + self._entering.total() >= SESSIONS_LIMIT:
            raise Refused(503, "This hub is full.")
        return Session(
            token.node_id,
            name,
            self._switchboard.new_connection(),
            takes_offers=socket.query_params.get("offers", "true") != "false",
            expires=token.expires,
            send=socket.send_text,
        )

    def _token(self, socket: WebSocket) -> Token:
        scheme, _, token = socket.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            token = socket.query_params.get("token", "")
        try:
            return self._tokens().check(token.strip())
        except HandshakeError as error:
            raise Refused(401, str(error)) from error

    async def _read(self, socket: WebSocket, session: Session) -> None:
        while True:
            left_s = session.expires - time.time()
            try:
                async with asyncio.timeout(left_s):
                    text = await socket.receive_text()
            except TimeoutError:
                await socket.close(EXPIRED, "the token has expired")
                return
            except KeyError:  # a binary message
                self._switchboard.refuse(session, "Messages are text.")
                await asyncio.sleep(1.0)
                continue
            await self._take(session, text)

    async def _take(self, session: Session, text: str) -> None:
        if wait_s := self._signals.take(session.node_id):
            self._metrics.refuse("signal rate")
            self._switchboard.refuse(session, f"Too many messages: {SIGNALS_PER_NODE[0]:g} a second.")
            # Whoever floods waits for itself: its websocket is not read meanwhile.
            await asyncio.sleep(max(wait_s, 0.25))
            return
        try:
            message = decode_to_hub(text)
        except ValueError as error:
            self._switchboard.refuse(session, f"That is no message: {str(error)[:200]}")
            return
        if not isinstance(message, TokenToHub):
            await self._switchboard.route(session, message)
            return
        try:
            token = self._tokens().check(message.token)
        except HandshakeError as error:
            self._switchboard.refuse(session, str(error))
            return
        if token.node_id == session.node_id:
            session.expires = token.expires
        else:
            self._switchboard.refuse(session, "That is another node's token.")
