"""What the hub keeps, as tables. Nothing in them is a prompt, an SDP or an address."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Dialect,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    cast,
    extract,
    func,
)
from sqlalchemy.dialects import postgresql, sqlite

metadata = MetaData()
EVERYONE = "*"

settings = Table(
    "settings",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", String(256), nullable=False),
)
used_nonces = Table(
    "used_nonces",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("expires", Float, nullable=False),
)
# A process of the hub, which writes `seen` every two seconds: one row keeps all of its presences alive, and one that is
# killed takes them along.
hubs = Table(
    "hubs",
    metadata,
    Column("hub_id", String(32), primary_key=True),
    Column("seen", Float, nullable=False),
)
presence = Table(
    "presence",
    metadata,
    Column("node_id", String(41), primary_key=True),
    Column("session", String(64), primary_key=True),
    Column("hub_id", String(32), nullable=False, index=True),
    # One websocket: an old one that closes late must not take its successor's row.
    Column("connection", String(64), nullable=False, unique=True),
    Column("takes_offers", Boolean, nullable=False),
)
adverts = Table(
    "adverts",
    metadata,
    Column("node_id", String(41), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("updated", Float, nullable=False),
)
models = Table(
    "offer_models",
    metadata,
    Column("node_id", String(41), primary_key=True),
    Column("offer", Integer, primary_key=True),
    Column("model", String(128), primary_key=True),
)
groups = Table(
    "offer_groups",
    metadata,
    Column("node_id", String(41), primary_key=True),
    Column("offer", Integer, primary_key=True),
    Column("word", String(128), primary_key=True),
)
# `node_id` shows this offer to `audience`: a node id, or EVERYONE.
audiences = Table(
    "offer_audiences",
    metadata,
    Column("node_id", String(41), primary_key=True),
    Column("offer", Integer, primary_key=True),
    Column("audience", String(41), primary_key=True),
    Index("who_sees_what", "audience", "node_id", "offer"),
)


def now(dialect: Dialect) -> ColumnElement[float]:
    """Unix seconds by the database's clock, which is the only one that all processes share."""
    if dialect.name == "postgresql":
        return cast(extract("epoch", func.clock_timestamp()), Float)
    return (func.julianday("now", type_=Float) - 2440587.5) * 86_400.0


def insert(dialect: Dialect, table: Table) -> Any:
    """An INSERT that knows ON CONFLICT: the two dialects spell it alike, but not in common code."""
    return postgresql.insert(table) if dialect.name == "postgresql" else sqlite.insert(table)
