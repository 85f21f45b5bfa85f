"""Peers that play hostile: each says one hostile text wherever the protocol lets it say anything. No engine runs here.

Built on the independent DPTP v1.5 peer, which sends what it is told: a host of ours would clean its own words first.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import dptp_v15_peer as v15

T = TypeVar("T")
EXT = {"ext": {"v": 1, "session": "hostile", "stream": True}}
PIECES = 3
# Longer than the time between two drawings of an answer.
PIECE_S = 0.06
LIMIT_S = 30.0


class HostileHost(v15.Host):
    """Says `text` as its name, model, alias, type, note, answer, goodbye, and as the error of a prompt to "fail"."""

    def __init__(self, identity: v15.Identity, text: str, refusal: str = "") -> None:
        offer = {"alias": text[:128], "model": text[:256], "type": text[:64], "context_window": 4096, "warm": True}
        status = {"status": "ERROR", "error": refusal[:1024]} if refusal else {}
        super().__init__(identity, [offer], name=text[:128], ack_extra={**EXT, **status}, greet=())
        self.text = text

    async def say_goodbye(self) -> None:
        for link in list(self.connections):
            await link.send({"command": "GOODBYE", "payload": {"reason": self.text[:256]}})

    async def _infer(self, link: v15.Link, order: int, payload: v15.Message) -> None:
        about: v15.Message = {"request_id": payload["request_id"]}
        note = {**about, "state": "queued", "position": 2, "eta_s": 3.0, "note": self.text[:256]}
        await link.send({"command": "REMOTE_INFERENCE_STATUS", "payload": note})
        pause = 0.0 if "at once" in payload["messages"][-1]["content"] else PIECE_S
        await asyncio.sleep(pause)
        names = {"model": self.text[:256], "provider": self.text[:128], "finish_reason": self.text[:32]}
        if "fail" in payload["messages"][-1]["content"]:
            end = {**about, "status": "error", "error": self.text[:4096], "code": "denied"}
        else:
            size = -(-len(self.text) // PIECES)
            for index in range(PIECES):
                piece = {**about, "index": index, "text": self.text[index * size : (index + 1) * size]}
                thought = {"thinking": self.text} if index == 0 else {}
                await link.send({"command": "REMOTE_INFERENCE_CHUNK", "payload": piece | thought})
                await asyncio.sleep(pause)
            end = {**about, "status": "success", "response_tokens": 3, **names}
        await link.send({"command": "REMOTE_INFERENCE_RESPONSE", "payload": end})


class HostilePeers:
    """A hostile host for each text, on a loop in a thread of its own: Playwright's holds this one."""

    def __init__(self) -> None:
        self.hosts: list[HostileHost] = []
        self._loop = asyncio.new_event_loop()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT_S)

    def say_goodbye(self) -> None:
        """Every host ends its links with its text as the reason."""
        for host in self.hosts:
            self.run(host.say_goodbye())

    def ask_at(self, port: int, identities: Sequence[v15.Identity], texts: Sequence[str]) -> None:
        """Ask a listening node, each with its text as name and model; all are refused."""
        for identity, text in zip(identities, texts, strict=True):
            self.run(_ask(identity, port, text))


async def _ask(identity: v15.Identity, port: int, text: str) -> None:
    async with v15.Asker(identity, port, name=text[:128], greet=()) as asker:
        answer = await asker.ask("hello", model=text[:256])
        assert answer["status"] == "error", answer


@contextmanager
def hostile_peers(identities: Sequence[v15.Identity], texts: Sequence[str], refusal: str) -> Iterator[HostilePeers]:
    """One more identity than texts: the last host refuses every handshake, with `refusal` as the reason."""
    peers = HostilePeers()
    thread = threading.Thread(target=peers._loop.run_forever)
    thread.start()
    try:
        for identity, text in zip(identities, texts, strict=False):
            peers.hosts.append(HostileHost(identity, text))
        peers.hosts.append(HostileHost(identities[len(texts)], texts[0], refusal))
        for host in peers.hosts:
            peers.run(host.__aenter__())
        yield peers
    finally:
        for host in peers.hosts:
            peers.run(host.__aexit__(None, None, None))
        peers._loop.call_soon_threadsafe(peers._loop.stop)
        thread.join()
        peers._loop.close()
