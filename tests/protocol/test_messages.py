"""Golden frames: the wire bytes of every command, written from protocol.md by hand, made and read by ours."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from dpc_jupyter.protocol.connection import Authenticated, Connection, State
from dpc_jupyter.protocol.messages import (
    COMMAND_OF,
    COMMANDS,
    EXTENSIONS,
    ChatMessage,
    Ext,
    GetProviders,
    Goodbye,
    Image,
    InviteClaim,
    InviteResult,
    Message,
    Options,
    Ping,
    Pong,
    ProviderInfo,
    ProvidersResponse,
    RelayClose,
    RelayCredit,
    RelayData,
    RelayOpen,
    RelayOpened,
    RelayPeer,
    RelayPeers,
    RemoteInferenceCancel,
    RemoteInferenceChunk,
    RemoteInferenceRequest,
    RemoteInferenceResponse,
    RemoteInferenceResume,
    RemoteInferenceStatus,
    Timings,
    Unknown,
)
from protocol.ends import Pair, anybody, raw_frame

RELAY, TARGET = "0123456789abcdef0123456789abcdef", "dpc-node-" + "5" * 32
FOLDER = Path(__file__).parent / "golden"
ID = "5e8b4f0e-0001"
MESSAGES: dict[str, Message] = {
    "GET_PROVIDERS": GetProviders(),
    "PROVIDERS_RESPONSE": ProvidersResponse(
        (
            ProviderInfo("ollama", "qwen3:8b", "ollama", supports_vision=True, context_window=32768, warm=True),
            ProviderInfo("lab", "größte", "openai_compatible"),
        )
    ),
    "PROVIDERS_RESPONSE_NONE": ProvidersResponse(),
    "REMOTE_INFERENCE_REQUEST": RemoteInferenceRequest(
        request_id=ID,
        model="qwen3:8b",
        provider="ollama",
        messages=(
            ChatMessage("system", "Be brief."),
            ChatMessage("user", "What is this? 😀", (Image("iVBORw0KGgo=", "image/png"),)),
        ),
        options=Options(temperature=0.5, max_tokens=64, seed=7, stop=("END",)),
        stream=True,
        priority="batch",
    ),
    "REMOTE_INFERENCE_STATUS": RemoteInferenceStatus(ID, "queued", 2, 1.5, "loading"),
    "REMOTE_INFERENCE_CHUNK": RemoteInferenceChunk(ID, 3, "Ein Bär.\n", "hm"),
    "REMOTE_INFERENCE_RESPONSE": RemoteInferenceResponse(
        request_id=ID,
        status="success",
        tokens_used=17,
        prompt_tokens=12,
        response_tokens=5,
        model="qwen3:8b",
        provider="ollama",
        finish_reason="stop",
        text_sha256=hashlib.sha256("Ein Bär.\n".encode()).hexdigest(),
        model_digest="sha256:00ff",
        timings=Timings(0.5, 0.75, 2.0),
    ),
    "REMOTE_INFERENCE_RESPONSE_ERROR": RemoteInferenceResponse(
        request_id=ID,
        status="error",
        error="Access denied: You are not authorized to request inference for model X",
        code="denied",
    ),
    "REMOTE_INFERENCE_CANCEL": RemoteInferenceCancel(ID),
    "REMOTE_INFERENCE_RESUME": RemoteInferenceResume(ID, 3),
    "RELAY_PEERS": RelayPeers((RelayPeer(TARGET, "carol"),)),
    "RELAY_OPEN": RelayOpen(RELAY, TARGET),
    "RELAY_OPENED": RelayOpened(RELAY),
    "RELAY_DATA": RelayData(RELAY, "FwMDAAU="),
    "RELAY_CREDIT": RelayCredit(RELAY, 65536),
    "RELAY_CLOSE": RelayClose(RELAY, "it was closed"),
    "INVITE_CLAIM": InviteClaim("00112233445566ff", "0f" * 32),
    "INVITE_RESULT": InviteResult("00112233445566ff", "ok", "anna", sharing=False),
    "INVITE_RESULT_ERROR": InviteResult("00112233445566ff", "refused", error="This invitation cannot be used."),
    "PING": Ping(12.5),
    "PONG": Pong(12.5),
    "GOODBYE": Goodbye("the node is shutting down"),
}
V15: dict[str, Message] = {
    "GET_PROVIDERS": GetProviders(),
    "PROVIDERS_RESPONSE": ProvidersResponse((ProviderInfo("ollama_text", "llama3.1:8b", "ollama"),)),
    "REMOTE_INFERENCE_REQUEST": RemoteInferenceRequest(
        request_id="0b3f-77", prompt="What is 2+2? 😀", model="llama3.1:8b", provider="ollama_text"
    ),
    "REMOTE_INFERENCE_RESPONSE": RemoteInferenceResponse(
        request_id="0b3f-77",
        status="success",
        response="4",
        tokens_used=9,
        prompt_tokens=8,
        response_tokens=1,
        model_max_tokens=4096,
        model="llama3.1:8b",
        provider="ollama_text",
        thinking="2+2",
        thinking_tokens=3,
    ),
    "REMOTE_INFERENCE_RESPONSE_ERROR": RemoteInferenceResponse(
        request_id="0b3f-77", status="error", error="Model 'X' not found"
    ),
    "REQUEST_CHAT_HISTORY": Unknown("REQUEST_CHAT_HISTORY"),
    "GROUP_SYNC": Unknown("GROUP_SYNC"),
}


def golden(name: str) -> bytes:
    return (FOLDER / f"{name}.bin").read_bytes()


@dataclass(frozen=True)
class Plain:
    """An identity without cryptography, so that the handshake's bytes are the same every time."""

    node_id: str

    @property
    def cert_pem(self) -> bytes:
        return self.cert_der

    @property
    def cert_der(self) -> bytes:
        return b"certificate of " + self.node_id.encode()

    def sign(self, data: bytes, /) -> bytes:
        return b"signed " + hashlib.sha256(data).digest()

    def verify(self, signature: bytes, data: bytes, /) -> bool:
        return signature == self.sign(data)


GUEST, HOST = Plain("dpc-node-" + "a" * 32), Plain("dpc-node-" + "b" * 32)


def load_plain(certificate: str) -> Plain:
    return Plain(certificate.removeprefix("certificate of "))


@pytest.fixture
def plain() -> Pair:
    return Pair(GUEST, HOST, load_key=load_plain)


def test_there_is_a_golden_frame_of_every_command() -> None:
    assert {path.stem.removesuffix("_ERROR").removesuffix("_NONE") for path in FOLDER.glob("*.bin")} == set(COMMANDS)
    assert set(COMMAND_OF.values()) == set(COMMANDS)


@pytest.mark.parametrize("name", MESSAGES)
def test_the_golden_bytes_are_what_is_sent(plain: Pair, name: str) -> None:
    server = plain.open().server
    server.send(MESSAGES[name])
    assert server.data_to_send() == golden(name)


@pytest.mark.parametrize("name", MESSAGES)
def test_the_golden_bytes_are_read_back_whole(plain: Pair, name: str) -> None:
    assert list(plain.open().client.receive_data(golden(name))) == [MESSAGES[name]]


def test_a_server_challenges_with_the_golden_bytes(plain: Pair) -> None:
    assert plain.server.data_to_send() == golden("HELLO_CHALLENGE")


def test_a_client_answers_with_the_golden_hello(plain: Pair) -> None:
    assert list(plain.client.receive_data(golden("HELLO_CHALLENGE"))) == []
    assert plain.client.data_to_send() == golden("HELLO")


def test_a_server_admits_with_the_golden_ack(plain: Pair) -> None:
    plain.server.data_to_send()
    (event,) = plain.server.receive_data(golden("HELLO"))
    assert event == Authenticated(GUEST.node_id, "guest", Ext(1, "guest-session", stream=True))
    plain.server.admit()
    assert plain.server.data_to_send() == golden("HELLO_ACK")


def test_a_client_reads_the_golden_ack(plain: Pair) -> None:
    list(plain.client.receive_data(golden("HELLO_CHALLENGE")))
    (event,) = plain.client.receive_data(golden("HELLO_ACK"))
    assert event == Authenticated(HOST.node_id, "host", Ext(1, "host-session", stream=True))
    assert plain.client.state is State.OPEN and plain.client.extended


def test_a_server_refuses_with_the_golden_bytes(plain: Pair) -> None:
    plain.server.data_to_send()
    list(plain.server.receive_data(golden("HELLO")))
    plain.server.refuse("This host is full.")
    assert plain.server.data_to_send() == golden("HELLO_ACK_ERROR")


def v15_server() -> Connection:
    server = Pair(GUEST, HOST, anybody, load_plain).server
    list(server.receive_data(golden("v15/HELLO")))
    server.admit()
    return server


def test_a_v15_hello_is_read_where_it_is_allowed() -> None:
    server = Pair(GUEST, HOST, anybody, load_plain).server
    assert list(server.receive_data(golden("v15/HELLO"))) == [Authenticated(GUEST.node_id, "Zoë", None)]


def test_a_v15_challenge_and_ack_are_read_where_they_are_allowed() -> None:
    client = Pair(GUEST, HOST, anybody, load_plain).client
    assert list(client.receive_data(golden("v15/HELLO_CHALLENGE"))) == []
    assert b'"cb"' not in client.data_to_send()
    assert list(client.receive_data(golden("v15/HELLO_ACK"))) == [Authenticated(HOST.node_id, "Zoë", None)]


@pytest.mark.parametrize("name", V15)
def test_what_a_v15_peer_sends_is_read(name: str) -> None:
    assert list(v15_server().receive_data(golden(f"v15/{name}"))) == [V15[name]]


def test_every_v15_golden_is_used() -> None:
    handshake = {"HELLO", "HELLO_CHALLENGE", "HELLO_ACK"}
    assert {path.stem for path in (FOLDER / "v15").glob("*.bin")} == handshake | set(V15)


@pytest.mark.parametrize("name", [n for n, m in MESSAGES.items() if type(m) in EXTENSIONS])
def test_extension_commands_of_a_v15_peer_count_as_unknown(name: str) -> None:
    assert list(v15_server().receive_data(golden(name))) == [Unknown(COMMAND_OF[type(MESSAGES[name])])]


@pytest.mark.parametrize("name", MESSAGES)
def test_fields_that_nobody_knows_yet_are_ignored(plain: Pair, name: str) -> None:
    payload = golden(name)[10:]
    brace = payload.index(b'"payload":{') + len(b'"payload":{')
    comma = b"" if payload[brace:].startswith(b"}") else b","
    grown = b'{"future":1,' + payload[1:brace] + b'"from_the_future":[1]' + comma + payload[brace:]
    assert list(plain.open().client.receive_data(raw_frame(grown))) == [MESSAGES[name]]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (Options(max_tokens=10**9), Options(max_tokens=32_768)),
        (Options(max_tokens=-5), Options(max_tokens=1)),
        (Options(), Options(max_tokens=2_048)),
        (
            Options(temperature=99.0, top_p=-1.0, top_k=10**30),
            Options(temperature=2, top_p=0, top_k=1000, max_tokens=2_048),
        ),
        (Options(seed=-1, presence_penalty=-9.0), Options(seed=0, presence_penalty=-2, max_tokens=2_048)),
        (Options(frequency_penalty=9.0, seed=2**40), Options(frequency_penalty=2, seed=2**31 - 1, max_tokens=2_048)),
    ],
)
def test_options_are_clamped_to_their_limits(given: Options, kept: Options) -> None:
    assert given.clamped() == kept


@pytest.mark.parametrize(
    "node_id",
    [
        "",
        "dpc-node-",
        "dpc-node-" + "A" * 32,
        "dpc-node-" + "a" * 31,
        "dpc-node-" + "a" * 33,
        "dpc-node-" + "a" * 32 + "\n",
    ],
)
def test_a_malformed_node_id_is_not_converted(node_id: str) -> None:
    hello = {"node_id": node_id, "name": "", "cert_pem": "", "nonce_signature": ""}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(hello, COMMANDS["HELLO"])


@pytest.mark.parametrize("request_id", ["", "x" * 65, "a b", "a\n", "ä", "../x", 7, None])
def test_a_malformed_request_id_is_not_converted(request_id: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"request_id": request_id}, RemoteInferenceCancel)
