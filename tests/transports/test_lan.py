"""Nodes in the local network: real multicast DNS, on the loopback interface alone."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial

import pytest
from zeroconf import DNSOutgoing, DNSPointer, ServiceStateChange, Zeroconf  # type: ignore[attr-defined]
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from dpc_jupyter.transports import lan
from dpc_jupyter.transports.lan import SERVICE, announce, find

NODE, OTHER = f"dpc-node-{'1' * 32}", f"dpc-node-{'2' * 32}"

Tell = Callable[..., "asyncio.Task[None]"]


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lan, "AsyncZeroconf", partial(AsyncZeroconf, interfaces=["127.0.0.1"]))


@pytest.fixture
async def tell() -> AsyncIterator[Tell]:
    tasks: list[asyncio.Task[None]] = []

    def begin(node_id: str = NODE, session: str = "a-session", host: str = "192.0.2.7", port: int = 8889) -> object:
        tasks.append(asyncio.create_task(announce(node_id, session, host, port)))
        return tasks[-1]

    yield begin  # type: ignore[misc]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def found(node_id: str = NODE) -> set[tuple[str, int]]:
    """As often as it takes, within bounds: a machine may be busy."""
    for _ in range(6):
        if addresses := await find(node_id):
            return set(addresses)
    return set()


async def test_a_node_is_found_as_long_as_it_is_announced(tell: Tell) -> None:
    telling = tell()
    assert await found() == {("192.0.2.7", 8889)}
    assert await find(OTHER, 0.5) == ()
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    assert await find(NODE) == ()


async def test_who_is_first_does_not_hide_another(tell: Tell) -> None:
    tell(session="liar", host="192.0.2.66", port=1)
    tell(session="good", host="2001:db8::7")
    for _ in range(6):
        if len(addresses := await find(NODE)) == 2:
            break
    assert set(addresses) == {("192.0.2.66", 1), ("2001:db8::7", 8889)}


async def test_of_a_thousand_announcements_few_are_tried_and_none_that_means_this_machine() -> None:
    async with AsyncZeroconf(interfaces=["127.0.0.1"]) as liar:
        here = ["127.0.0.1", "0.0.0.0", "::", "::1", "::ffff:127.0.0.1", "169.254.1.1", "::ffff:169.254.1.1", "fe80::1"]
        addresses = [*here, "224.0.0.251", "255.255.255.255", *(f"192.0.2.{n}" for n in range(40))]
        for number in range(1000 // len(addresses)):
            name = f"{NODE}-{number}"
            info = AsyncServiceInfo(
                SERVICE, f"{name}.{SERVICE}", parsed_addresses=addresses, port=1, server=f"{name}.local."
            )
            await liar.async_register_service(info, cooperating_responders=True)
        tried = await found()
        await liar.async_unregister_all_services()
    assert 0 < len(tried) <= lan._ADDRESSES_LIMIT
    assert all(address.startswith("192.0.2.") for address, _ in tried)


@pytest.mark.parametrize("name", ["x._http._tcp.local.", f"\x01.{SERVICE}", f"nobody-{{}}.{SERVICE}"])
async def test_names_that_are_none_or_lead_nowhere_hide_nobody(tell: Tell, name: str) -> None:
    async def lie() -> None:
        while True:
            for number in range(3):
                said = DNSOutgoing(0x8400)
                alias = f"{NODE}-{name}".format(number)
                said.add_answer_at_time(DNSPointer(SERVICE, 12, 1, 4500, alias), 0)
                liar.zeroconf.async_send(said)
            await asyncio.sleep(0.02)

    tell()
    async with AsyncZeroconf(interfaces=["127.0.0.1"]) as liar:
        await liar.zeroconf.async_wait_for_start()
        lying = asyncio.create_task(lie())
        assert await found() == {("192.0.2.7", 8889)}
        lying.cancel()


async def test_who_announces_many_addresses_does_not_hide_who_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Info:
        port = 1

        def __init__(self, service: str, name: str) -> None:
            self.many = "liar" in name

        async def async_request(self, *_: object) -> None: ...

        def parsed_addresses(self) -> list[str]:
            return [f"192.0.2.{number}" for number in range(100, 140)] if self.many else ["192.0.2.7"]

    class Browser:
        def __init__(self, mdns: Zeroconf, services: list[str], handlers: list[Callable[..., None]]) -> None:
            for name in ("liar", "good"):
                handlers[0](mdns, SERVICE, f"{NODE}-{name}.{SERVICE}", ServiceStateChange.Added)

        async def async_cancel(self) -> None: ...

    monkeypatch.setattr(lan, "AsyncServiceInfo", Info)
    monkeypatch.setattr(lan, "AsyncServiceBrowser", Browser)
    assert (await find(NODE))[:2] == (("192.0.2.100", 1), ("192.0.2.7", 1))


async def test_a_listener_of_this_machine_alone_is_not_announced(tell: Tell) -> None:
    tell(host="127.0.0.1")
    assert await find(NODE) == ()


async def test_a_laptop_is_announced_under_its_new_address(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    now = ["192.0.2.7"]
    monkeypatch.setattr(lan, "_announced", lambda host: list(now))
    monkeypatch.setattr(lan, "_LOOK_EVERY_S", 0.1)
    tell(host="")
    assert await found() == {("192.0.2.7", 8889)}
    now[0] = "192.0.2.8"
    for _ in range(6):
        if (addresses := await find(NODE)) == (("192.0.2.8", 8889),):
            break
    assert addresses == (("192.0.2.8", 8889),)


@pytest.mark.parametrize(("network", "heard"), [("127.0.0.0/8", True), ("10.71.0.0/16", False)])
async def test_who_is_in_no_network_of_this_machine_is_not_heard(
    tell: Tell, monkeypatch: pytest.MonkeyPatch, network: str, heard: bool
) -> None:
    monkeypatch.setattr(lan, "_networks", lambda: [ipaddress.ip_network(network), ipaddress.ip_network("fd00:71::/64")])
    question = struct.pack(">6H", 7, 0, 1, 0, 0, 0) + b"\4_dpc\4_tcp\5local\0" + struct.pack(">2H", 12, 1)
    tell()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        answer = b""
        for _ in range(40):  # as from anywhere: straight to the port, and not from it
            asking.sendto(question, ("127.0.0.1", 5353))
            await asyncio.sleep(0.1)
            with suppress(BlockingIOError):
                answer = asking.recv(9000)
                break
    assert (NODE.encode() in answer) is heard


async def test_a_network_without_multicast_is_no_error(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(lan, "AsyncZeroconf", no_network)
    monkeypatch.setattr(lan, "_LOOK_EVERY_S", 0.01)
    telling = tell()
    assert await find(NODE) == ()
    assert not telling.done()
