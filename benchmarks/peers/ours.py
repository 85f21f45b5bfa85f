"""Our node, as users run it: a host in a process of its own, and askers by `CoreService`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from benchmarks.peers.base import PROMPT
from benchmarks.serving import heard, run, say, until_told
from benchmarks.stub import MODEL, MODEL_ONE_SLOT, StubBackend
from dpc_jupyter.backends.base import Backend
from dpc_jupyter.backends.registry import Registry
from dpc_jupyter.home import Home
from dpc_jupyter.node.asking import AnswerStream, TextDelta
from dpc_jupyter.node.core_service import CoreService

# Far above what is asked here, so that no row measures a limit.
_LIMITS = {"requests_per_minute": 60_000, "running": 1000, "queued": 1000}


class OurAsker:
    """A linked node that asks one host."""

    def __init__(self, name: str, service: CoreService, uri: str) -> None:
        self.name = name
        self.service = service
        self.uri = uri
        self._host = uri.partition("node_id=")[2]

    @classmethod
    async def linked(cls, name: str, home: Path, uri: str) -> OurAsker:
        """Start a node in `home`, and link it."""
        service = CoreService(Home(home), name="bench", registry=Registry([]))
        await service.start()
        await service.connect(uri)
        return cls(name, service, uri)

    def query(self, tokens: int, per_s: int = 0, model: str = MODEL) -> AnswerStream:
        """Ask; the stream itself, for rows that cancel."""
        options = {"max_tokens": tokens, "seed": per_s}
        return self.service.execute_ai_query(PROMPT, self._host, model, options=options)

    async def ask(self, tokens: int, per_s: int = 0) -> AsyncGenerator[str, None]:
        """As `Asker.ask`."""
        async for item in self.query(tokens, per_s):
            if isinstance(item, TextDelta):
                yield item.text

    async def reconnect(self) -> None:
        """Dial again, from nothing."""
        await self.service.connect(self.uri)

    async def disconnect(self) -> None:
        """End the link, and wait until it is gone."""
        await self.service.disconnect(self._host)
        while self.service.peers():  # noqa: ASYNC110 - not what is measured
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        """As `Asker.close`."""
        await self.service.stop()


def let_in(host: Path, askers: list[str]) -> None:
    """Write a host's access file: these nodes, and no limit that a row would meet."""

    def change(document: dict[str, Any]) -> dict[str, Any]:
        compute = {**document["compute"], "enabled": True, "allow_nodes": askers, "limits": _LIMITS}
        return {**document, "compute": compute}

    Home(host).edit_access(change)


async def _host(home: Path, engine_url: str) -> None:
    backends: list[Backend]
    if engine_url:
        from dpc_jupyter.backends.openai_compatible import OpenAICompatible

        backends = [OpenAICompatible("engine", engine_url, slots=1000)]
    else:
        backends = [StubBackend("stub", MODEL, 1000), StubBackend("one", MODEL_ONE_SLOT, 1)]
    service = CoreService(Home(home), name="bench-host", registry=Registry(backends))
    await service.start(("127.0.0.1", 0))
    say({"uri": str(service.uri)})
    await until_told()
    await service.stop()


async def _idle_links(uri_text: str, homes: list[Path]) -> None:
    """As many idle links as the parent says, from this one process."""
    import uuid

    from dpc_jupyter.node.links import Links, PeerUri
    from dpc_jupyter.transports.tls import client_context, dial

    class Silent:
        def is_known(self, node_id: str) -> bool:
            return True

        def legacy_ok(self, node_id: str) -> bool:
            return False

        def peer_opened(self, peer: object) -> None:
            opened.set()

        def peer_said(self, peer: object, message: object) -> None:
            pass

        def peer_silent(self, peer: object) -> None:
            pass

        def peer_replaced(self, older: object, newer: object) -> None:
            raise RuntimeError("replaced")

        def peer_closed(self, peer: object, reason: str) -> None:
            raise RuntimeError(reason)

    uri = PeerUri.parse(uri_text)
    identities = [Home(home).load_identity() for home in homes]
    context, opened, links = client_context(), asyncio.Event(), list[Links]()
    say("ready")
    while (count := await heard()) is not None:
        for _ in range(count):
            identity = identities[len(links) % len(identities)]
            links.append(Links(identity, "idle", str(uuid.uuid4()), Silent()))
            opened.clear()
            links[-1].adopt_client(await dial(uri.host, uri.port, context, 10), uri.node_id)
            await asyncio.wait_for(opened.wait(), 10)
        say(len(links))


async def _main() -> None:
    role, first, *rest = sys.argv[1:]
    if role == "host":
        await _host(Path(first), rest[0] if rest else "")
    else:
        await _idle_links(first, [Path(home) for home in rest])


if __name__ == "__main__":
    run(_main)
