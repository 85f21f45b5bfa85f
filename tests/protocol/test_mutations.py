"""10^5 damaged frames through whole conversations: an event or a `RemoteProtocolError`, never anything else."""

from __future__ import annotations

import copy
import json
import random
import tracemalloc
from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dpc_jupyter.errors import HandshakeError, RemoteProtocolError
from dpc_jupyter.identity import Identity, peer_key_from_der, peer_key_from_pem
from dpc_jupyter.protocol.connection import Connection, State
from protocol.ends import Pair, anybody, client_of, frame, nobody, opened, raw_frame, server_of
from protocol.test_messages import FOLDER, GUEST, HOST, load_plain

ROUNDS = 100_000
CORPUS = [path.read_bytes() for path in sorted(FOLDER.glob("**/*.bin"))]
# What generic damage seldom makes; each was, or could be, a crash in some parser.
SEEDS = [
    b"",
    b"0" * 9,
    b"0000000000",
    b"9999999999",
    b"\xff" * 40,
    b"0000000002{}",
    b"0000000004null",
    raw_frame(b"[" * 5000),
    raw_frame(b'{"a":' * 3000),
    raw_frame(b'{"command":"PING","payload":{"timestamp":%s}}' % (b"9" * 4000)),
    raw_frame(b'{"command":"PING","payload":{"timestamp":1e-999}}'),
    raw_frame(b'{"command":"HELLO","payload":{"node_id":null}}'),
    frame(
        {"command": "HELLO", "payload": {"node_id": HOST.node_id, "name": "", "cert_pem": "", "nonce_signature": ""}}
    ),
    frame({"command": "HELLO_CHALLENGE", "payload": {"nonce": "é"}}),
    frame({"command": "HELLO_CHALLENGE", "payload": {"nonce": "AAAA", "cb": {"v": 10**300, "salt": "="}}}),
    frame({"command": "HELLO_ACK", "status": "OK", "ext": {"v": -1, "session": "-"}}),
    frame({"command": "REMOTE_INFERENCE_REQUEST", "payload": {"request_id": "r", "options": {"seed": 10**3000}}}),
    frame({"command": "__class__", "payload": {"__init__": {"__globals__": 1}}}),
]
TOKENS = [
    b"null", b"true", b"-1", b"1e308", b"10000000000000000000000", b'"', b"\\", b"\\u0000", b"\\ud800", b"[", b"]",
    b"{", b"}", b"{}", b",", b":", b"NaN", b"\x00", b"\x1b", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"0000000010",
    b'"command":"HELLO",', b'"payload":[],', b'"cb":null,', b'"ext":{},', b"-----BEGIN CERTIFICATE-----\\n",
]  # fmt: skip


VALUES: list[object] = [
    None, True, -1, 2**63, 10**400, 1.5, 1e308, "", "\0", "\x1b[2J", "😀", "A" * 3000, "AAAA", "=", [], [[]], {},
    [None] * 600, {"v": 1}, {"path": "/etc/passwd"}, "dpc-node-" + "a" * 32, "success", "../..",
    [{"role": "user", "content": ""}],
]  # fmt: skip


def reshaped(rng: random.Random, value: Any) -> Any:
    """The same JSON with one place changed: what passes the framing and must be caught by types."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if key == "command" and rng.random() < 0.9:
            key = rng.choice(list(value))
        changed = {**value, key: reshaped(rng, value[key])}
        match rng.randrange(8):
            case 0:
                del changed[key]
            case 1:
                changed[rng.choice([*value, "path", "ext", "cb", "options", "images"])] = rng.choice(VALUES)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], reshaped(rng, value[at]), *value[at + 1 :]] * rng.choice([1, 1, 2, 600])
    return rng.choice(VALUES)


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Half by types, half by bytes; most headers are made to fit again, so that the damage goes deeper."""
    if rng.random() < 0.5:
        return frame(reshaped(rng, json.loads(data[10:])))
    payload = bytearray(data[10:])
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(payload) + 1)
        match rng.randrange(6):
            case 0 if at < len(payload):
                payload[at] ^= 1 << rng.randrange(8)
            case 1:
                payload[at:at] = rng.choice(TOKENS)
            case 2:
                del payload[at : at + rng.randint(1, 12)]
            case 3:
                start = rng.randrange(len(payload) + 1)
                payload[at:at] = payload[start : start + rng.randint(1, 40)]
            case 4:
                payload[at : at + 4] = rng.choice(TOKENS)
            case _:
                payload[at:] = payload[at:][:20] + rng.choice(CORPUS)[10:60]
    if rng.random() < 0.8:
        return raw_frame(bytes(payload))
    return bytes(data[:10] + payload)


def starts(guest: Identity, host: Identity) -> dict[str, Connection]:
    """A conversation in every state in which bytes are read, with real certificates and with plain ones."""
    awaiting_ack = Pair(GUEST, HOST, load_key=load_plain)
    awaiting_ack.to_client()
    admitted = Pair(GUEST, HOST, load_key=load_plain)
    return {
        "challenged": client_of(GUEST, HOST, anybody, load_key=load_plain),
        "awaiting ack": awaiting_ack.client,
        "awaiting hello": server_of(HOST, nobody, load_key=load_plain),
        "awaiting a real hello": server_of(host),
        "host": admitted.open().server,
        "guest": admitted.client,
        "real host": opened(server_of(host), guest, host),
    }


def fresh(connection: Connection) -> Connection:
    """The same state with buffers of its own (a handshake a frame would be all the test's time)."""
    twin = copy.copy(connection)
    for name in ("_decoder", "_out"):
        setattr(twin, name, copy.deepcopy(getattr(connection, name)))
    return twin


def battered(conversations: dict[str, Connection], corpus: list[bytes], rounds: int, seed: int) -> Counter[str]:
    """Feed every conversation in turn; one that ended is made anew. Counts what came of it."""
    rng = random.Random(seed)
    handshakes = [data for data in corpus if b'"HELLO' in data]
    others = [data for data in corpus if b'"HELLO' not in data]
    outcomes: Counter[str] = Counter()
    names = list(conversations)
    alive = {name: fresh(conversations[name]) for name in names}
    for number in range(rounds):
        name = names[number % len(names)]
        connection = alive[name]
        fitting = others if connection.state is State.OPEN else handshakes
        source = rng.choice(fitting if rng.random() < 0.9 else corpus)
        data = SEEDS[number % len(SEEDS)] if number % 50 == 0 else damaged(rng, source)
        try:
            for event in connection.receive_data(data):
                outcomes[type(event).__name__] += 1
                outcomes[name] += 1
        except RemoteProtocolError as error:
            assert str(error) and len(str(error)) < 2000
            assert connection.state is State.CLOSED
            outcomes["refused"] += 1
            outcomes[f"{name} refused"] += 1
        connection.data_to_send()
        if connection.state is not conversations[name].state or rng.random() < 0.02:
            alive[name] = fresh(conversations[name])
    return outcomes


@pytest.fixture(scope="session")
def conversations(guest_id: Identity, host_id: Identity) -> dict[str, Connection]:
    return starts(guest_id, host_id)


@pytest.fixture(scope="session")
def corpus(guest_id: Identity, host_id: Identity) -> list[bytes]:
    """The golden frames, and a HELLO with a real certificate that would be let in."""
    real = Pair(guest_id, host_id)
    real.to_client()
    return [*CORPUS, *[real.client.data_to_send()] * 3]


def test_a_hundred_thousand_damaged_frames_crash_nothing(
    conversations: dict[str, Connection], corpus: list[bytes]
) -> None:
    outcomes = battered(conversations, corpus, ROUNDS, seed=20_261_122)
    assert outcomes["refused"] > ROUNDS / 4
    for event in ("Authenticated", "BadRequest", "Unknown", "RemoteInferenceRequest", "RemoteInferenceChunk", "Ping"):
        assert outcomes[event] > 50, f"damage must also reach what lies behind the framing: {outcomes}"
    assert all(outcomes[f"{name} refused"] > 500 for name in conversations)


def test_nobody_is_authenticated_by_a_damaged_hello(guest_id: Identity, host_id: Identity) -> None:
    client = client_of(guest_id, host_id)
    server = server_of(host_id)
    list(client.receive_data(fresh(server).data_to_send()))
    hello = client.data_to_send()
    rng = random.Random(1)
    proven = set()
    for _ in range(1000):
        try:
            events = list(fresh(server).receive_data(damaged(rng, hello)))
        except RemoteProtocolError:
            continue
        proven |= {event.node_id for event in events}  # type: ignore[union-attr]
    assert proven <= {guest_id.node_id}


def test_damaged_frames_leave_no_memory_behind(conversations: dict[str, Connection], corpus: list[bytes]) -> None:
    battered(conversations, corpus, 1000, seed=1)
    tracemalloc.start()
    try:
        battered(conversations, corpus, 2000, seed=2)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        battered(conversations, corpus, 8000, seed=3)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2 * 2**20
    assert peak - before < 8 * 2**20


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
WORDS = [
    "HELLO_CHALLENGE", "HELLO", "HELLO_ACK", "GET_PROVIDERS", "PROVIDERS_RESPONSE", "REMOTE_INFERENCE_REQUEST",
    "REMOTE_INFERENCE_STATUS", "REMOTE_INFERENCE_CHUNK", "REMOTE_INFERENCE_RESPONSE", "REMOTE_INFERENCE_CANCEL",
    "PING", "PONG", "GOODBYE", "FUTURE",
]  # fmt: skip
FIELDS = [
    "nonce", "cb", "v", "salt", "sig", "node_id", "name", "cert_pem", "nonce_signature", "ext", "session", "stream",
    "status", "error", "providers", "alias", "model", "request_id", "prompt", "images", "base64", "mime_type",
    "messages", "options", "index", "text", "timestamp", "reason", "priority",
]  # fmt: skip
PAYLOADS = st.recursive(
    JSON,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=8),
    max_leaves=12,
)


@settings(max_examples=400)
@given(st.sampled_from(WORDS), PAYLOADS, PAYLOADS)
def test_no_payload_of_any_shape_crashes_a_conversation(
    conversations: dict[str, Connection], word: str, payload: object, top: object
) -> None:
    message = {"command": word, "payload": payload, **(top if isinstance(top, dict) else {})}
    for connection in conversations.values():
        try:
            list(fresh(connection).receive_data(frame(message)))
        except RemoteProtocolError as error:
            assert str(error)


@settings(max_examples=400)
@given(st.binary(max_size=200))
@example(b"0000000001\x80")
def test_no_bytes_crash_a_conversation(conversations: dict[str, Connection], data: bytes) -> None:
    for connection in conversations.values():
        for sent in (data, raw_frame(data)):
            try:
                list(fresh(connection).receive_data(sent))
            except RemoteProtocolError as error:
                assert str(error)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@pytest.mark.parametrize("form", ["der", "pem"])
def test_a_damaged_certificate_is_refused_or_is_still_the_same_key(guest_id: Identity, form: str) -> None:
    rng = random.Random(7)
    survivors = 0
    for _ in range(5000):
        certificate = bytearray(guest_id.cert_der if form == "der" else guest_id.cert_pem)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(certificate))
            match rng.randrange(3):
                case 0:
                    certificate[at] = rng.randrange(256 if form == "der" else 128)
                case 1:
                    del certificate[at : at + rng.randint(1, 9)]
                case _:
                    certificate[at:at] = rng.randbytes(rng.randint(1, 9)) if form == "der" else b"A="
        try:
            if form == "der":
                key = peer_key_from_der(bytes(certificate))
            else:
                key = peer_key_from_pem(certificate.decode("latin-1"))
        except HandshakeError:
            continue
        assert key.node_id == guest_id.node_id
        survivors += 1
    assert survivors > 50
