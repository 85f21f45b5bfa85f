"""Where tests reach into a node: its table of messages, and its ways to others."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from dpc_jupyter.errors import ConnectError
from dpc_jupyter.node.core_service import CoreService
from dpc_jupyter.node.dispatch import Dispatch
from dpc_jupyter.node.links.peer import Peer
from dpc_jupyter.node.reaching.ladder import Way


def takes_of(node: CoreService) -> dict[Any, Any]:
    """For each message the method that takes it: where a test listens in, or makes a node deaf."""
    return cast(Dispatch, node._rooms.links._node).takes


def unreachable(node: CoreService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave no way from this node to any other."""

    async def nobody() -> Peer:
        await asyncio.sleep(0.01)
        raise ConnectError("the test keeps the network down")

    monkeypatch.setattr(node._rooms.reach._ways, "to", lambda *_, **__: [Way("nowhere", nobody)])
