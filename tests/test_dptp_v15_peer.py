"""The instrument holds a conversation with itself over real TLS before anything is measured with it."""

import asyncio
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from dptp_v15_peer import (
    Asker,
    BadFrameError,
    Host,
    Identity,
    InferenceError,
    Message,
    RefusedError,
    decode_body,
    decode_header,
    encode_frame,
    hello_fault,
    make_identity,
    sign_nonce,
)

PROVIDERS: list[Message] = [
    {
        "alias": "ollama",
        "model": "qwen3:8b",
        "type": "ollama",
        "supports_vision": True,
        "supports_voice": False,
        "context_window": 32768,
    }
]


@pytest.fixture(scope="module")
def served() -> Identity:
    return make_identity()


@pytest.fixture(scope="module")
def asking() -> Identity:
    return make_identity()


def test_an_identity_is_named_by_its_key_and_certified_by_itself(served: Identity) -> None:
    cert = x509.load_pem_x509_certificate(served.cert_pem.encode())
    assert served.node_id.startswith("dpc-node-")
    assert len(served.node_id) == len("dpc-node-") + 32
    assert cert.subject == cert.issuer
    assert cert.subject.rfc4514_string() == f"CN={served.node_id}"
    assert cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert isinstance(cert.signature_hash_algorithm, hashes.SHA256)
    assert (cert.not_valid_after_utc - cert.not_valid_before_utc).days == 3650


def test_a_lying_certificate_keeps_the_true_id_beside_its_claim(served: Identity, asking: Identity) -> None:
    liar = make_identity(common_name=served.node_id, key=asking.key)
    assert (liar.node_id, liar.common_name) == (asking.node_id, served.node_id)


def test_a_frame_is_ten_digits_of_byte_length_and_utf8_json() -> None:
    frame = encode_frame({"command": "é"})
    assert frame == '0000000017{"command": "é"}'.encode()
    assert decode_header(frame[:10]) == len(frame) - 10
    assert decode_body(frame[10:]) == {"command": "é"}


@pytest.mark.parametrize("header", [b"+000000001", b"         1", b"00000_0001", b"1", "٣".encode() * 5])
def test_a_header_of_anything_but_ten_digits_is_refused(header: bytes) -> None:
    with pytest.raises(BadFrameError):
        decode_header(header)


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"command": 1}', b"{", b"\xff"])
def test_a_body_that_is_no_command_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadFrameError):
        decode_body(body)


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_host_and_asker_hold_a_conversation(served: Identity, asking: Identity, newest: ssl.TLSVersion) -> None:
    async with Host(served, PROVIDERS) as host:
        options = {"expected_node_id": served.node_id, "newest_tls": newest}
        async with Asker(asking, host.port, **options) as asker:  # type: ignore[arg-type]
            assert asker.ack == {
                "command": "HELLO_ACK",
                "status": "OK",
                "name": "v1.5 host",
                "node_id": served.node_id,
            }
            assert await asker.get_providers() == PROVIDERS
            image = {"base64": "AAAA", "mime_type": "image/png"}
            answer = await asker.ask("two words", model="qwen3:8b", images=[image], request_id="r1")
            assert answer == {
                "request_id": "r1",
                "status": "success",
                "response": "echo: two words",
                "tokens_used": 5,
                "prompt_tokens": 2,
                "response_tokens": 3,
                "model_max_tokens": 32768,
                "model": "qwen3:8b",
                "provider": "ollama",
            }
            (request,) = await host.heard("REMOTE_INFERENCE_REQUEST")
            assert request["payload"] == {
                "request_id": "r1",
                "prompt": "two words",
                "model": "qwen3:8b",
                "images": [image],
            }
            assert (await host.peer()).node_id == asking.node_id


async def test_both_sides_send_the_three_unasked_for_commands_and_answer_the_first(
    served: Identity, asking: Identity
) -> None:
    async with Host(served) as host, Asker(asking, host.port) as asker:
        await host.heard("GROUP_SYNC")
        await host.heard("REQUEST_CHAT_HISTORY")
        await host.heard("GET_PROVIDERS")
        assert (await host.heard("PROVIDERS_RESPONSE"))[0]["payload"] == {"providers": []}
        assert (await asker.receive())["command"] == "REQUEST_CHAT_HISTORY"
        assert (await asker.receive())["command"] == "GROUP_SYNC"
        await asker.get_providers()
        host.providers = PROVIDERS
        assert await asker.get_providers() == PROVIDERS
        await host.push_providers()
        assert (await asker.expect("PROVIDERS_RESPONSE"))["payload"]["providers"] == PROVIDERS


async def test_an_inference_error_arrives_as_status_error(served: Identity, asking: Identity) -> None:
    async def answer(payload: Message) -> str:
        raise InferenceError(f"Model '{payload['model']}' not found")

    async with Host(served, answer=answer) as host, Asker(asking, host.port) as asker:
        assert await asker.ask("hi", model="x", request_id="r") == {
            "request_id": "r",
            "status": "error",
            "error": "Model 'x' not found",
        }


async def test_answers_may_come_late_and_last_asked_first(served: Identity, asking: Identity) -> None:
    async with Host(served, batch=3, delay=0.01) as host, Asker(asking, host.port) as asker:
        answers = await asyncio.gather(*(asker.ask(word, request_id=word) for word in "abc"))
        assert [answer["response"] for answer in answers] == ["echo: a", "echo: b", "echo: c"]
        responses = [m for m in asker.received if m["command"] == "REMOTE_INFERENCE_RESPONSE"]
        assert [m["payload"]["request_id"] for m in responses] == ["c", "b", "a"]


async def test_unknown_commands_are_ignored_and_raw_answers_are_left_for_receive(
    served: Identity, asking: Identity
) -> None:
    async with Host(served) as host, Asker(asking, host.port) as asker:
        await asker.send({"command": "SOMETHING_NEW", "payload": {}})
        request = {"command": "REMOTE_INFERENCE_REQUEST", "payload": {"request_id": "r", "prompt": "ü"}}
        for byte in encode_frame(request):
            await asker.send_raw(bytes([byte]))
        assert (await asker.expect("REMOTE_INFERENCE_RESPONSE"))["payload"]["response"] == "echo: ü"


@pytest.mark.parametrize(
    ("lie", "fault"),
    [
        ({"signed": False}, "nonce_signature"),
        ({"sign": lambda nonce: b"x" * 256}, "does not verify"),
        ({"node_id": "dpc-node-" + "0" * 32}, "not the hash"),
        ({"hello_extra": {"cert_pem": 5}}, "malformed"),
        ({"replay": {"command": "GET_PROVIDERS", "payload": {}}}, "no HELLO"),
    ],
)
async def test_a_lying_hello_is_refused(asking: Identity, served: Identity, lie: Message, fault: str) -> None:
    async with Host(served) as host:
        with pytest.raises(ConnectionError):
            async with Asker(asking, host.port, **lie):
                pass
        assert fault in host.refusals[0]


async def test_another_certificate_in_hello_needs_its_own_key(served: Identity, asking: Identity) -> None:
    async with Host(served) as host:
        stolen = {"node_id": served.node_id, "cert_pem": served.cert_pem}
        with pytest.raises(ConnectionError):
            async with Asker(asking, host.port, **stolen):  # type: ignore[arg-type]
                pass
        async with Asker(asking, host.port, key=served.key, **stolen):  # type: ignore[arg-type]
            assert (await host.peer()).node_id == served.node_id


async def test_a_recorded_hello_does_not_pass_a_second_time(served: Identity, asking: Identity) -> None:
    async with Host(served) as host:
        async with Asker(asking, host.port) as asker:
            recorded = asker.sent_hello
        with pytest.raises(ConnectionError):
            async with Asker(asking, host.port, replay=recorded):
                pass
        assert host.refusals == ["the nonce signature does not verify"]


async def test_a_v15_challenge_can_be_relayed_to_a_victim(served: Identity, asking: Identity) -> None:
    """What protocol.md section 2 measured on the parent; the instrument must be able to do it."""
    async with Host(served) as target:
        thief = Asker(make_identity(key=asking.key), target.port)
        await thief.open()
        nonce = await thief.challenge()
        evil_host = Host(make_identity(common_name="evil"), nonce=lambda: nonce)
        async with evil_host as evil, Asker(asking, evil.port):
            (thief.replay,) = await evil.heard("HELLO")
        await thief.hello()
        assert (await target.peer()).node_id == asking.node_id
        await thief.close()


async def test_a_signature_may_be_made_elsewhere_and_later(served: Identity, asking: Identity) -> None:
    async def sign(nonce: bytes) -> bytes:
        await asyncio.sleep(0)
        return sign_nonce(asking.key, nonce)

    async with Host(served) as host, Asker(asking, host.port, sign=sign) as asker:
        assert asker.sent_hello is not None
        assert hello_fault(asker.sent_hello["payload"], asker.nonce) is None


async def test_extra_fields_travel_both_ways(served: Identity, asking: Identity) -> None:
    cb, ext = {"v": 1, "salt": "AA=="}, {"v": 1, "session": "s"}
    modern = Host(served, challenge_extra={"cb": cb}, ack_extra={"ext": ext})
    async with modern as host, Asker(asking, host.port, hello_extra={"ext": ext}) as asker:
        assert asker.challenge_payload["cb"] == cb
        assert asker.ack["ext"] == ext
        assert (await host.peer()).hello["ext"] == ext


async def test_a_silent_asker_stays_until_the_host_leaves(served: Identity, asking: Identity) -> None:
    async with Host(served) as host:
        asker = await Asker(asking, host.port, silent=True).connect()
        with pytest.raises(TimeoutError):
            await asker.receive(timeout=0.05)
    with pytest.raises(ConnectionError):
        await asker.receive()
    await asker.close()


async def test_a_lost_host_fails_what_is_pending(served: Identity, asking: Identity) -> None:
    async def never(payload: Message) -> str:
        await asyncio.Event().wait()
        return ""

    async with Host(served, answer=never) as host, Asker(asking, host.port) as asker:
        pending = asyncio.create_task(asker.ask("hi"))
        await host.heard("REMOTE_INFERENCE_REQUEST")
        (await host.peer()).drop()
        with pytest.raises(ConnectionError):
            await pending
        with pytest.raises(ConnectionError):
            await asker.expect("ANYTHING")


async def test_a_certificate_with_another_name_is_refused_by_the_asker(served: Identity, asking: Identity) -> None:
    async with Host(served) as host:
        with pytest.raises(RefusedError):
            async with Asker(asking, host.port, expected_node_id=asking.node_id):
                pass
    liar = make_identity(common_name=asking.node_id, key=served.key)
    async with Host(liar) as host, Asker(served, host.port, expected_node_id=asking.node_id) as asker:
        assert asker.ack["node_id"] == served.node_id


async def test_a_refusal_keeps_the_words_it_came_with(served: Identity, asking: Identity) -> None:
    refusal = {"status": "ERROR", "message": "not today"}
    async with Host(served, ack_extra=refusal) as host:
        with pytest.raises(RefusedError, match="not today") as caught:
            async with Asker(asking, host.port):
                pass
    assert caught.value.message is not None
    assert caught.value.message["message"] == "not today"


async def test_a_host_raises_what_its_answer_raised_by_mistake(served: Identity, asking: Identity) -> None:
    def broken(payload: Message) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with Host(served, answer=broken) as host, Asker(asking, host.port) as asker:
            with pytest.raises(TimeoutError):
                await asker.ask("hi", timeout=0.1)
