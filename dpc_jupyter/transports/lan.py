"""Nodes of the same local network, by DNS-SD over multicast DNS (RFC 6762, 6763); zeroconf does the talking.

An announcement tells a node id and where it listens. Whoever answers is believed nothing: the link proves the id.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import zip_longest
from typing import cast

import ifaddr
from zeroconf import Error, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

SERVICE = "_dpc._tcp.local."
# A record that was sent within the last second is not sent again (RFC 6762 section 6).
FIND_S = 1.5
# Whoever is first may lie: others are heard, too.
_MORE_S = 0.2
# A home may run several nodes, and anybody may announce more; a machine has an address in each of its networks.
_SERVICES_LIMIT, _ADDRESSES_LIMIT = 16, 8
# A laptop changes networks, and is to be found in the new one.
_LOOK_EVERY_S = 3.0

_log = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


async def announce(node_id: str, session: str, host: str, port: int) -> None:
    """Tell the local network of a listener until cancelled, under the addresses that it has at the time.

    Parameters
    ----------
    node_id, session : str
        The node, and which of its processes this is.
    host : str
        The IP address that it listens at; empty for every one. One of this machine alone is not announced.
    """
    while True:
        if addresses := _announced(host):
            name = f"{node_id}-{session[:8]}"
            service = f"{name}.{SERVICE}"
            info = AsyncServiceInfo(SERVICE, service, parsed_addresses=addresses, port=port, server=f"{name}.local.")
            try:
                await _tell(info, host, addresses)
            except (OSError, Error) as error:
                _log.info("this node is not announced in the local network: %s", error)
        await asyncio.sleep(_LOOK_EVERY_S)


async def _tell(info: AsyncServiceInfo, host: str, addresses: list[str]) -> None:
    """As long as these are the addresses."""
    async with _opened() as mdns:
        await (await mdns.async_register_service(info))
        try:
            while _announced(host) == addresses:  # noqa: ASYNC110  no event tells of a new network
                await asyncio.sleep(_LOOK_EVERY_S)
        finally:
            await (await mdns.async_unregister_service(info))


async def find(node_id: str, within_s: float = FIND_S) -> tuple[tuple[str, int], ...]:
    """Addresses and ports that are announced for a node id; empty if there are none within `within_s` seconds."""
    found: dict[str, list[tuple[str, int]]] = {}
    asked: dict[str, asyncio.Task[None]] = {}
    first = asyncio.Event()

    async def ask(name: str) -> None:
        with suppress(OSError, Error):  # anybody may announce what is no name: that ends nothing but its own question
            info = AsyncServiceInfo(SERVICE, name)
            await info.async_request(mdns.zeroconf, within_s * 1000)
            if info.port and (addresses := _of_others(info.parsed_addresses())):
                found[name] = [(address, info.port) for address in addresses]
                first.set()

    def on_change(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        named = name.startswith(f"{node_id}-") and name not in asked
        if state_change is ServiceStateChange.Added and named and len(asked) < _SERVICES_LIMIT:
            asked[name] = asking.create_task(ask(name))

    with suppress(TimeoutError, OSError, Error):
        async with asyncio.timeout(within_s), _opened() as mdns, asyncio.TaskGroup() as asking:
            browser = AsyncServiceBrowser(mdns.zeroconf, [SERVICE], handlers=[on_change])
            try:
                await first.wait()
                await asyncio.sleep(_MORE_S)
            finally:
                await browser.async_cancel()
                for each in asked.values():
                    each.cancel()
    # One address of each announcement, then the next: whoever announces forty hides nobody.
    turns = zip_longest(*found.values())
    return tuple(dict.fromkeys(each for turn in turns for each in turn if each is not None))[:_ADDRESSES_LIMIT]


def _announced(host: str) -> list[str]:
    if host:
        return _of_others([host])
    adapters = (each.ip for adapter in ifaddr.get_adapters() for each in adapter.ips)
    return _of_others(each if isinstance(each, str) else each[0] for each in adapters)[:_ADDRESSES_LIMIT]


def _of_others(addresses: Iterable[str]) -> list[str]:
    """Those that are valid in the whole network, IPv4 first."""
    found = []
    for text in addresses:
        with suppress(ValueError):
            ip = ipaddress.ip_address(text)
            # Reserved are IPv6's spellings of an IPv4 address, too; the unspecified one leads to this machine itself.
            here = ip.is_loopback or ip.is_link_local or ip.is_unspecified
            if not (here or ip.is_multicast or ip.is_reserved):
                found.append(ip)
    return [str(ip) for ip in sorted(found, key=lambda ip: ip.version)]


class _OnLink(asyncio.DatagramProtocol):
    """In front of zeroconf, which hears anybody who reaches the port: RFC 6762 section 11 lets nobody in from outside.

    It would tell the whole internet where this node is, and answer in seven times as many bytes whomever a datagram
    names as its sender.
    """

    def __init__(self, behind: asyncio.DatagramProtocol, networks: Sequence[Network]) -> None:
        self._behind = behind
        self._networks = networks

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        ip = ipaddress.ip_address(addr[0].partition("%")[0])
        if any(ip in network for network in self._networks):
            self._behind.datagram_received(data, addr)

    def error_received(self, exc: Exception) -> None:
        self._behind.error_received(exc)


def _networks() -> list[Network]:
    """In which this machine is."""
    ips = [ip for adapter in ifaddr.get_adapters() for ip in adapter.ips]
    return [
        ipaddress.ip_network((ip.ip if isinstance(ip.ip, str) else ip.ip[0], ip.network_prefix), strict=False)
        for ip in ips
    ]


@asynccontextmanager
async def _opened() -> AsyncIterator[AsyncZeroconf]:
    mdns = AsyncZeroconf()
    try:
        await mdns.zeroconf.async_wait_for_start()
        networks = _networks()
        for reader in mdns.zeroconf.engine.readers:
            behind = cast(asyncio.DatagramProtocol, reader.transport.get_protocol())
            reader.transport.set_protocol(_OnLink(behind, networks))
        yield mdns
    finally:
        await mdns.async_close()
