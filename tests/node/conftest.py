from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from dpc_jupyter import firewall, identity
from dpc_jupyter.backends.registry import Registry
from dpc_jupyter.home import Home
from dpc_jupyter.identity import Identity
from dpc_jupyter.node.asking.answer import AnswerStream
from dpc_jupyter.node.core_service import CoreService
from dpc_jupyter.node.links.peer import Peer
from dpc_jupyter.node.status import NodeEvent
from dpc_jupyter.node.thread import new_event_loop
from dpc_jupyter.protocol.framing import encode_frame
from dpc_jupyter.protocol.messages import RemoteInferenceResponse
from node.inside import takes_of
from node.stub import StubEngine
from node.waiting import PATIENCE_S, until

IDENTITIES = 6

MakeHome = Callable[..., Home]
MakeNode = Callable[..., Awaitable[CoreService]]
EventsOf = Callable[[CoreService], list[NodeEvent]]


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on the loop that a node runs on; asking and faults on the standard one too (Windows)."""
    both = item.path.name in ("test_asking.py", "test_faults.py")
    return {"node": new_event_loop} | ({"asyncio": asyncio.SelectorEventLoop} if both else {})


@pytest.fixture(scope="session")
def identities() -> list[Identity]:
    """RSA keys take a tenth of a second each, so tests share a few."""
    return [identity.generate() for _ in range(IDENTITIES)]


@pytest.fixture
def make_home(tmp_path: Path, identities: list[Identity]) -> MakeHome:
    """A new home with an identity of its own in this test."""
    unused = itertools.chain(identities, iter(identity.generate, None))

    def make(name: str, own: Identity | None = None) -> Home:
        own = own or next(unused)
        folder = tmp_path / name
        folder.mkdir(0o700)
        for file, data in (("node.key", own.key_pem), ("node.crt", own.cert_pem), ("node.id", own.node_id.encode())):
            (folder / file).touch(0o600)
            (folder / file).write_bytes(data)
        return Home(folder)

    return make


@pytest.fixture
async def quiet_loop() -> AsyncIterator[None]:
    """No callback and no task fails unseen."""
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    yield
    assert seen == []


@pytest.fixture
async def make_node(make_home: MakeHome, quiet_loop: None) -> AsyncIterator[MakeNode]:
    """Start a node; at the end of the test it stops, and nothing of its peers or requests may be left in it."""
    started: list[CoreService] = []

    async def make(
        name: str, *engines: StubEngine, listen: bool = False, home: Home | None = None, fresh_s: float = 5.0
    ) -> CoreService:
        node = CoreService(home or make_home(name), name=name, registry=Registry(engines, fresh_s=fresh_s))
        started.append(node)
        await node.start(("127.0.0.1", 0) if listen else None)
        return node

    yield make
    for node in reversed(started):
        async with asyncio.timeout(PATIENCE_S):
            await node.stop()
    with suppress(AssertionError):
        await until(lambda: not any(map(_left, started)), within_s=2)
    assert [left for node in started for left in _left(node)] == []


# What may outlive a peer: names, and a node's last minute of requests (for its limits).
_KEPT = {"_subscribers", "_stranger_asked_at", "_nodes", "_idle", "_backends", "_noted", "_to_cancel", "_attempts"}


def _left(node: CoreService) -> list[str]:
    """What a stopped node still holds of its peers and requests."""
    rooms = (
        node,
        node._rooms.links,
        node._rooms.host,
        node._rooms.host._queue,
        node._rooms.requester,
        node._rooms.asker,
        node._rooms.offers,
        node._rooms.claims,
    )
    return [
        f"{type(room).__name__}.{name}"
        for room in rooms
        for name, held in vars(room).items()
        if isinstance(held, dict | set) and held and name not in _KEPT
    ]


@dataclass(frozen=True)
class Pair:
    """An asker that is linked to a host with one stub engine."""

    host: CoreService
    asker: CoreService
    engine: StubEngine

    @property
    def host_id(self) -> str:
        return self.host.identity.node_id

    @property
    def asker_id(self) -> str:
        return self.asker.identity.node_id

    def ask(self, prompt: str = "hello", **settings: Any) -> AnswerStream:
        bounds = {"timeout_s": PATIENCE_S, "queue_timeout_s": PATIENCE_S}
        return self.asker.execute_ai_query(prompt, self.host_id, **bounds | settings)

    async def started(self, prompt: str = "hello", **settings: Any) -> AnswerStream:
        """Ask, and wait until the first piece of text is here."""
        stream = self.ask(prompt, **settings)
        await until(lambda: stream.answer.text)
        return stream

    def limit(self, **limits: int) -> None:
        """Edit the asker's limits in the host's access file."""
        self.edit(lambda document: firewall.allow(document, self.asker_id, limits=limits))

    def edit(self, change: Callable[[firewall.Document], firewall.Document]) -> None:
        self.host.home.edit_access(change)
        self.host.access.reload()

    async def wire(self, **payload: Any) -> RemoteInferenceResponse:
        """Send a request as a peer of another make might, and wait for the host's response."""
        link, answered = self.asker_link, asyncio.get_running_loop().create_future()
        payload = {"request_id": "wire-1", "stream": True} | payload
        frame = {"command": "REMOTE_INFERENCE_REQUEST", "payload": payload}

        def take_response(peer: Peer, response: RemoteInferenceResponse) -> None:
            if response.request_id == payload["request_id"] and not answered.done():
                answered.set_result(response)

        takes = takes_of(self.asker)
        before, takes[RemoteInferenceResponse] = takes[RemoteInferenceResponse], take_response
        try:
            link._connection._out.append(encode_frame(json.dumps(frame).encode()))
            link._schedule()
            async with asyncio.timeout(PATIENCE_S):
                return cast(RemoteInferenceResponse, await answered)
        finally:
            takes[RemoteInferenceResponse] = before

    @property
    def host_link(self) -> Peer:
        """The host's end of the link."""
        return next(peer for peer in self.host._rooms.links.peers if peer.node_id == self.asker_id)

    @property
    def asker_link(self) -> Peer:
        """The asker's end of the link."""
        return next(peer for peer in self.asker._rooms.links.peers if peer.node_id == self.host_id)


MakePair = Callable[..., Awaitable[Pair]]


@pytest.fixture
async def make_pair(make_node: MakeNode) -> MakePair:
    """Link an asker to a new host; let in unless told otherwise."""

    async def make(engine: StubEngine | None = None, *, allow: bool = True, **limits: int) -> Pair:
        engine = engine or StubEngine()
        host, asker = await make_node("anna", engine, listen=True), await make_node("bob")
        pair = Pair(host, asker, engine)
        if allow:
            host.access.allow(pair.asker_id, name="bob")
            host.access.set_sharing(True)
        if limits:
            pair.limit(**limits)
        await asker.connect(str(host.uri), name="anna")
        await until(lambda: any(peer.models for peer in asker.peers()) or not allow)
        return pair

    return make


@pytest.fixture
async def allowed(make_pair: MakePair) -> Pair:
    """Linked and let in."""
    return await make_pair()


@pytest.fixture
async def stranger(make_pair: MakePair) -> Pair:
    """Linked, and not let in."""
    return await make_pair(allow=False)


@pytest.fixture
def events_of() -> Iterator[EventsOf]:
    """What a node tells from now on."""
    ends: list[Callable[[], None]] = []

    def listen(node: CoreService) -> list[NodeEvent]:
        events: list[NodeEvent] = []
        ends.append(node.subscribe(events.append))
        return events

    yield listen
    for end in ends:
        end()
