"""Who used what: one row a request, at both ends, never the prompt.

Rows wait in memory and are written a few times a second by one thread, so that noting a request costs the event loop
microseconds and a full disk costs it nothing. Several processes of one user share the file.
"""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from dpc_jupyter.errors import AccessDenied, Busy, ConfigError, InvalidRequest, ModelNotFound

FLUSH_EVERY_S = 0.2  # what a kill -9 may lose
RETRY_EVERY_S = 1.0
CACHE_S = 1.0  # how late tokens of another process may be seen
BUFFER_LIMIT = 10_000  # entries kept while the file cannot be written, about 4 MB
_WRITE_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 0.25  # reads may happen on an event loop
_DAY_S = 86_400
_COUNT_LIMIT = 2**53  # the wire's, and far below SQLite's 2**63


@dataclass(frozen=True, slots=True)
class Entry:
    """One request that ended.

    Attributes
    ----------
    role : {"host", "asker"}
        Which end this node was.
    peer : str
        Node id of the other end.
    started_at : float
        Unix seconds, UTC; the day that its tokens count for.
    queue_s, first_token_s, total_s : float or None
        From the start; None where the request did not get so far.
    outcome : str
        ``ok`` or the code of the error: ``cancelled``, ``denied``, ``busy``, ``timeout``, ``revoked``, ...
    """

    id: str
    role: Literal["host", "asker"]
    peer: str
    model: str
    provider: str
    started_at: float
    queue_s: float | None = None
    first_token_s: float | None = None
    total_s: float | None = None
    prompt_tokens: int | None = None
    response_tokens: int | None = None
    outcome: str = "ok"

    @property
    def tokens(self) -> int:
        """Prompt and response together."""
        return (self.prompt_tokens or 0) + (self.response_tokens or 0)


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums for one role, peer and model.

    Attributes
    ----------
    requests, refused : int
        Those that were taken, and those that were refused: not allowed, no such model, malformed, or over a limit.
    total_s : float
        The time that `requests` took together.
    """

    role: str
    peer: str
    model: str
    requests: int
    refused: int
    prompt_tokens: int
    response_tokens: int
    total_s: float


# dataclasses.astuple copies deeply, at five times the cost.
_values = attrgetter(*(column.name for column in fields(Entry)))
_COLUMNS = ", ".join(column.name for column in fields(Entry))
# `writer` tells one running ledger's rows from all others': see tokens_today.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    id TEXT, role TEXT, peer TEXT, model TEXT, provider TEXT, started_at REAL, queue_s REAL, first_token_s REAL,
    total_s REAL, prompt_tokens INTEGER, response_tokens INTEGER, outcome TEXT, writer TEXT);
CREATE INDEX IF NOT EXISTS tokens_by_peer
    ON requests (role, peer, started_at, writer, prompt_tokens, response_tokens);
"""
_INSERT = f"INSERT INTO requests ({_COLUMNS}, writer) VALUES ({', '.join('?' * (len(fields(Entry)) + 1))})"  # noqa: S608
_TOKENS_OF_OTHERS = """
SELECT CAST(TOTAL(prompt_tokens) + TOTAL(response_tokens) AS INTEGER) FROM requests
WHERE role = 'host' AND peer = ? AND started_at >= ? AND started_at < ? AND writer <> ?
"""
_REFUSED = f"outcome IN ({', '.join(repr(kind.code) for kind in (AccessDenied, Busy, InvalidRequest, ModelNotFound))})"
# TOTAL never overflows: an asker's counts are whatever the host said.
_USAGE = f"""
SELECT role, peer, model, COUNT(*) FILTER (WHERE NOT {_REFUSED}), COUNT(*) FILTER (WHERE {_REFUSED}),
    CAST(TOTAL(prompt_tokens) AS INTEGER), CAST(TOTAL(response_tokens) AS INTEGER),
    TOTAL(total_s) FILTER (WHERE NOT {_REFUSED})
FROM requests WHERE started_at >= ? GROUP BY role, peer, model ORDER BY role, peer, model
"""  # noqa: S608
_ROWS = f"SELECT {_COLUMNS} FROM requests WHERE started_at >= ? ORDER BY started_at, rowid"  # noqa: S608


class Ledger:
    """The table of requests in the SQLite file at `path`, made with mode 0600. Safe to share between threads.

    Attributes
    ----------
    error : str or None
        Why rows cannot be written now, for the status; requests go on and up to `BUFFER_LIMIT` rows wait.

    Notes
    -----
    The rollback journal is SQLite's default and stays, because WAL does not work on NFS, where homes are. A
    connection lives for one batch, so a ledger that is moved away or restored is picked up.
    """

    def __init__(self, path: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.error: str | None = None
        self._monotonic = monotonic
        self._writer = uuid.uuid4().hex
        self._changed = threading.Condition()
        self._buffer: deque[Entry] = deque()
        self._in_hand: list[Entry] = []  # what the thread is writing
        self._thread: threading.Thread | None = None
        self._hurry = self._closing = False
        self._attempts = 0
        self._own: dict[int, dict[str, int]] = {}  # day -> peer -> tokens
        self._others: dict[str, tuple[float, int, int]] = {}
        self._watchers: list[Callable[[Entry], None]] = []
        self._write([])

    def watch(self, watcher: Callable[[Entry], None]) -> None:
        """Call `watcher` with every request that is noted from now on, on the thread that notes it."""
        self._watchers.append(watcher)

    def record(self, entry: Entry) -> None:
        """Note a request; costs microseconds and never fails."""
        with self._changed:
            self._buffer.append(entry)
            self._drop_oldest()
            if entry.role == "host" and entry.tokens:
                self._count_own(entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dpc-ledger", daemon=True)
                self._thread.start()
            elif len(self._buffer) == 1:
                self._changed.notify_all()
        for watcher in self._watchers:
            with suppress(Exception):  # noting a request never fails
                watcher(entry)

    def tokens_today(self, peer: str, now: float) -> int:
        """Tokens that this machine spent on `peer` in the UTC day of `now`, in unix seconds.

        What this ledger recorded counts at once and is kept in memory; the rows of other processes and of earlier
        runs are read at most every `CACHE_S`. The two never overlap, so nothing counts twice while a batch is written.

        Raises
        ------
        ConfigError
            The file cannot be read or written now, so nobody knows; a peer with a daily limit is to be refused.
        """
        if self.error is not None:
            raise ConfigError(self.error)
        day, moment = int(now // _DAY_S), self._monotonic()
        read_at, read_day, others = self._others.get(peer, (0.0, -1, 0))
        if read_day != day or moment - read_at >= CACHE_S:
            start = day * _DAY_S
            rows = self._query(_TOKENS_OF_OTHERS, (peer, start, start + _DAY_S, self._writer))
            others = rows[0][0] if rows else 0
            if len(self._others) >= BUFFER_LIMIT:
                self._others.clear()
            self._others[peer] = (moment, day, others)
        with self._changed:
            return others + self._own.get(day, {}).get(peer, 0)

    def usage(self, since: float | None = None, *, wait_s: float = 2 * _WRITE_TIMEOUT_S) -> list[Usage]:
        """Sums by role, peer and model of the requests started at or after `since`, in unix seconds.

        Rows that cannot be written within `wait_s`, because another program holds the file, are left out.

        Raises
        ------
        ConfigError
            The file cannot be read.
        """
        self.flush(wait_s)
        return [Usage(*row) for row in self._query(_USAGE, (since or 0,))]

    def rows(self, since: float | None = None) -> list[Entry]:
        """Every request started at or after `since`, oldest first; raises as `usage`."""
        self.flush()
        return [Entry(*row) for row in self._query(_ROWS, (since or 0,))]

    def flush(self, timeout_s: float = 2 * _WRITE_TIMEOUT_S) -> bool:
        """Write what waits now; whether that went well."""
        with self._changed:
            target = self._attempts + 2  # an attempt under way may have begun before our last row came
            self._hurry = True
            self._changed.notify_all()
            done = self._changed.wait_for(
                lambda: not (self._buffer or self._in_hand) or self._attempts >= target, timeout_s
            )
            self._hurry = False
            return done and self.error is None

    def close(self) -> None:
        """Flush and stop the thread. A later record starts it again."""
        with self._changed:
            thread, self._closing = self._thread, True
            self._changed.notify_all()
        if thread is not None:
            thread.join(2 * _WRITE_TIMEOUT_S)
        with self._changed:
            self._thread, self._closing = None, False

    def _count_own(self, entry: Entry) -> None:
        day = int(entry.started_at // _DAY_S)
        own = self._own.setdefault(day, {})
        own[entry.peer] = own.get(entry.peer, 0) + entry.tokens
        if len(self._own) > 3:  # yesterday's requests still end today, and clocks are set back
            del self._own[next(iter(self._own))]

    def _drop_oldest(self) -> None:
        while len(self._buffer) > BUFFER_LIMIT:
            self._buffer.popleft()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._buffer or self._closing)
                if not self._buffer:
                    return
                pause_s = FLUSH_EVERY_S if self.error is None else RETRY_EVERY_S
                self._changed.wait_for(lambda: self._hurry or self._closing, pause_s)
                self._in_hand = list(self._buffer)
                self._buffer.clear()
            written = self._write(self._in_hand)
            with self._changed:
                if not written:
                    self._buffer.extendleft(reversed(self._in_hand))
                    self._drop_oldest()
                self._in_hand = []
                self._attempts += 1
                self._changed.notify_all()
                if self._closing and not written:
                    return

    def _write(self, batch: Sequence[Entry]) -> bool:
        try:
            self.path.parent.mkdir(0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError):
                self.path.touch(0o600, exist_ok=False)
            if self.path.stat().st_mode & 0o077:
                self.path.chmod(0o600)
            with closing(sqlite3.connect(self.path, timeout=_WRITE_TIMEOUT_S)) as database, database:
                database.executescript(_SCHEMA)
                database.execute("BEGIN IMMEDIATE")
                database.executemany(_INSERT, ((*map(_storable, _values(entry)), self._writer) for entry in batch))
        except (OSError, sqlite3.Error) as error:
            self.error = f"The ledger {self.path} cannot be written ({error}); move it away to start a new one"
            return False
        self.error = None
        return True

    def _query(self, query: str, parameters: tuple[object, ...]) -> list[tuple[Any, ...]]:
        if not self.path.exists():
            return []
        # Not mode=ro: after a crash the first to read has to roll the journal back.
        uri = f"{self.path.resolve().as_uri()}?mode=rw"
        try:
            with closing(sqlite3.connect(uri, uri=True, timeout=_READ_TIMEOUT_S)) as database:
                return database.execute(query, parameters).fetchall()
        except sqlite3.Error as error:
            raise ConfigError(
                f"The ledger {self.path} cannot be read ({error}); move it away to start a new one"
            ) from None


def _storable(value: object) -> object:
    """A host chooses the counts and names that an asker notes: one bad row must not hold up the batch."""
    if isinstance(value, int):
        return min(value, _COUNT_LIMIT)
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
