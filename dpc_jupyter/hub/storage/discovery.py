"""Adverts in the database, and who may find them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, insert, select
from sqlalchemy import delete as delete_from
from sqlalchemy.ext.asyncio import AsyncConnection

from dpc_jupyter.hub.limits import ADVERTS_LIMIT
from dpc_jupyter.hub.schemas import Advert, Found, FoundNode
from dpc_jupyter.hub.storage.tables import EVERYONE, adverts, audiences, groups, models, presence
from dpc_jupyter.hub.wire import FOUND_LIMIT, FOUND_WORDS


async def put(db: AsyncConnection, node_id: str, advert: Advert, now: ColumnElement[float]) -> bool:
    """Keep what a node advertises instead of what it did before; False where there is no room for another node."""
    await delete(db, node_id)
    if (await db.scalar(select(func.count()).select_from(adverts)) or 0) >= ADVERTS_LIMIT:
        return False
    await db.execute(insert(adverts).values(node_id=node_id, name=advert.name, updated=now))
    for table, rows in _rows(node_id, advert).items():
        if rows:
            await db.execute(insert(table), rows)
    return True


async def delete(db: AsyncConnection, node_id: str) -> None:
    """Let a node be found no more."""
    for table in (audiences, models, groups, adverts):
        await db.execute(delete_from(table).where(table.c.node_id == node_id))


async def search(
    db: AsyncConnection, asker: str, lives: ColumnElement[bool], *, model: str, name: str, group: str
) -> Found:
    """As `Storage.search`; `lives` is true of presences whose hub lives."""
    a, m, v, g = adverts.c, models.c, audiences.c, groups.c
    to_asker = v.audience.in_([EVERYONE, asker])
    shown = and_(m.node_id == v.node_id, m.offer == v.offer, to_asker)
    told = and_(g.node_id == v.node_id, g.offer == v.offer, to_asker)
    online = select(presence.c.node_id).where(presence.c.node_id == a.node_id, lives)
    nodes = select(a.node_id, a.name).where(online.exists())
    if model:
        nodes = nodes.where(
            select(m.model).where(v.node_id == a.node_id, shown, m.model.icontains(model, autoescape=True)).exists()
        )
    else:
        nodes = nodes.where(select(v.offer).where(v.node_id == a.node_id, to_asker).exists())
    if name:
        nodes = nodes.where(a.name.icontains(name, autoescape=True))
    if group:
        nodes = nodes.where(select(g.word).where(v.node_id == a.node_id, told, g.word == group).exists())
    # Who lets this very node in comes first: names are free, and a hundred of them would hide everybody.
    for_asker = select(v.offer).where(v.node_id == a.node_id, v.audience == asker).exists()
    order = (case((for_asker, 0), else_=1), a.name, a.node_id)
    rows = (await db.execute(nodes.order_by(*order).limit(FOUND_LIMIT + 1))).all()
    ids = [row.node_id for row in rows[:FOUND_LIMIT]]
    words = _by_node((await db.execute(select(m.node_id, m.model).where(m.node_id.in_(ids), shown).distinct())).all())
    belongs = _by_node((await db.execute(select(g.node_id, g.word).where(g.node_id.in_(ids), told).distinct())).all())
    found = [
        FoundNode(
            node_id=node_id,
            name=name,
            models=_some(words.get(node_id, []), model),
            groups=_some(belongs.get(node_id, []), group),
        )
        for node_id, name in rows[:FOUND_LIMIT]
    ]
    return Found(nodes=found, more=len(rows) > FOUND_LIMIT)


def _rows(node_id: str, advert: Advert) -> dict[Any, list[dict[str, Any]]]:
    found: dict[Any, list[dict[str, Any]]] = {models: [], groups: [], audiences: []}
    for number, offer in enumerate(advert.offers):
        to = [EVERYONE] if offer.visible_to == "everyone" else offer.visible_to
        key = {"node_id": node_id, "offer": number}
        found[models] += [{**key, "model": model} for model in dict.fromkeys(offer.models)]
        found[groups] += [{**key, "word": word} for word in dict.fromkeys(offer.groups)]
        found[audiences] += [{**key, "audience": node} for node in dict.fromkeys(to)]
    return found


def _some(words: list[str], sought: str) -> list[str]:
    """Those with what was sought come first; all of them of a hundred nodes would be too long an answer."""
    return sorted(words, key=lambda word: sought.casefold() not in word.casefold())[:FOUND_WORDS]


def _by_node(rows: Sequence[Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for node_id, word in sorted(tuple(row) for row in rows):
        found.setdefault(node_id, []).append(word)
    return found
