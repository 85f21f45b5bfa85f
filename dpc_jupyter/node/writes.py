"""Writes to the home that nobody waits for, one after the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from dpc_jupyter.errors import DpcError
from dpc_jupyter.node.tasks import Tasks

_log = logging.getLogger(__name__)


class Writes:
    """Runs functions that block on the disk in threads, in the order in which they come."""

    def __init__(self) -> None:
        self._tasks = Tasks()
        self._turn = asyncio.Lock()

    def add(self, write: Callable[..., object], *args: object) -> None:
        """Run ``write(*args)`` soon; a home that cannot be written is logged."""
        self._tasks.spawn(self._run(write, *args))

    async def _run(self, write: Callable[..., object], *args: object) -> None:
        try:
            async with self._turn:  # in order: a request is noted before it is forgotten
                await asyncio.to_thread(write, *args)
        except (DpcError, OSError) as error:
            _log.warning("the node's home cannot be written: %s", error)

    async def finish(self) -> None:
        """Wait for the last one."""
        await self._tasks.finish()
