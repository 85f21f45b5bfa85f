from __future__ import annotations

import asyncio
import json
import time

import pytest
from node.waiting import until
from websockets.exceptions import InvalidStatus

from dpc_jupyter.hub.limits import OUTBOX_LIMIT_BYTES, SESSIONS_PER_NODE, SIGNALS_PER_NODE, SLOW_READER_S
from dpc_jupyter.hub.tokens import TOKEN_S, Tokens
from dpc_jupyter.hub.wire import EXPIRED, PAYLOAD_LIMIT_BYTES, REPLACED
from hub.conftest import Start
from hub.raw_node import RawNode, answer, offer
from hub.running_hub import RunningHub
from hub.test_login import secret_of


async def test_a_signal_arrives_as_it_was_sent_with_the_proven_sender(anna: RawNode, ben: RawNode) -> None:
    async with await anna.open() as at_anna, await ben.open() as at_ben:
        payload = offer("v=0\r\na=fingerprint:sha-256 é") | {"extra": [1, None, {"deep": 1.50}]}
        await at_ben.call(anna.identity.node_id, payload)
        assert await at_anna.heard() == {"type": "signal", "sender_node_id": ben.identity.node_id, "payload": payload}
        await at_anna.call(ben.identity.node_id, answer())
        assert (await at_ben.heard())["payload"] == answer()


async def test_the_sender_is_not_who_it_says(anna: RawNode, ben: RawNode, eve: RawNode) -> None:
    async with await anna.open() as at_anna, await eve.open() as at_eve:
        claim = {"sender_node_id": ben.identity.node_id, "sender_session": "s1"}
        await at_eve.call(anna.identity.node_id, offer(), **claim)
        heard = await at_anna.heard()
        assert heard["sender_node_id"] == eve.identity.node_id
        assert "sender_session" not in heard


async def test_the_parents_client_is_served_by_its_token_in_the_url(anna: RawNode, ben: RawNode) -> None:
    async with await anna.open(in_query=True) as at_anna, await ben.open(session="s1") as at_ben:
        await at_anna.call(ben.identity.node_id, offer())
        assert await at_ben.heard() == {
            "type": "signal",
            "sender_node_id": anna.identity.node_id,
            "payload": offer(),
        }
        await at_ben.call(anna.identity.node_id, answer())
        assert (await at_anna.heard())["payload"] == answer()


async def test_a_target_that_is_not_there_is_told(anna: RawNode, ben: RawNode) -> None:
    async with await anna.open() as at_anna:
        await at_anna.call(ben.identity.node_id, offer())
        refused = await at_anna.heard()
        assert refused["type"] == "error"
        assert refused["target_node_id"] == ben.identity.node_id
        assert refused["error"] == f"{ben.identity.node_id} is not online."
        await at_anna.call("no node <script>", offer())
        assert await at_anna.heard() == {"type": "error", "target_node_id": "", "error": "No such node."}
        async with await ben.open(offers="false"):
            await at_anna.call(ben.identity.node_id, offer())
            assert (await at_anna.heard())["error"] == f"{ben.identity.node_id} is not online."


async def test_offers_go_to_the_sessions_that_take_them_and_answers_to_the_one_that_asked(
    anna: RawNode, ben: RawNode
) -> None:
    async with (
        await anna.open(session="host1") as first,
        await anna.open(session="host2") as second,
        await anna.open(session="asks", offers="false") as asks_only,
        await ben.open(session="b1") as b1,
        await ben.open(session="b2") as b2,
    ):
        await b1.call(anna.identity.node_id, offer())
        for host in (first, second):
            assert (await host.heard())["sender_session"] == "b1"
        await first.call(ben.identity.node_id, answer(), target_session="b1")
        heard = await b1.heard()
        assert heard["payload"] == answer()
        assert heard["sender_session"] == "host1"
        assert await b2.silent()
        assert await asks_only.silent()
        await first.call(ben.identity.node_id, answer(), target_session="gone")
        assert (await first.heard())["target_session"] == "gone"


async def test_a_payload_that_is_too_long_is_refused_and_a_longer_frame_ends_it(anna: RawNode, ben: RawNode) -> None:
    async with await anna.open() as at_anna, await ben.open() as at_ben:
        room = PAYLOAD_LIMIT_BYTES - len(json.dumps(offer("")))
        await at_ben.call(anna.identity.node_id, offer("x" * room))
        assert (await at_anna.heard())["payload"]["offer"]["sdp"] == "x" * room
        await at_ben.call(anna.identity.node_id, offer("x" * (room + 1)))
        assert "at most" in (await at_ben.heard())["error"]
        await at_ben.call(anna.identity.node_id, offer("x" * 100_000))
        assert await at_ben.close_code() == 1009
        assert await at_anna.silent()


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "[" * 50_000, '{"type": "signal"}', '{"type": "other"}'),
        *('{"type": "signal", "target_node_id": 1}', '{"type": "token", "token": "x"}'),
    ],
)
async def test_what_is_no_message_is_refused_and_the_next_one_goes_through(
    anna: RawNode, ben: RawNode, text: str
) -> None:
    async with await anna.open() as at_anna, await ben.open() as at_ben:
        await at_ben.say(text)
        refused = await at_ben.heard()
        assert refused["type"] == "error"
        assert len(refused["error"]) < 300
        nothing: list[object] = [[], "offer", None, 1]
        for no_object in nothing:
            await at_ben.call(anna.identity.node_id, no_object)
            assert (await at_ben.heard())["error"] == "The payload is no JSON object."
        await at_ben.call(anna.identity.node_id, offer())
        assert (await at_anna.heard())["payload"] == offer()


async def test_binary_messages_are_refused(anna: RawNode) -> None:
    async with await anna.open() as at_anna:
        await at_anna.socket.send(b"\x00")
        assert (await at_anna.heard())["error"] == "Messages are text."


async def test_without_a_good_token_no_websocket_opens(anna: RawNode, hub: RunningHub) -> None:
    past = Tokens(secret_of(hub), hub.url, lambda: time.time() - TOKEN_S - 1).issue(anna.identity.node_id)
    for token in (past, "x"):
        for in_query in (True, False):
            with pytest.raises(InvalidStatus) as refused:
                await anna.open(token, in_query=in_query)
            assert refused.value.response.status_code == 401
    with pytest.raises(InvalidStatus) as refused:
        await anna.open(session="not a name")
    assert refused.value.response.status_code == 400


async def test_a_websocket_ends_with_its_token_unless_a_newer_one_comes(anna: RawNode, hub: RunningHub) -> None:
    nearly = Tokens(secret_of(hub), hub.url, lambda: time.time() - TOKEN_S + 3).issue(anna.identity.node_id)
    async with await anna.open(nearly, session="a") as left, await anna.open(nearly, session="b") as kept:
        await kept.say({"type": "token", "token": await asyncio.to_thread(anna.token)})
        assert await left.close_code() == EXPIRED
        await kept.call(anna.identity.node_id, offer(), target_session="b")
        assert (await kept.heard())["payload"] == offer()


async def test_another_nodes_token_does_not_keep_a_websocket(anna: RawNode, eve: RawNode, hub: RunningHub) -> None:
    nearly = Tokens(secret_of(hub), hub.url, lambda: time.time() - TOKEN_S + 3).issue(anna.identity.node_id)
    async with await anna.open(nearly) as socket:
        await socket.say({"type": "token", "token": await asyncio.to_thread(eve.token)})
        assert (await socket.heard())["error"] == "That is another node's token."
        assert await socket.close_code() == EXPIRED


async def test_a_session_that_comes_again_replaces_its_older_websocket(anna: RawNode, ben: RawNode) -> None:
    async with await anna.open(session="a") as old, await anna.open(session="a") as new, await ben.open() as at_ben:
        assert await old.close_code() == REPLACED
        await asyncio.sleep(0.1)  # the old one's end must not take the new one along
        await at_ben.call(anna.identity.node_id, offer())
        assert (await new.heard())["payload"] == offer()


async def test_a_node_has_so_many_sessions_and_no_more(start_hub: Start, anna: RawNode) -> None:
    node = RawNode(start_hub().url, anna.identity)
    token = await asyncio.to_thread(node.token)
    sockets = [await node.open(token, session=f"s{number}") for number in range(SESSIONS_PER_NODE)]
    with pytest.raises(InvalidStatus) as refused:
        await node.open(token, session="one-more")
    assert refused.value.response.status_code == 429
    sockets.append(await node.open(token, session="s0"))  # one that comes again is no more
    for socket in sockets:
        await socket.socket.close()


async def test_who_floods_waits_and_others_do_not(start_hub: Start, anna: RawNode, ben: RawNode, eve: RawNode) -> None:
    hub = start_hub()
    anna, ben, eve = (RawNode(hub.url, node.identity) for node in (anna, ben, eve))
    async with await anna.open() as at_anna, await ben.open() as at_ben, await eve.open() as at_eve:
        count = int(SIGNALS_PER_NODE[1]) * 2

        async def flood() -> None:
            for _ in range(count):
                await at_eve.call(eve.identity.node_id, answer())

        flooding = asyncio.create_task(flood())
        heard = [await at_eve.heard() for _ in range(int(SIGNALS_PER_NODE[1]) + 2)]
        assert any("Too many" in message.get("error", "") for message in heard)
        for _ in range(50):
            began = time.monotonic()
            await at_ben.call(anna.identity.node_id, offer())
            await at_anna.heard()
            assert time.monotonic() - began < 2
        flooding.cancel()
        assert await asyncio.to_thread(hub.metric, 'dpc_hub_refused_total{what="signal rate"}') >= 1


async def test_who_does_not_read_costs_little_and_is_let_go(start_hub: Start, anna: RawNode, ben: RawNode) -> None:
    hub = start_hub()
    anna, ben = RawNode(hub.url, anna.identity), RawNode(hub.url, ben.identity)
    async with await ben.open() as at_ben:
        at_anna = await anna.open(receive_buffer_bytes=4096)
        at_anna.socket.transport.pause_reading()
        before = hub.memory_bytes()
        for _ in range(int(SIGNALS_PER_NODE[1])):  # 12 MiB: more than the kernel keeps
            await at_ben.call(anna.identity.node_id, offer("x" * 65_000))
        assert "does not take messages now" in (await at_ben.heard())["error"]
        assert hub.memory_bytes() - before < OUTBOX_LIMIT_BYTES + 8 * 2**20
        await until(lambda: hub.metric("dpc_hub_online_sessions") == 1, SLOW_READER_S + 15)
        at_anna.socket.transport.abort()


async def test_who_pings_and_does_not_read_is_let_go(start_hub: Start, anna: RawNode) -> None:
    """uvicorn's own websocket would keep every pong for it."""
    hub = start_hub()
    node = RawNode(hub.url, anna.identity)
    at_hub = await node.open(receive_buffer_bytes=4096)
    transport = at_hub.socket.transport
    transport.pause_reading()
    before = hub.memory_bytes()
    ping = b"\x89\xfd\x00\x00\x00\x00" + b"p" * 125
    transport.write(ping * 190_000)  # 24 MiB, of which the kernel keeps some on either side
    unread_bytes = 0
    while await asyncio.to_thread(hub.metric, "dpc_hub_online_sessions") == 1:
        if not transport.is_closing():
            unread_bytes = transport.get_write_buffer_size()
        assert hub.memory_bytes() - before < 8 * 2**20
        await asyncio.sleep(0.1)
    assert unread_bytes > 8 * 2**20
    transport.abort()


async def test_no_more_sessions_get_in_at_once_than_one_after_another(start_hub: Start, anna: RawNode) -> None:
    node = RawNode(start_hub().url, anna.identity)
    token = await asyncio.to_thread(node.token)
    names = [f"s{number}" for number in range(2 * SESSIONS_PER_NODE)]
    opened = await asyncio.gather(*(node.open(token, session=name) for name in names), return_exceptions=True)
    sockets = [each for each in opened if not isinstance(each, BaseException)]
    assert 1 <= len(sockets) <= SESSIONS_PER_NODE
    assert all(isinstance(each, InvalidStatus) for each in opened if isinstance(each, BaseException))
    for socket in sockets:
        await socket.socket.close()
