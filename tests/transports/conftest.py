"""The node's own loop is uvloop's where there is one, asyncio's elsewhere: the transports are tried on both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from dpc_jupyter.identity import Identity
from transports.nodes import Stub, node


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def host(host_id: Identity) -> AsyncIterator[Stub]:
    async with node(host_id) as found:
        yield found


@pytest.fixture
async def guest(guest_id: Identity) -> AsyncIterator[Stub]:
    async with node(guest_id, listen=None) as found:
        yield found
