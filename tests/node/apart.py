"""A host, or an asker, in a process of its own, as the namespaces and the stopped processes of the tests need them.

Usage: python -m node.apart [--clocks SILENCE_S RESUME_WITHIN_S] (serve TOKENS PAUSE_S | ask URI [URI ...])

Both print JSON, a line at a time: a host its port, then for every line that it reads how many requests its engine has
seen and runs; an asker how far it is, then what became of it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
import time


def _say(**words: object) -> None:
    print(json.dumps(words), flush=True)


def _set_clocks(silence_s: float, keep_s: float) -> None:
    """The same clocks, shorter; the beat keeps its part of the silence."""
    from dpc_jupyter.node.links import liveness
    from dpc_jupyter.node.reaching.wanted import rules
    from dpc_jupyter.node.serving import host, kept

    liveness.PING_EVERY_S *= silence_s / liveness.SILENCE_S
    liveness.SILENCE_S = silence_s
    host.__dict__["RESUME_WITHIN_S"] = kept.__dict__["RESUME_WITHIN_S"] = rules.COME_BACK_S = keep_s


async def _serve(tokens: int, pause_s: float) -> None:
    from dpc_jupyter.backends.registry import Registry
    from dpc_jupyter.node.core_service import CoreService
    from node.stub import StubEngine

    engine = StubEngine(texts=tuple(f"{number} " for number in range(tokens)), pause_s=pause_s)
    node = CoreService(name="far", registry=Registry([engine]))
    uri = await node.listen("", 0)
    await node.start()
    _say(port=uri.port)
    while await asyncio.to_thread(sys.stdin.readline):
        _say(
            seen=len(engine.seen),
            running=engine.running,
            produced=engine.produced,
            outcomes=[row.outcome for row in node.ledger.rows()],
        )
    await node.stop()


async def _ask(uris: list[str]) -> None:
    from dpc_jupyter.backends.registry import Registry
    from dpc_jupyter.errors import DpcError
    from dpc_jupyter.node.asking.answer import TextDelta
    from dpc_jupyter.node.core_service import CoreService
    from dpc_jupyter.node.links.address import PeerUri

    node = CoreService(name="near", registry=Registry([]))
    await node.start()
    for uri in uris[1:]:  # where else the host may be
        parsed = PeerUri.parse(uri)
        node.directory.remember(parsed.node_id, parsed, "far", "far")
    peer = await node.connect(uris[0], name="far")
    stream = node.execute_ai_query("hello", peer.node_id)
    error = ""
    try:
        async for item in stream:
            pieces = stream.pieces if isinstance(item, TextDelta) else None
            note = "" if isinstance(item, TextDelta) else item.note
            _say(at=time.time(), pieces=pieces, note=note)
    except DpcError as failure:
        error = f"{type(failure).__name__}: {failure}"
    await asyncio.sleep(0.1)
    text = stream.answer.text
    _say(
        end=True,
        error=error,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        chars=len(text),
        outcomes=[row.outcome for row in node.ledger.rows()],
    )
    await node.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--clocks", nargs=2, type=float)
    parser.add_argument("role", choices=("serve", "ask"))
    parser.add_argument("rest", nargs="+")
    chosen = parser.parse_args()
    if chosen.clocks:
        _set_clocks(*chosen.clocks)
    from dpc_jupyter.node.thread import new_event_loop

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        if chosen.role == "serve":
            runner.run(_serve(int(chosen.rest[0]), float(chosen.rest[1])))
        else:
            runner.run(_ask(chosen.rest))
