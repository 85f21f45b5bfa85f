"""The stream that tests use keeps the contract of the real one."""

from __future__ import annotations

import asyncio

from dpc_jupyter.transports.memory import pair
from transports.nodes import Ear


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_bytes_arrive_at_the_other_end_on_a_later_turn() -> None:
    client, server = pair(b"certificate")
    ear = Ear()
    server.attach(ear)
    assert client.write(b"hello")
    assert ear.heard == b""
    await turns()
    assert ear.heard == b"hello"


async def test_bytes_that_came_before_a_receiver_are_kept_in_order() -> None:
    client, server = pair(b"certificate")
    client.write(b"a")
    client.write(b"b")
    await turns()
    ear = Ear()
    server.attach(ear)
    client.write(b"c")
    await turns()
    assert ear.heard == b"abc"


async def test_both_ends_see_the_servers_certificate() -> None:
    client, server = pair(b"certificate")
    assert client.server_cert_der == server.server_cert_der == b"certificate"


async def test_a_close_delivers_what_was_written_and_is_told_once_at_each_end() -> None:
    client, server = pair(b"certificate")
    ears = Ear(), Ear()
    client.attach(ears[0])
    server.attach(ears[1])
    client.write(b"last words")
    client.close()
    client.close()
    server.abort()
    await turns()
    assert ears[1].heard == b"last words"
    assert [len(ear.ends) for ear in ears] == [1, 1]


async def test_nothing_is_delivered_after_the_end() -> None:
    client, server = pair(b"certificate")
    ear = Ear()
    server.attach(ear)
    client.close()
    await turns()
    client.write(b"too late")
    await turns()
    assert ear.heard == b""
    assert client.unsent_bytes() == 0
