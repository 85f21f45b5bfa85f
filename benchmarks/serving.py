"""What every server process of ours does: run on the node's event loop, say where it listens, end with its parent."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from dpc_jupyter.node.thread import new_event_loop


def say(words: object) -> None:
    """To the parent."""
    print(json.dumps(words), flush=True)


async def heard() -> Any:
    """What the parent says next; None when it is gone."""
    line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    return json.loads(line) if line else None


async def until_told() -> None:
    """Wait until the parent is gone."""
    while await heard() is not None:
        pass


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a server; uvloop's loop for every one of them, as in our node."""
    loop = new_event_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
