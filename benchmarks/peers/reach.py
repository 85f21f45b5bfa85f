"""A relay, and a host that only it is linked to, each in a process of its own."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from benchmarks.serving import run, say, until_told
from benchmarks.stub import MODEL, StubBackend
from dpc_jupyter.backends.registry import Registry
from dpc_jupyter.home import Home
from dpc_jupyter.node.core_service import CoreService


def let_relay(relay: Path, node_ids: list[str]) -> None:
    """Write a relay's access file: it carries streams between these."""
    section: dict[str, Any] = {"enabled": True, "allow_nodes": node_ids}
    Home(relay).edit_access(lambda document: {**document, "relay": section})


async def _main() -> None:
    role, home, *rest = sys.argv[1:]
    node = CoreService(Home(Path(home)), name=role, registry=Registry([StubBackend("stub", MODEL, 1000)]))
    await node.start(("127.0.0.1", 0) if role == "relay" else None)
    for uri in rest:
        await node.connect(uri)
    say({"uri": str(node.uri)})
    await until_told()
    await node.stop()
    await asyncio.sleep(0)


if __name__ == "__main__":
    run(_main)
