"""The hub's database: SQLite in a file, or PostgreSQL. SQLAlchemy's errors leave it as `StorageError`."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncpg import PostgresError
from sqlalchemy import ColumnElement, delete, event, select, text, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from dpc_jupyter.errors import ConfigError, DpcError
from dpc_jupyter.hub.schemas import Advert, Found
from dpc_jupyter.hub.storage import discovery, tables
from dpc_jupyter.hub.tokens import SECRET_BYTES

BEAT_S = 2.0
# Three beats: a process that misses them is taken for dead, and its sessions for offline.
DEAD_AFTER_S = 6.0
# Its rows stay longer, so that one that only slept finds them again.
FORGET_HUB_S = 60.0
FORGET_ADVERT_S = 3600.0
_TIMEOUT_S = 5.0
_CREATE_LOCK = 0x6470632D687562  # "dpc-hub": two processes that start at once make the tables one after the other


class StorageError(DpcError):
    """The hub's database does not answer."""

    code = "storage"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a session is connected."""

    session: str
    hub_id: str
    connection: str
    takes_offers: bool


def database_url(words: str) -> URL:
    """A path of an SQLite file, or a URL of SQLite or PostgreSQL, with the driver that we use."""
    try:
        url = make_url(words) if "://" in words else URL.create("sqlite", database=words)
    except ArgumentError as error:
        raise ConfigError("The database is a file, or a URL like postgresql://user:password@host/name.") from error
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
    backend = url.drivername.partition("+")[0]
    if backend not in drivers:
        raise ConfigError(f"The hub keeps its data in SQLite or PostgreSQL, not in {backend[:32]!r}.")
    return url.set(drivername=drivers[backend])


class Storage:
    """Everything that the processes of one hub share.

    Parameters
    ----------
    words : str
        As `database_url` reads them.

    Notes
    -----
    Every method raises StorageError where the database does not answer.
    """

    def __init__(self, words: str) -> None:
        url = database_url(words)
        if url.drivername.startswith("sqlite") and url.database:
            _make_private(Path(url.database))
        wait: dict[str, float] = {"timeout": _TIMEOUT_S}  # sqlite3's for a lock, asyncpg's for a connection
        if url.drivername.startswith("postgresql"):
            wait["command_timeout"] = _TIMEOUT_S
        self._engine: AsyncEngine = create_async_engine(url, pool_pre_ping=True, connect_args=wait)
        self._dialect = self._engine.dialect
        self._now = tables.now(self._dialect)
        if self._dialect.name == "sqlite":
            event.listen(self._engine.sync_engine, "connect", _set_up_sqlite)

    async def open(self) -> bytes:
        """Make what is missing; returns the secret that all processes share."""
        async with self._begin() as db:
            if self._dialect.name == "postgresql":
                await db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CREATE_LOCK})
            await db.run_sync(tables.metadata.create_all)
            new = {"key": "secret", "value": secrets.token_hex(SECRET_BYTES)}
            await db.execute(self._insert(tables.settings).values(new).on_conflict_do_nothing())
            kept = await db.scalar(select(tables.settings.c.value).where(tables.settings.c.key == "secret"))
        return bytes.fromhex(str(kept))

    async def close(self) -> None:
        """Let go of every connection."""
        await self._engine.dispose()

    async def ping(self) -> None:
        """Ask something small."""
        async with self._begin() as db:
            await db.execute(select(1))

    async def use_nonce(self, digest: str, expires: int) -> bool:
        """Whether this is the first use of a nonce."""
        async with self._begin() as db:
            new = {"digest": digest, "expires": float(expires)}
            return bool(
                (await db.execute(self._insert(tables.used_nonces).values(new).on_conflict_do_nothing())).rowcount
            )

    async def beat(self, hub_id: str) -> bool:
        """Say that this process lives; False if it had been forgotten, and its sessions with it."""
        row = tables.hubs
        async with self._begin() as db:
            if (await db.execute(update(row).where(row.c.hub_id == hub_id).values(seen=self._now))).rowcount:
                return True
            await db.execute(self._insert(row).values(hub_id=hub_id, seen=self._now))
        return False

    async def leave(self, hub_id: str) -> None:
        """Take this process and its sessions out."""
        async with self._begin() as db:
            for table in (tables.presence, tables.hubs):
                await db.execute(delete(table).where(table.c.hub_id == hub_id))

    async def enter(self, node_id: str, place: Place) -> None:
        """A session is connected here now, and nowhere else."""
        row = {
            "hub_id": place.hub_id,
            "connection": place.connection,
            "takes_offers": place.takes_offers,
        }
        statement = self._insert(tables.presence).values(node_id=node_id, session=place.session, **row)
        async with self._begin() as db:
            await db.execute(statement.on_conflict_do_update(index_elements=["node_id", "session"], set_=row))

    async def exit(self, connection: str) -> None:
        """A websocket has ended."""
        async with self._begin() as db:
            await db.execute(delete(tables.presence).where(tables.presence.c.connection == connection))

    async def places_of(self, node_id: str) -> list[Place]:
        """Every session of a node whose hub lives."""
        p = tables.presence.c
        query = select(p.session, p.hub_id, p.connection, p.takes_offers).where(p.node_id == node_id, self._lives())
        async with self._begin() as db:
            return [Place(*row) for row in await db.execute(query)]

    async def put_advert(self, node_id: str, advert: Advert) -> bool:
        """Keep what a node advertises instead of what it did before; False where there is no room for another node."""
        async with self._begin() as db:
            return await discovery.put(db, node_id, advert, self._now)

    async def delete_advert(self, node_id: str) -> None:
        """Let a node be found no more."""
        async with self._begin() as db:
            await discovery.delete(db, node_id)

    async def search(self, asker: str, *, model: str = "", name: str = "", group: str = "") -> Found:
        """Who is online and lets `asker` see it: `model` and `name` by a part of them, `group` by the whole word."""
        async with self._begin() as db:
            return await discovery.search(db, asker, self._lives(), model=model, name=name, group=group)

    async def forget(self) -> None:
        """Delete what is over: used nonces that have expired, dead hubs, adverts of those who have gone."""
        hubs, presence, adverts = tables.hubs, tables.presence, tables.adverts
        gone = select(adverts.c.node_id).where(
            adverts.c.updated < self._now - FORGET_ADVERT_S, adverts.c.node_id.not_in(select(presence.c.node_id))
        )
        async with self._begin() as db:
            await db.execute(delete(tables.used_nonces).where(tables.used_nonces.c.expires < self._now - FORGET_HUB_S))
            await db.execute(delete(hubs).where(hubs.c.seen < self._now - FORGET_HUB_S))
            await db.execute(delete(presence).where(presence.c.hub_id.not_in(select(hubs.c.hub_id))))
            for node_id in (await db.scalars(gone.limit(1000))).all():
                await discovery.delete(db, node_id)

    def _lives(self) -> ColumnElement[bool]:
        hubs = tables.hubs.c
        alive = select(hubs.hub_id).where(hubs.seen > self._now - DEAD_AFTER_S)
        return tables.presence.c.hub_id.in_(alive)

    def _insert(self, table: Any) -> Any:
        return tables.insert(self._dialect, table)

    @contextlib.asynccontextmanager
    async def _begin(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._engine.begin() as db:
                yield db
        except (SQLAlchemyError, PostgresError, OSError) as error:  # asyncpg's own while it connects
            raise StorageError("The hub's database does not answer.") from error


def _make_private(path: Path) -> None:
    """Only the owner reads the secret in it; SQLite gives its other files the same mode."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise ConfigError(f"The database file {path} cannot be written: {error.strerror}.") from error


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    # Readers beside the one writer, and no fsync for a presence that a crash ends anyway.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
