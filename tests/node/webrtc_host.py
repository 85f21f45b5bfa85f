"""A host in a process of its own that no port is open for: offers come in on stdin, answers go out on stdout."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any


async def _run() -> None:
    from dpc_jupyter.backends.registry import Registry
    from dpc_jupyter.node.core_service import CoreService
    from node.stub import StubEngine

    node = CoreService(name="far", registry=Registry([StubEngine(tokens=100_000, pause_s=0.02)]))
    await node.start()
    tasks = set()

    async def reply(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), flush=True)

    print(json.dumps(node.identity.node_id), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        offer = json.loads(line)
        tasks.add(asyncio.create_task(node._rooms.links.take_offer(offer["sender"], offer["payload"], reply)))
    await node.stop()


if __name__ == "__main__":
    from dpc_jupyter.node.thread import new_event_loop

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_run())
