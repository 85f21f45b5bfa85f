from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dpc_jupyter.hub.limits import ADVERTS_PER_NODE, SEARCHES_PER_NODE
from dpc_jupyter.hub.schemas import Advert
from dpc_jupyter.hub.storage import storage
from dpc_jupyter.hub.storage.storage import Place, Storage
from dpc_jupyter.hub.wire import FOUND_LIMIT, FOUND_WORDS
from dpc_jupyter.identity import Identity
from hub.conftest import Start, needs_services
from hub.raw_node import RawNode

EVERYONE = "everyone"
A, B, C = (f"dpc-node-{letter * 32}" for letter in "abc")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs_services)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return str(tmp_path / "hub.sqlite3")


def advert(name: str, *offers: tuple[list[str], Any], groups: list[str] = []) -> Advert:  # noqa: B006
    shown = [{"models": models, "groups": groups, "visible_to": visible_to} for models, visible_to in offers]
    return Advert.model_validate({"name": name, "offers": shown})


async def come(kept: Storage, node_id: str, hub_id: str = "h1", session: str = "s") -> str:
    connection = f"{hub_id}.{node_id[-1]}.{session}"
    await kept.enter(node_id, Place(session, hub_id, connection, True))
    return connection


async def found(kept: Storage, asker: str, **terms: str) -> dict[str, list[str]]:
    return {node.name: node.models for node in (await kept.search(asker, **terms)).nodes}


@pytest.fixture
async def kept(database: str) -> Any:
    opened = Storage(database)
    await opened.open()
    await opened.beat("h1")
    yield opened
    await opened.leave("h1")
    for node_id in (A, B, C):
        await opened.delete_advert(node_id)
    await opened.close()


async def test_each_asker_sees_the_models_that_are_shown_to_it(kept: Storage) -> None:
    await come(kept, A)
    await kept.put_advert(A, advert("anna", (["open"], EVERYONE), (["secret", "open"], [B])))
    assert await found(kept, B) == {"anna": ["open", "secret"]}
    assert await found(kept, C) == {"anna": ["open"]}
    assert await found(kept, C, model="secret") == {}
    assert await found(kept, B, model="SECR") == {"anna": ["secret", "open"]}, "what was sought comes first"
    await kept.put_advert(A, advert("anna", (["secret"], [B])))
    assert await found(kept, C) == {}
    assert await found(kept, C, name="anna") == {}


async def test_a_search_matches_parts_literally_and_groups_whole(kept: Storage) -> None:
    await come(kept, A)
    await kept.put_advert(A, advert("Anna_1", (["llama3.1:8b"], EVERYONE), groups=["ml-lab"]))
    for terms in ({"name": "anna_"}, {"model": "3.1"}, {"group": "ml-lab"}, {"name": "n", "model": "LLAMA"}):
        assert await found(kept, B, **terms), terms
    for terms in (
        {"name": "%"},
        {"name": "a%a"},
        {"model": "3_1"},
        {"group": "ml"},
        {"group": "%"},
        {"name": "' OR 1"},
    ):
        assert not await found(kept, B, **terms), terms


async def test_a_group_is_shown_to_those_whom_it_lets_in_and_found_by_nobody_else(kept: Storage) -> None:
    await come(kept, A)
    offers = [{"models": ["m"], "groups": [group], "visible_to": [node]} for group, node in (("lab", B), ("club", C))]
    await kept.put_advert(A, Advert.model_validate({"name": "anna", "offers": offers}))
    for viewer, own, other in ((B, "lab", "club"), (C, "club", "lab")):
        assert await found(kept, viewer, group=own) and not await found(kept, viewer, group=other)
        (node,) = (await kept.search(viewer, model="", name="", group="")).nodes
        assert node.groups == [own]


async def test_who_is_offline_is_not_found(kept: Storage) -> None:
    await kept.put_advert(A, advert("anna", (["m"], EVERYONE)))
    assert await found(kept, B) == {}
    first, second = await come(kept, A, session="s1"), await come(kept, A, session="s2")
    await kept.exit(first)
    assert await found(kept, B) == {"anna": ["m"]}
    await kept.exit(second)
    assert await found(kept, B) == {}


async def test_the_sessions_of_a_hub_that_misses_its_beats_are_offline(
    kept: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kept.put_advert(A, advert("anna", (["m"], EVERYONE)))
    await kept.beat("killed")
    await come(kept, A, "killed")
    assert await found(kept, B)
    assert await kept.places_of(A)
    monkeypatch.setattr(storage, "DEAD_AFTER_S", 0.5)
    await asyncio.sleep(0.6)
    assert not await found(kept, B)
    assert not await kept.places_of(A)
    monkeypatch.setattr(storage, "FORGET_HUB_S", 0.5)
    await kept.forget()
    monkeypatch.setattr(storage, "DEAD_AFTER_S", 60)
    assert not await kept.beat("killed"), "one that comes back is told that it was forgotten"
    assert not await kept.places_of(A)
    await kept.leave("killed")


async def test_an_old_websocket_that_ends_late_does_not_take_the_new_one_along(kept: Storage) -> None:
    old = await come(kept, A, "h1")
    await kept.beat("h2")
    await come(kept, A, "h2")
    await kept.exit(old)
    assert [place.hub_id for place in await kept.places_of(A)] == ["h2"]
    await kept.leave("h2")
    assert not await kept.places_of(A)


async def test_a_nonce_is_used_once_even_at_the_same_moment(kept: Storage) -> None:
    now = int(time.time())
    digest = f"{time.time_ns()}"
    uses = await asyncio.gather(*(kept.use_nonce(digest, now + 60) for _ in range(10)))
    assert sorted(uses) == [False] * 9 + [True]
    await kept.forget()
    assert not await kept.use_nonce(digest, now + 60)


async def test_what_a_search_finds_is_bounded(kept: Storage) -> None:
    ids = [f"dpc-node-{number:032x}" for number in range(FOUND_LIMIT + 1)]
    for number, node_id in enumerate(ids):
        await kept.enter(node_id, Place("s", "h1", f"h1.{number}", True))
        await kept.put_advert(node_id, advert(f"node{number:03}", (["m"], EVERYONE)))
    answer = await kept.search(A)
    assert (len(answer.nodes), answer.more) == (FOUND_LIMIT, True)
    for node_id in ids:
        await kept.delete_advert(node_id)


async def test_the_adverts_of_those_who_have_gone_are_forgotten(kept: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "FORGET_ADVERT_S", -1.0)
    await come(kept, A)
    await kept.put_advert(A, advert("anna", (["m"], EVERYONE)))
    await kept.put_advert(B, advert("ben", (["m"], EVERYONE)))
    await kept.forget()
    await come(kept, B)
    assert await found(kept, C) == {"anna": ["m"]}


@pytest.fixture
def nodes(start_hub: Start, host_id: Identity, guest_id: Identity) -> Iterator[tuple[RawNode, RawNode]]:
    url = start_hub().url
    yield RawNode(url, host_id), RawNode(url, guest_id)


ADVERT = {"name": "anna", "offers": [{"models": ["m"], "visible_to": "everyone"}]}


async def test_words_are_made_safe_before_they_are_kept(nodes: tuple[RawNode, RawNode]) -> None:
    anna, ben = nodes
    token = anna.token()
    async with await anna.open(token):
        surrogate = json.dumps(ADVERT | {"offers": [{"models": [], "groups": ["g\ud800"], "visible_to": "everyone"}]})
        assert anna.call("PUT", "/me", token, content=surrogate).status_code in (204, 422)
        hostile = ADVERT | {"name": "an\x1b[31mna\x00\u202e"}
        assert anna.call("PUT", "/me", token, json=hostile).status_code == 204
        answer = ben.call("GET", "/nodes", ben.token(), params={"name": "\x00anna"}).json()
        assert [node["name"] for node in answer["nodes"]] == ["anna"]


@pytest.mark.parametrize(
    "body",
    [
        ADVERT | {"more": 1},
        ADVERT | {"name": "x" * 129},
        ADVERT | {"offers": [{"models": ["m"], "visible_to": "nobody"}]},
        ADVERT | {"offers": [{"models": ["m"], "visible_to": ["*"]}]},
        ADVERT | {"offers": [{"models": ["m"], "visible_to": "everyone"}] * 65},
        {"name": "anna"},
        [],
    ],
)
def test_an_advert_that_is_none_is_refused(hub_token: tuple[RawNode, str], body: object) -> None:
    node, token = hub_token
    assert node.call("PUT", "/me", token, json=body).status_code == 422


@pytest.fixture(scope="module")
def hub_token(hub: Any, host_id: Identity) -> tuple[RawNode, str]:
    node = RawNode(hub.url, host_id)
    return node, node.token()


def test_an_advert_has_so_many_words_and_no_more(hub_token: tuple[RawNode, str]) -> None:
    node, token = hub_token
    words = [f"m{number}" for number in range(600)]
    offers = [{"models": words, "visible_to": "everyone"}] * 2
    response = node.call("PUT", "/me", token, json=ADVERT | {"offers": offers})
    assert response.status_code == 413
    assert "1024" in response.json()["detail"]


def test_searches_and_adverts_are_counted(nodes: tuple[RawNode, RawNode]) -> None:
    anna, ben = nodes
    token = anna.token()
    searches = [anna.call("GET", "/nodes", token).status_code for _ in range(int(SEARCHES_PER_NODE[1]) + 10)]
    assert searches[0] == 200
    assert 429 in searches
    adverts = [anna.call("PUT", "/me", token, json=ADVERT).status_code for _ in range(int(ADVERTS_PER_NODE[1]) + 5)]
    assert adverts[0] == 204
    assert 429 in adverts
    assert ben.call("GET", "/nodes", ben.token()).status_code == 200


async def test_a_hundred_nodes_of_a_thousand_words_hide_nobody(kept: Storage) -> None:
    """Keys and names are free: who lets the asker in comes before who shows itself to everyone."""
    crowd = [f"dpc-node-{number:032x}" for number in range(FOUND_LIMIT + 1)]
    for number, node_id in enumerate(crowd):
        await come(kept, node_id, session=str(number))
        await kept.put_advert(node_id, advert("!", ([f"llama-{n}" for n in range(200)], EVERYONE)))
    await come(kept, A)
    await kept.put_advert(A, advert("zoe", (["llama3"], [B])))
    answer = await kept.search(B, model="llama")
    assert answer.more and answer.nodes[0].name == "zoe"
    assert {len(node.models) for node in answer.nodes[1:]} == {FOUND_WORDS}
    assert len(answer.model_dump_json()) < 1_000_000
    for node_id in crowd:
        await kept.delete_advert(node_id)
