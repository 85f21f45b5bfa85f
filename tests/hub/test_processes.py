"""One hub of two processes, on a real PostgreSQL and a real Redis."""

from __future__ import annotations

import asyncio
import time

import pytest
from node.waiting import until

from dpc_jupyter.hub.client.client import Advert, Offer
from dpc_jupyter.hub.storage.storage import Storage
from dpc_jupyter.identity import Identity
from hub import services
from hub.conftest import Start, needs_services
from hub.online import found, online
from hub.raw_node import RawNode, answer, offer
from hub.running_hub import RunningHub

pytestmark = needs_services
ORIGIN = "http://127.0.0.1:1"  # what both sign for; a balancer would be there
ADVERT = Advert((Offer(("m",), None),))


@pytest.fixture
def two(start_hub: Start, postgres_url: str, redis_url: str) -> tuple[RunningHub, RunningHub]:
    one = start_hub(database=postgres_url, redis=redis_url)
    return one, start_hub(database=postgres_url, redis=redis_url)


async def test_nodes_at_different_processes_find_and_call_each_other(
    two: tuple[RunningHub, RunningHub], host_id: Identity, guest_id: Identity
) -> None:
    async with online(two[0].url, host_id, "anna", "h") as anna, online(two[1].url, guest_id, "ben", "g") as ben:
        await anna.client.advertise(ADVERT)
        assert [node.node_id for node in await ben.client.search(model="m")] == [host_id.node_id]
        await ben.client.signal(anna.node_id, offer("x" * 60_000))
        await until(lambda: anna.signals)
        assert (anna.signals[0].sender_node_id, anna.signals[0].sender_session) == (ben.node_id, "g")
        await anna.client.signal(ben.node_id, answer(), "g")
        await until(lambda: ben.signals)
        assert ben.signals[0].payload == answer()
        assert not ben.refused


async def test_every_session_is_reached_wherever_it_is(
    two: tuple[RunningHub, RunningHub], host_id: Identity, guest_id: Identity
) -> None:
    async with (
        online(two[0].url, host_id, session="s0") as first,
        online(two[1].url, host_id, session="s1") as second,
        online(two[1].url, guest_id) as ben,
    ):
        await ben.client.signal(host_id.node_id, offer())
        await until(lambda: first.signals and second.signals)
        await ben.client.signal(host_id.node_id, offer(), "s0")
        await until(lambda: len(first.signals) == 2)
        assert len(second.signals) == 1


async def test_when_one_process_is_killed_its_nodes_are_offline_and_at_home_with_the_other(
    two: tuple[RunningHub, RunningHub], host_id: Identity, guest_id: Identity
) -> None:
    one, other = two
    async with online(one.url, host_id, "anna") as anna, online(other.url, guest_id) as ben:
        await anna.client.advertise(ADVERT)
        await found(ben, "anna")
        one.kill()
        await asyncio.sleep(0.5)
        # Redis knows at once that nobody listens any more.
        await ben.client.signal(anna.node_id, offer())
        await until(lambda: ben.refused)
        # And the heartbeat takes it out of what others find.
        await found(ben, "anna", 10.0, gone=True)
        async with online(other.url, host_id, "anna") as moved:
            await moved.client.advertise(ADVERT)
            await found(ben, "anna")
            await ben.client.signal(anna.node_id, offer())
            await until(lambda: moved.signals)
        one.start()
        assert await anna.online() <= 5.0
        await found(ben, "anna", 5.0)


def test_what_one_process_gave_the_other_one_knows(
    start_hub: Start, postgres_url: str, redis_url: str, host_id: Identity
) -> None:
    same = ("--public-url", ORIGIN)
    hubs = [start_hub(database=postgres_url, redis=redis_url, more=same) for _ in range(2)]
    one, other = (RawNode(hub.url, host_id) for hub in hubs)
    proof = one.proof(one.nonce(), ORIGIN)
    response = other.post("/login", proof)
    assert response.status_code == 200
    assert "used before" in one.post("/login", proof).json()["detail"]
    assert one.call("GET", "/nodes", response.json()["token"]).status_code == 200


async def test_processes_may_begin_with_an_empty_database_at_once() -> None:
    with services.postgres() as url:
        kept = [Storage(url) for _ in range(8)]
        try:
            assert len(set(await asyncio.gather(*(each.open() for each in kept)))) == 1, "they share one secret"
        finally:
            for each in kept:
                await each.close()


async def test_a_redis_that_was_away_carries_calls_again(
    start_hub: Start, postgres_url: str, host_id: Identity, guest_id: Identity
) -> None:
    port = services.free_port()
    with services.redis(port) as url:
        one, other = (start_hub(database=postgres_url, redis=url) for _ in range(2))
        health = RawNode(one.url, host_id)
        async with online(one.url, host_id) as anna, online(other.url, guest_id) as ben:
            await ben.client.signal(anna.node_id, offer())
            await until(lambda: anna.signals)
            # Its process ends here; the port is the same when it is back.
            services.end(port)
            await ben.client.signal(anna.node_id, offer())
            await until(lambda: ben.refused)
            assert health.call("GET", "/healthz", "").status_code == 503
            with services.redis(port):
                began = time.monotonic()
                while len(anna.signals) < 2:
                    assert time.monotonic() - began < 15
                    await ben.client.signal(anna.node_id, offer())
                    await asyncio.sleep(0.3)
                assert health.call("GET", "/healthz", "").status_code == 200


async def test_a_database_that_is_away_is_said_and_open_websockets_stay(
    start_hub: Start, redis_url: str, host_id: Identity, guest_id: Identity
) -> None:
    with services.postgres() as url:
        hub = start_hub(database=url, redis=redis_url)
        node = RawNode(hub.url, host_id)
        async with online(hub.url, guest_id) as ben:
            services.end(int(url.rsplit(":", 1)[1].split("/")[0]))
            proof = node.proof(node.nonce())
            assert node.post("/login", proof).status_code == 503
            assert node.call("GET", "/healthz", "").json()["database"] is False
            await ben.client.signal(host_id.node_id, offer())
            await until(lambda: ben.refused)
            assert ben.refused[0][1] == "The hub's database does not answer."
            assert ben.client.state.online
