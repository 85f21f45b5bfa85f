from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest
from node.waiting import until

from dpc_jupyter.errors import ConnectError, HandshakeError
from dpc_jupyter.hub.client import account, client
from dpc_jupyter.hub.client.client import _SIGNALS, Advert, HubClient, Offer, Trust
from dpc_jupyter.hub.limits import Rate
from dpc_jupyter.hub.wire import SignalFromHub, encode
from dpc_jupyter.identity import Identity
from hub.conftest import Start
from hub.online import Node, found, online
from hub.raw_node import answer, offer
from hub.running_hub import RunningHub
from hub.services import free_port

ADVERT = Advert((Offer(("llama3.1:8b",), None, ("lab",)),))


async def test_two_nodes_call_each_other(hub: RunningHub, host_id: Identity, guest_id: Identity) -> None:
    async with online(hub.url, host_id, session="h") as anna, online(hub.url, guest_id, session="g") as ben:
        await ben.client.signal(anna.node_id, offer())
        await until(lambda: anna.signals)
        assert (anna.signals[0].sender_node_id, anna.signals[0].payload) == (ben.node_id, offer())
        await anna.client.signal(ben.node_id, answer(), anna.signals[0].sender_session)
        await until(lambda: ben.signals)
        assert ben.signals[0].payload == answer()


async def test_a_call_that_finds_nobody_is_told(hub: RunningHub, host_id: Identity, evil_id: Identity) -> None:
    async with online(hub.url, host_id) as anna:
        await anna.client.signal(evil_id.node_id, offer())
        await until(lambda: anna.refused)
        assert anna.refused == [(evil_id.node_id, f"{evil_id.node_id} is not online.")]
        with pytest.raises(ConnectError, match="65536"):
            await anna.client.signal(evil_id.node_id, offer("x" * 70_000))
    with pytest.raises(ConnectError, match="stopped"):
        await anna.client.signal(evil_id.node_id, offer())


def test_a_flood_of_signals_drowns_neither_who_is_awaited_nor_what_comes_after_it(host_id: Identity) -> None:
    """Keys are free: ten that each send what the hub lets through are 200 a second."""
    heard: list[str] = []
    stranger, friend, now = "dpc-node-" + "0" * 32, "dpc-node-" + "f" * 32, 0.0
    client = HubClient(
        *("http://127.0.0.1:1", host_id, "anna"),
        on_signal=lambda signal: heard.append(signal.sender_node_id),
        awaits=lambda node_id: node_id == friend,
    )
    client._heard = Rate(_SIGNALS, lambda: now)
    for tick in range(60 * 200):
        now += 1 / 200
        client._hear(encode(SignalFromHub(stranger, msgspec.Raw(b"{}"))).decode())
        if tick % 200 == 0:
            client._hear(encode(SignalFromHub(friend, msgspec.Raw(b"{}"), "s")).decode())
    assert heard.count(friend) == 60
    assert 60 * 50 <= heard.count(stranger) <= 60 * 50 + 201
    now += 0.1
    client._hear(json.dumps({"sender_node_id": friend, "payload": {}, "type": "signal"}))  # as another hub spells it
    assert heard.count(friend) == 61, "it is not deaf for as long as the flood has lasted"


async def test_a_node_is_found_by_what_it_shows_while_it_is_online(
    hub: RunningHub, host_id: Identity, guest_id: Identity
) -> None:
    async with online(hub.url, guest_id) as ben:
        async with online(hub.url, host_id, "anna") as anna:
            assert await ben.client.search(model="llama") == ()
            await anna.client.advertise(ADVERT)
            (anna_found,) = await ben.client.search(model="llama")
            assert (anna_found.node_id, anna_found.name, anna_found.models, anna_found.groups) == (
                host_id.node_id,
                "anna",
                ("llama3.1:8b",),
                ("lab",),
            )
            await anna.client.advertise(None)
            assert await ben.client.search(name="anna") == ()
            await anna.client.advertise(ADVERT)
        await found(ben, "anna", gone=True)


async def test_a_node_is_back_within_5_s_of_its_killed_hub(
    start_hub: Start, host_id: Identity, guest_id: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)  # the longest waits that chance could give
    hub = start_hub()
    async with online(hub.url, host_id, "anna") as anna, online(hub.url, guest_id) as ben:
        await anna.client.advertise(ADVERT)
        for away_s in (0.0, 17.0):
            hub.kill()
            assert await anna.offline() in (
                "It was lost: the connection broke",
                "It does not answer: nothing listens there",
            )
            with pytest.raises(ConnectError, match="is not reached") as told:
                await anna.client.signal(ben.node_id, offer())
            assert str(told.value).count(hub.url) == 1
            await asyncio.sleep(away_s)
            hub.start()
            assert await anna.online() <= 5.0
            await ben.online()
            await ben.client.signal(anna.node_id, offer())
            await until(lambda: anna.signals)
            anna.signals.clear()
            await found(ben, "anna")


async def test_a_hub_that_lost_its_database_is_logged_in_to_anew(start_hub: Start, host_id: Identity) -> None:
    hub = start_hub()
    async with online(hub.url, host_id, "anna") as anna:
        await anna.client.advertise(ADVERT)
        hub.kill()
        for file in hub.folder.glob("hub.sqlite3*"):
            file.unlink()
        hub.start()
        await anna.offline()
        await anna.online()
        await found(anna, "anna")  # it advertises anew, too


async def test_a_token_is_renewed_on_the_open_websocket(hub: RunningHub, guest_id: Identity) -> None:
    node = Node(hub.url, guest_id)
    account = node.client._account
    await account.token()
    account._renew_at -= account.renew_in_s - 1.5
    before = account._token
    node.client.start()
    await node.online()
    socket = node.client._socket
    await until(lambda: account._token != before)
    await node.client.signal(guest_id.node_id, offer())
    await until(lambda: node.signals)
    assert node.client._socket is socket
    assert node.refused == []
    await node.client.close()


async def test_another_program_with_the_same_session_ends_this_one(hub: RunningHub, guest_id: Identity) -> None:
    async with online(hub.url, guest_id, session="twin") as first, online(hub.url, guest_id, session="twin") as second:
        assert "took over" in await first.offline()
        await asyncio.sleep(1.5)
        assert second.client.state.online
        assert len(second.states) == 1


async def test_a_listener_that_fails_breaks_nothing(
    hub: RunningHub, host_id: Identity, caplog: pytest.LogCaptureFixture
) -> None:
    async with online(hub.url, host_id) as anna:
        heard: list[object] = []
        anna.client._on_signal = lambda signal: heard.append(1 / len(heard))
        await anna.client.signal(anna.node_id, offer())
        await until(lambda: "A listener failed" in caplog.text)
        heard.append(1)
        await anna.client.signal(anna.node_id, offer())
        await until(lambda: len(heard) == 2)


# What a hub's certificate must be.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Self-signed, for 127.0.0.1, as docs/how-to/run-a-hub.md makes one."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "hub.key", folder / "hub.crt"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=hub"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(words, check=True, capture_output=True)
    return cert, key


@pytest.fixture
def tls_hub(start_hub: Start, certificate: tuple[Path, Path]) -> RunningHub:
    cert, key = certificate
    return start_hub(scheme="https", more=("--tls-cert", str(cert), "--tls-key", str(key)))


async def test_a_hub_is_known_by_its_fingerprint_or_its_authority(
    tls_hub: RunningHub, certificate: tuple[Path, Path], host_id: Identity
) -> None:
    fingerprint = tls_hub.log.split("fingerprint: ")[1].split()[0]
    colons = ":".join(fingerprint[at : at + 2] for at in range(0, 64, 2)).upper()
    for trust in (Trust(fingerprint=fingerprint), Trust(fingerprint=colons), Trust(ca_file=certificate[0])):
        async with online(tls_hub.url, host_id, trust=trust) as anna:
            assert await anna.client.search() == ()


async def test_a_hub_with_another_certificate_gets_nothing(
    tls_hub: RunningHub, host_id: Identity, certificate: tuple[Path, Path]
) -> None:
    for trust, why in ((Trust(), "CERTIFICATE_VERIFY_FAILED"), (Trust(fingerprint="0" * 64), "another certificate")):
        node = Node(tls_hub.url, host_id, trust=trust)
        with pytest.raises(ConnectError, match=why):
            await node.client.search()
        await node.client.close()
    node = Node(tls_hub.url.replace("127.0.0.1", "localhost"), host_id, trust=Trust(ca_file=certificate[0]))
    with pytest.raises(ConnectError, match=r"CERTIFICATE_VERIFY_FAILED|calls itself"):
        await node.client.search()
    await node.client.close()


@pytest.mark.parametrize(
    ("url", "trust", "why"),
    [
        ("http://192.0.2.1:8890", Trust(), "not encrypted"),
        ("https://127.0.0.1:1", Trust(fingerprint="12"), "64 digits"),
        ("https://127.0.0.1:1", Trust(ca_file=Path("/nowhere")), "cannot be read"),
    ],
)
async def test_a_setting_that_cannot_work_is_said_and_not_tried_again(
    host_id: Identity, url: str, trust: Trust, why: str
) -> None:
    node = Node(url, host_id, trust=trust)
    node.client.start()
    await until(lambda: why in node.client.state.reason)
    assert node.client._running is not None
    await until(node.client._running.done)
    await node.client.close()


# A hub that is hostile: bytes of our own choice on a socket.

Reply = Callable[[bytes], bytes]


@asynccontextmanager
async def hostile(reply: Reply) -> AsyncIterator[str]:
    """Answers each request head with what `reply` makes of it."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")), b":0"
                )
                body = await reader.readexactly(int(length.split(b":")[1]))
                writer.write(reply(head + body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    port = free_port()
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def http(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def as_json(value: object) -> bytes:
    return http(json.dumps(value).encode())


async def test_a_hub_that_calls_itself_otherwise_gets_no_signature(host_id: Identity) -> None:
    """It would carry the signature to the hub that it names."""
    seen: list[bytes] = []

    def reply(request: bytes) -> bytes:
        seen.append(request)
        return as_json({"nonce": "n", "origin": "https://hub.lab"})

    async with hostile(reply) as url:
        node = Node(url, host_id)
        with pytest.raises(HandshakeError, match="nothing was signed"):
            await node.client.search()
        await node.client.close()
    assert not any(b"signature" in request for request in seen)


@pytest.mark.parametrize(
    "answer",
    [
        http(b"[" * 100_000),
        http(b'{"nonce": "n"}'),
        http(b'{"nonce": "n", "nonce": "m", "origin": ""}'),
        http(b'{"nonce": NaN, "origin": ""}'),
        http(b"\xff\xfe"),
        http(b" " * 3_000_000),
        http(b"x\x1b[2J\x07", "500 \xff"),
        http(b'{"detail": "\\u001b[31m' + b"x" * 5000 + b'"}', "403 No"),
        http(b"", "302 Found", "Location: http://127.0.0.1:1/\r\n"),
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
        b"SSH-2.0-OpenSSH\r\n",
    ],
)
async def test_whatever_a_hub_answers_is_one_bounded_sentence(host_id: Identity, answer: bytes) -> None:
    async with hostile(lambda request: answer) as url:
        node = Node(url, host_id)
        with pytest.raises(ConnectError) as failed:
            await node.client.search()
        assert len(str(failed.value)) < 400
        assert str(failed.value).isprintable()
        await node.client.close()


async def test_an_answer_without_end_is_cut(host_id: Identity) -> None:
    async with hostile(lambda request: http(b" " * 3_000_000)) as url:
        node = Node(url, host_id)
        with pytest.raises(ConnectError, match="too long"):
            await node.client.search()
        await node.client.close()


async def test_an_answer_that_is_packed_is_not_unpacked(host_id: Identity) -> None:
    packed = gzip.compress(gzip.compress(bytes(64 * 2**20)))
    more = "Content-Encoding: gzip, gzip\r\n"
    async with hostile(lambda request: http(packed, more=more)) as url:
        node = Node(url, host_id)
        tracemalloc.start()
        with pytest.raises(ConnectError, match="not one of a hub"):
            await node.client.search()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        await node.client.close()
    assert most < 16 * 2**20


@pytest.mark.parametrize("status", ["302 Found\r\nLocation: http://127.0.0.1:1/", "403 No", "101 Switching", "500 x"])
async def test_a_websocket_that_does_not_open_is_told_and_nobody_is_followed(host_id: Identity, status: str) -> None:
    def reply(request: bytes) -> bytes:
        if b"/ws/signal" in request:
            return http(b"", status)
        if b"challenge" in request:
            return as_json({"nonce": "n", "origin": url})
        return as_json({"token": "t", "expires_in_s": 1e300})

    async with hostile(reply) as url:
        node = Node(url, host_id)
        node.client.start()
        await until(lambda: node.client.state.reason.startswith(("It refused (", "It does not")))
        assert "127.0.0.1:1/" not in node.client.state.reason
        await node.client.close()


async def test_an_advert_that_the_hub_refuses_keeps_no_node_offline(hub: RunningHub, evil_id: Identity) -> None:
    node = Node(hub.url, evil_id)
    await node.client.advertise(Advert((Offer(tuple(f"m{number}" for number in range(2000)), None),)))
    node.client.start()
    await node.online()
    with pytest.raises(ConnectError, match=r"422|413"):
        await node.client.advertise(Advert((Offer(tuple(f"m{number}" for number in range(2000)), None),)))
    await asyncio.sleep(1.0)
    assert [state.online for state in node.states] == [True]
    await node.client.close()


async def test_a_hub_that_sends_a_byte_now_and_then_is_not_waited_for(
    host_id: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "_CALL_S", 0.5)

    ended = asyncio.Event()

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _byte in range(200):
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.close()
        ended.set()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    node = Node(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", host_id)
    with pytest.raises(ConnectError, match="took more than"):
        await asyncio.wait_for(node.client.search(), 5.0)
    await node.client.close()
    server.close()
    await until(ended.is_set)


async def test_a_hubs_cookies_are_not_kept(host_id: Identity) -> None:
    """Some of them would make every later call fail."""
    seen: list[bytes] = []

    def reply(request: bytes) -> bytes:
        seen.append(request)
        return b"HTTP/1.1 503 No\r\nSet-Cookie: \xff=\x01\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"

    async with hostile(reply) as url:
        node = Node(url, host_id)
        for _ in range(2):
            with pytest.raises(ConnectError, match="refused"):
                await node.client.search()
        await node.client.close()
    assert len(seen) == 2 and not any(b"ookie" in request for request in seen)


async def test_a_fault_in_the_client_is_told_and_it_calls_again(
    host_id: Identity, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client, "_WAIT_MAX_S", 0.1)
    async with hostile(lambda request: http(b"")) as url:
        node, tried = Node(url, host_id), list[None]()

        async def fails(**_: object) -> None:
            tried.append(None)
            raise RuntimeError("a fault that nobody thought of")

        monkeypatch.setattr(node.client._account, "dial", fails)
        node.client.start()
        await until(lambda: len(tried) == 2)
        assert "RuntimeError" in node.client.state.reason
        await node.client.close()
    caplog.clear()
