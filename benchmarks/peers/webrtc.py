"""WebRTC: our node, and aiortc as its documentation uses it, each with its host in a process of its own.

Offers and answers travel through the host's standard input and output, for both in the same way.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription

from benchmarks.peers.ours import OurAsker
from benchmarks.processes import Child
from benchmarks.serving import heard, run, say
from benchmarks.stub import MODEL, StubBackend
from dpc_jupyter.backends.registry import Registry
from dpc_jupyter.home import Home
from dpc_jupyter.node.core_service import CoreService
from dpc_jupyter.protocol.messages import Options

# What suits aiortc best: with more it loses datagrams and waits a second for each, with less it idles.
_BUFFER_BYTES = 16 * 1024
_TIMEOUT_S = 20.0


class OurWebRtcAsker(OurAsker):
    """A node that reaches its host over WebRTC."""

    def __init__(self, name: str, service: CoreService, host_id: str, child: Child) -> None:
        super().__init__(name, service, f"node_id={host_id}")
        self._child = child

    @classmethod
    async def joined(cls, name: str, home: Path, child: Child) -> OurWebRtcAsker:
        """Start a node in `home`, and link it to the host in `child`."""
        service = CoreService(Home(home), name="bench", registry=Registry([]))
        await service.start()
        asker = cls(name, service, child.read()["node_id"], child)
        await asker.reconnect()
        return asker

    async def reconnect(self) -> None:
        """Dial again, from nothing."""

        async def signal(payload: dict[str, Any]) -> object:
            offer = {"sender": self.service.identity.node_id, "payload": payload}
            return await asyncio.to_thread(self._child.ask, offer)

        await self.service._rooms.links.dial_webrtc(self._host, signal, _TIMEOUT_S)


class BareAsker:
    """aiortc alone: a request is a line of text, and each token a message."""

    def __init__(self, name: str, child: Child) -> None:
        self.name = name
        self._child = child
        self._connection: RTCPeerConnection | None = None
        self._channel: RTCDataChannel
        self._texts: asyncio.Queue[str] = asyncio.Queue()

    async def reconnect(self) -> None:
        """Dial again, from nothing."""
        connection = self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        channel = self._channel = connection.createDataChannel("dpc-data")
        opened = asyncio.Event()
        channel.on("open", opened.set)
        channel.on("message", self._texts.put_nowait)
        await connection.setLocalDescription(await connection.createOffer())
        answer = await asyncio.to_thread(self._child.ask, {"sdp": connection.localDescription.sdp})
        await connection.setRemoteDescription(RTCSessionDescription(answer["sdp"], "answer"))
        await opened.wait()

    async def ask(self, tokens: int, per_s: int = 0) -> AsyncGenerator[str, None]:
        """As `Asker.ask`."""
        self._channel.send(f"{tokens} {per_s}")
        for _ in range(tokens):
            yield await self._texts.get()

    async def disconnect(self) -> None:
        """Hang up."""
        if self._connection is not None:
            await self._connection.close()

    close = disconnect


async def _ours(home: Path) -> None:
    service = CoreService(Home(home), name="bench-host", registry=Registry([StubBackend("stub", MODEL, 1000)]))
    await service.start()
    say({"node_id": service.identity.node_id})
    tasks = set()

    async def reply(answer: dict[str, Any]) -> None:
        say(answer)

    while (offer := await heard()) is not None:
        tasks.add(asyncio.create_task(service._rooms.links.take_offer(offer["sender"], offer["payload"], reply)))
    await service.stop()


async def _bare() -> None:
    from dpc_jupyter.backends.base import Delta, Generation

    engine = StubBackend("stub", MODEL, 1000)
    tasks, connections = set(), []

    async def stream(channel: RTCDataChannel, count: int, per_s: int) -> None:
        room = asyncio.Event()
        channel.on("bufferedamountlow", room.set)
        async for item in engine.stream(Generation(MODEL, (), Options(max_tokens=count, seed=per_s))):
            if isinstance(item, Delta):
                channel.send(item.text)
                while channel.bufferedAmount > _BUFFER_BYTES:
                    room.clear()
                    await room.wait()

    def use(channel: RTCDataChannel) -> None:
        channel.bufferedAmountLowThreshold = _BUFFER_BYTES // 4

        def asked(line: str) -> None:
            count, per_s = map(int, line.split())
            tasks.add(asyncio.create_task(stream(channel, count, per_s)))

        channel.on("message", asked)

    say("ready")
    while (offer := await heard()) is not None:
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        connections.append(connection)
        connection.on("datachannel", use)
        await connection.setRemoteDescription(RTCSessionDescription(offer["sdp"], "offer"))
        await connection.setLocalDescription(await connection.createAnswer())
        say({"sdp": connection.localDescription.sdp})
    for connection in connections:
        await connection.close()


async def _main() -> None:
    await (_ours(Path(sys.argv[2])) if sys.argv[1] == "ours" else _bare())


if __name__ == "__main__":
    run(_main)
