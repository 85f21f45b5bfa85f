"""The websockets of this process: each session, and what waits to be sent to it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator

from dpc_jupyter.hub.limits import OUTBOX_LIMIT_BYTES

Send = Callable[[str], Awaitable[None]]


class Session:
    """One websocket of a node that has proved its key.

    Parameters
    ----------
    send : callable
        Sends a text; waits while the transport is full, and raises anything once it has ended.
    """

    # A thousand of these sit idle in a process.
    __slots__ = (
        "_flushing",
        "_outbox",
        "_send",
        "_waiting_bytes",
        "connection",
        "expires",
        "name",
        "node_id",
        "takes_offers",
    )

    def __init__(
        self, node_id: str, name: str, connection: str, *, takes_offers: bool, expires: float, send: Send
    ) -> None:
        self.node_id = node_id
        self.name = name
        self.connection = connection
        self.takes_offers = takes_offers
        self.expires = expires
        self._send = send
        self._outbox: deque[str] | None = None
        self._waiting_bytes = 0
        self._flushing: asyncio.Task[None] | None = None

    def deliver(self, text: str) -> bool:
        """Send this when the reader has room; False if too much waits for it already."""
        if self._waiting_bytes + len(text) > OUTBOX_LIMIT_BYTES:
            return False
        self._waiting_bytes += len(text)
        if self._outbox is None:
            self._outbox = deque()
        self._outbox.append(text)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        return True

    async def _flush(self) -> None:
        try:
            while self._outbox:
                text = self._outbox.popleft()
                await self._send(text)
                self._waiting_bytes -= len(text)
        except Exception:  # noqa: S110  its websocket has ended, which its reader sees too
            pass
        finally:
            self._flushing = self._outbox = None
            self._waiting_bytes = 0


class Sessions:
    """Who is connected to this process."""

    def __init__(self) -> None:
        self._by_node: dict[str, dict[str, Session]] = {}
        self._by_connection: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._by_connection)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_connection.values()))

    def of(self, node_id: str) -> list[Session]:
        """Every session of a node here."""
        return list(self._by_node.get(node_id, {}).values())

    def by_connection(self, connection: str) -> Session | None:
        """The session on this websocket."""
        return self._by_connection.get(connection)

    def add(self, session: Session) -> Session | None:
        """Take a session in; returns the one of the same name that it replaces."""
        names = self._by_node.setdefault(session.node_id, {})
        before = names.get(session.name)
        if before is not None:
            del self._by_connection[before.connection]
        names[session.name] = session
        self._by_connection[session.connection] = session
        return before

    def remove(self, session: Session) -> None:
        """Let a session go, unless another has replaced it."""
        if self._by_connection.pop(session.connection, None) is None:
            return
        names = self._by_node[session.node_id]
        del names[session.name]
        if not names:
            del self._by_node[session.node_id]
