"""Conversations between a whole node of ours and a DPTP v1.5 peer, in both roles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dptp_v15_peer as v15
import pytest
from protocol.ends import as_v15
from transports.nodes import LOOPBACK, until

from dpc_jupyter import firewall
from dpc_jupyter.backends.base import Delta, Finished, Generation, ModelInfo
from dpc_jupyter.backends.registry import Registry
from dpc_jupyter.errors import AccessDenied, HandshakeError, InferenceError, InvalidRequest, ModelNotFound, PeerLost
from dpc_jupyter.home import Home
from dpc_jupyter.identity import Identity
from dpc_jupyter.node.core_service import CoreService

IMAGE = {"base64": "iVBORw0KGgo=", "mime_type": "image/png"}
DENIED = "Access denied: You are not authorized to request inference"


class Engine:
    """Answers at once with what it was asked; "slow" waits until told."""

    alias, type, slots = "stub", "ollama", 4

    def __init__(self) -> None:
        self.asked: list[Generation] = []
        self.go = asyncio.Event()

    async def models(self) -> list[ModelInfo]:
        return [ModelInfo("alpha", 4096, supports_vision=True, warm=True), ModelInfo("beta")]

    async def stream(self, generation: Generation) -> AsyncGenerator[Delta | Finished]:
        self.asked.append(generation)
        turn = generation.messages[-1]
        if turn.content.startswith("slow"):
            await self.go.wait()
        yield Delta(thinking="let me see")
        for word in f"{generation.model} heard: {turn.content}".split(" "):
            yield Delta(f"{word} ")
        yield Finished("stop", 3, 5)

    async def close(self) -> None:
        self.go.set()


class Node(CoreService):
    """A node of ours with the engine above."""

    def __init__(self, folder: Path, *allowed: Identity, legacy: tuple[Identity, ...] = (), **compute: Any) -> None:
        home = Home(folder)
        home.edit_access(
            lambda document: {
                **document,
                "compute": {"enabled": True, "allow_nodes": [one.node_id for one in allowed], **compute},
                "nodes": {one.node_id: {"legacy_ok": True} for one in legacy},
            }
        )
        self.engine = Engine()
        super().__init__(home, name="ours", registry=Registry([self.engine]))

    @property
    def port(self) -> int:
        assert self.uri is not None
        return self.uri.port


@asynccontextmanager
async def running(service: Node) -> AsyncIterator[Node]:
    await service.start((LOOPBACK, 0))
    try:
        yield service
    finally:
        await service.stop()


@pytest.fixture
async def host(tmp_path: Path, guest_id: Identity) -> AsyncIterator[Node]:
    """Lets one v1.5 node in."""
    async with running(Node(tmp_path / "host", guest_id, legacy=(guest_id,))) as found:
        yield found


@pytest.fixture
async def asker(host: Node, guest_id: Identity) -> AsyncIterator[v15.Asker]:
    async with v15.Asker(as_v15(guest_id), host.port) as found:
        # One answer may serve two questions that come together: let the greeting's go first.
        await until(lambda: any(message["command"] == "PROVIDERS_RESPONSE" for message in found.received))
        yield found


# A v1.5 peer asks us.


async def test_a_v15_peer_is_given_one_whole_response(host: Node, asker: v15.Asker) -> None:
    answer = await asker.ask("What is 2+2?", model="alpha")
    assert {key: answer[key] for key in ("status", "response", "model", "provider", "thinking")} == {
        "status": "success",
        "response": "alpha heard: What is 2+2? ",
        "model": "alpha",
        "provider": "stub",
        "thinking": "let me see",
    }
    assert (answer["prompt_tokens"], answer["response_tokens"], answer["tokens_used"]) == (3, 5, 8)
    commands = {message["command"] for message in asker.received}
    assert commands <= {
        "HELLO_CHALLENGE",
        "HELLO_ACK",
        "GET_PROVIDERS",
        "PROVIDERS_RESPONSE",
        "REMOTE_INFERENCE_RESPONSE",
    }


async def test_a_v15_peer_that_asks_for_a_stream_still_gets_one_response(host: Node, asker: v15.Asker) -> None:
    answer = await asker.ask("hello", extra={"stream": True})
    assert answer["response"].startswith("alpha heard: hello")
    assert not [m for m in asker.received if m["command"] in ("REMOTE_INFERENCE_CHUNK", "REMOTE_INFERENCE_STATUS")]


async def test_a_v15_peer_reads_the_list_of_models(host: Node, asker: v15.Asker) -> None:
    offers = await asker.get_providers()
    assert [
        (o["alias"], o["model"], o["type"], o["supports_vision"], o["supports_voice"], o["context_window"])
        for o in offers
    ] == [
        ("stub", "alpha", "ollama", True, False, 4096),
        ("stub", "beta", "ollama", False, False, None),
    ]


async def test_a_v15_peer_is_told_the_new_list_when_the_rules_change(host: Node, asker: v15.Asker) -> None:
    await asker.get_providers()
    host.home.edit_access(lambda found: {**found, "compute": {**found["compute"], "allowed_models": ["alpha"]}})
    while [offer["model"] for offer in (await asker.expect("PROVIDERS_RESPONSE"))["payload"]["providers"]] != ["alpha"]:
        pass


async def test_responses_may_overtake_each_other(host: Node, asker: v15.Asker) -> None:
    slow = asyncio.create_task(asker.ask("slow one", request_id="first"))
    await until(lambda: host.engine.asked)
    quick = await asker.ask("quick one", request_id="second")
    assert quick["request_id"] == "second" and not slow.done()
    host.engine.go.set()
    assert "slow one" in (await slow)["response"]


async def test_a_picture_goes_through_as_base64(host: Node, asker: v15.Asker) -> None:
    assert (await asker.ask("What is this?", images=[IMAGE]))["status"] == "success"
    (image,) = host.engine.asked[0].messages[-1].images
    assert (image.base64, image.mime_type) == (IMAGE["base64"], IMAGE["mime_type"])


@pytest.mark.parametrize(
    "image", [{"path": "/etc/passwd"}, {**IMAGE, "path": "/etc/passwd"}, {"url": "http://127.0.0.1/"}]
)
async def test_a_picture_given_as_a_path_is_refused_and_the_link_stays(
    host: Node, asker: v15.Asker, image: dict[str, Any]
) -> None:
    answer = await asker.ask("What is this?", images=[image])
    assert answer["status"] == "error" and "Invalid request" in answer["error"]
    assert host.engine.asked == []
    assert (await asker.ask("still there?"))["status"] == "success"


async def test_the_error_sentences_are_those_that_users_know(host: Node, asker: v15.Asker) -> None:
    missing = await asker.ask("?", model="gamma")
    assert missing["status"] == "error" and missing["error"].startswith("Model 'gamma' not found")
    provider = await asker.ask("?", model="alpha", provider="nobody")
    assert provider["status"] == "error" and "nobody" in provider["error"]
    empty = await asker.ask("  ")
    assert empty["status"] == "error" and "prompt is empty" in empty["error"]


async def test_a_model_that_is_not_allowed_is_denied_by_name(tmp_path: Path, guest_id: Identity) -> None:
    service = Node(tmp_path / "host", guest_id, legacy=(guest_id,), allowed_models=["alpha"])
    async with running(service) as host, v15.Asker(as_v15(guest_id), host.port, greet=()) as asker:
        assert (await asker.ask("?", model="beta"))["error"] == f"{DENIED} for model beta"
        assert (await asker.ask("?", model="beta", provider="stub"))["error"] == f"{DENIED} for model beta"
        assert (await asker.ask("?", provider="stub"))["model"] == "alpha"
        assert [generation.model for generation in host.engine.asked] == ["alpha"]
        assert [offer["model"] for offer in await asker.get_providers()] == ["alpha"]


async def test_a_stranger_sees_no_models_and_is_denied(tmp_path: Path, guest_id: Identity) -> None:
    async with running(Node(tmp_path / "host", legacy=(guest_id,))) as host:
        async with v15.Asker(as_v15(guest_id), host.port, greet=()) as asker:
            assert await asker.get_providers() == []
            assert (await asker.ask("?", model="alpha"))["error"] == DENIED
        assert host.engine.asked == []
        await until(lambda: guest_id.node_id in host.access.pending(), "the owner sees who asked")


async def test_without_the_mark_a_v15_peer_is_refused_with_the_reason(tmp_path: Path, guest_id: Identity) -> None:
    async with running(Node(tmp_path / "host", guest_id)) as host:
        asker = v15.Asker(as_v15(guest_id), host.port)
        with pytest.raises(v15.RefusedError) as caught:
            await asker.connect()
        await asker.close()
        assert caught.value.message is not None
        assert "offers no channel binding" in caught.value.message["error"]
        assert guest_id.node_id in caught.value.message["error"]
        assert host.peers() == ()


async def test_a_mark_made_while_the_node_runs_lets_the_peer_in(tmp_path: Path, guest_id: Identity) -> None:
    async with running(Node(tmp_path / "host", guest_id)) as host:
        refused = v15.Asker(as_v15(guest_id), host.port)
        with pytest.raises(v15.RefusedError):
            await refused.connect()
        await refused.close()
        host.home.edit_access(lambda document: {**document, "nodes": {guest_id.node_id: {"legacy_ok": True}}})
        await until(lambda: host.access.rules.legacy_ok(guest_id.node_id), "the edit was seen")
        async with v15.Asker(as_v15(guest_id), host.port) as asker:
            assert (await asker.ask("hello"))["status"] == "success"


async def test_what_a_real_messenger_sends_unasked_does_no_harm(host: Node, asker: v15.Asker) -> None:
    for message in v15.UNASKED:
        await asker.send(message)
    assert (await asker.ask("hello"))["status"] == "success"


async def test_two_requests_of_the_same_id_get_one_response(host: Node, asker: v15.Asker) -> None:
    slow = asyncio.create_task(asker.ask("slow one", request_id="same"))
    await until(lambda: host.engine.asked)
    payload = {"request_id": "same", "prompt": "slow one"}
    await asker.send({"command": "REMOTE_INFERENCE_REQUEST", "payload": payload})
    await asker.ask("behind it")
    host.engine.go.set()
    assert (await slow)["status"] == "success"
    await asker.ask("and after it")
    said = [m["payload"]["request_id"] for m in asker.received if m["command"] == "REMOTE_INFERENCE_RESPONSE"]
    assert said.count("same") == 1


async def test_a_v15_peer_that_is_lost_frees_its_slot(host: Node, asker: v15.Asker) -> None:
    slow = asyncio.create_task(asker.ask("slow one"))
    await until(lambda: host.engine.asked)
    asker.drop()
    await until(lambda: not host.status().serving, "the slot is free")
    with pytest.raises(ConnectionError):
        await slow


# We ask a v1.5 peer.

OFFER = {
    "alias": "ollama",
    "model": "qwen3:8b",
    "type": "ollama",
    "supports_vision": True,
    "supports_voice": False,
    "context_window": None,
}


@pytest.fixture
async def ours(tmp_path: Path, host_id: Identity) -> AsyncIterator[Node]:
    """Accepts one v1.5 host."""
    async with running(Node(tmp_path / "ours", legacy=(host_id,))) as found:
        yield found


async def test_we_ask_a_v15_host_and_read_its_one_response(ours: Node, host_id: Identity) -> None:
    async with v15.Host(as_v15(host_id), [OFFER]) as host:
        status = await ours.connect(host.address)
        assert (status.node_id, status.extended, status.name) == (host_id.node_id, False, "v1.5 host")
        answer = await ours.send_ai_query("What is 2+2?", host_id.node_id, model="qwen3:8b", provider="ollama")
        assert (answer.text, answer.model, answer.provider) == ("echo: What is 2+2?", "qwen3:8b", "ollama")
        assert answer.usage.prompt_tokens == 3
        (request,) = await host.heard("REMOTE_INFERENCE_REQUEST")
        assert request["payload"]["prompt"] == "What is 2+2?" and "messages" not in request["payload"]


async def test_we_read_a_v15_hosts_models_and_what_it_pushes(ours: Node, host_id: Identity) -> None:
    async with v15.Host(as_v15(host_id), [OFFER]) as host:
        await ours.connect(host.address)
        (offer,) = await ours.models(host_id.node_id)
        assert (offer.alias, offer.model, offer.supports_vision, offer.context_window) == (
            "ollama",
            "qwen3:8b",
            True,
            None,
        )
        host.providers = []
        await host.push_providers()
        await until(lambda: ours.peers()[0].models == (), "the new list came")


async def test_a_conversation_is_one_prompt_for_a_v15_host(ours: Node, host_id: Identity) -> None:
    async with v15.Host(as_v15(host_id)) as host:
        await ours.connect(host.address)
        turns = [{"role": "user", "content": "One."}, {"role": "assistant", "content": "Two."}]
        answer = await ours.send_ai_query("Three?", host_id.node_id, system="Be brief.", messages=turns)
        assert answer.text == "echo: system: Be brief.\n\nuser: One.\n\nassistant: Two.\n\nuser: Three?"


async def test_we_send_a_picture_as_base64(ours: Node, host_id: Identity) -> None:
    async with v15.Host(as_v15(host_id)) as host:
        await ours.connect(host.address)
        await ours.send_ai_query("What is this?", host_id.node_id, images=[IMAGE])
        (request,) = await host.heard("REMOTE_INFERENCE_REQUEST")
        assert request["payload"]["images"] == [IMAGE]


async def test_a_picture_without_words_still_has_a_prompt(ours: Node, host_id: Identity) -> None:
    """A v1.5 host reads `prompt` from every request."""
    async with v15.Host(as_v15(host_id)) as host:
        await ours.connect(host.address)
        assert (await ours.send_ai_query("", host_id.node_id, images=[IMAGE])).text.startswith("echo:")


async def test_answers_of_a_v15_host_may_come_in_any_order(ours: Node, host_id: Identity) -> None:
    async with v15.Host(as_v15(host_id), batch=3) as host:
        await ours.connect(host.address)
        answers = await asyncio.gather(*(ours.send_ai_query(f"number {n}", host_id.node_id) for n in range(3)))
        assert [answer.text for answer in answers] == ["echo: number 0", "echo: number 1", "echo: number 2"]


@pytest.mark.parametrize(
    "sentence",
    [f"{DENIED} for model X", "Model 'X' not found", "Inference request timed out after 60s"],
)
async def test_a_v15_hosts_error_sentence_is_raised_as_it_is(ours: Node, host_id: Identity, sentence: str) -> None:
    def answer(_: v15.Message) -> str:
        raise v15.InferenceError(sentence)

    async with v15.Host(as_v15(host_id), answer=answer) as host:
        await ours.connect(host.address)
        with pytest.raises(InferenceError) as caught:
            await ours.send_ai_query("?", host_id.node_id)
        assert caught.value.sentence == sentence


async def test_a_v15_host_that_lets_nobody_in_is_answered_with_what_to_send(ours: Node, host_id: Identity) -> None:
    def answer(_: v15.Message) -> str:
        raise v15.InferenceError(DENIED)

    async with v15.Host(as_v15(host_id), answer=answer) as host:
        await ours.connect(host.address)
        with pytest.raises(InferenceError) as caught:
            await ours.send_ai_query("?", host_id.node_id)
        assert caught.value.sentence == f"{DENIED}. Send its owner your node id: {ours.identity.node_id}"


async def test_a_hostile_error_sentence_is_shown_without_its_escapes(ours: Node, host_id: Identity) -> None:
    def answer(_: v15.Message) -> str:
        raise v15.InferenceError("no\x1b[2J\x1b]0;owned\x07pe\u202e")

    async with v15.Host(as_v15(host_id), answer=answer) as host:
        await ours.connect(host.address)
        with pytest.raises(InferenceError, match=r"^nope$"):
            await ours.send_ai_query("?", host_id.node_id)


async def test_a_v15_host_that_is_lost_fails_its_requests_at_once_and_by_name(ours: Node, host_id: Identity) -> None:
    async with v15.Host(as_v15(host_id), delay=30.0) as host:
        await ours.connect(host.address)
        asking = asyncio.create_task(ours.send_ai_query("?", host_id.node_id))
        await host.heard("REMOTE_INFERENCE_REQUEST")
        (await host.peer()).drop()
        async with asyncio.timeout(5):
            with pytest.raises(PeerLost, match=r"v1\.5 host was lost"):
                await asking


async def test_cancelling_at_a_v15_host_sends_it_nothing_that_it_does_not_know(ours: Node, host_id: Identity) -> None:
    async with v15.Host(as_v15(host_id), delay=30.0) as host:
        await ours.connect(host.address)
        stream = ours.execute_ai_query("?", host_id.node_id)
        await host.heard("REMOTE_INFERENCE_REQUEST")
        stream.cancel()
        await ours.models(host_id.node_id)
        known = {"HELLO", "GET_PROVIDERS", "PROVIDERS_RESPONSE", "REMOTE_INFERENCE_REQUEST"}
        assert {message["command"] for message in host.received} <= known


async def test_answers_that_nobody_asked_for_are_ignored(ours: Node, host_id: Identity) -> None:
    async with v15.Host(as_v15(host_id)) as host:
        await ours.connect(host.address)
        link = await host.peer()
        stray = {"request_id": "nobody-asked", "status": "success", "response": "boo"}
        await link.send({"command": "REMOTE_INFERENCE_RESPONSE", "payload": stray})
        assert (await ours.send_ai_query("hello", host_id.node_id)).text == "echo: hello"


async def test_a_v15_host_may_ask_us_over_the_link_that_we_dialled(tmp_path: Path, host_id: Identity) -> None:
    async with (
        running(Node(tmp_path / "ours", host_id, legacy=(host_id,))) as ours,
        v15.Host(as_v15(host_id)) as host,
    ):
        await ours.connect(host.address)
        link = await host.peer()
        payload = {"request_id": "r-1", "prompt": "turned around"}
        await link.send({"command": "REMOTE_INFERENCE_REQUEST", "payload": payload})
        (answer,) = await host.heard("REMOTE_INFERENCE_RESPONSE")
        assert answer["payload"]["response"] == "alpha heard: turned around "


async def test_without_the_mark_a_v15_host_is_not_linked(tmp_path: Path, host_id: Identity) -> None:
    async with running(Node(tmp_path / "ours")) as ours, v15.Host(as_v15(host_id)) as host:
        with pytest.raises(HandshakeError, match=r"offers no channel binding.*legacy_ok"):
            await ours.connect(host.address)
        assert host.received == [] and ours.peers() == ()


async def test_our_own_mistakes_are_told_before_anything_is_sent(ours: Node, host_id: Identity) -> None:
    async with v15.Host(as_v15(host_id)) as host:
        await ours.connect(host.address)
        await host.heard("GET_PROVIDERS")
        for settings in (
            {"options": {"num_ctx": 1}},
            {"images": [{"path": "/etc/passwd"}]},
            {"images": [{"base64": ""}]},
        ):
            with pytest.raises(InvalidRequest):
                await ours.send_ai_query("?", host_id.node_id, **settings)
        with pytest.raises(InvalidRequest, match="Shorten the prompt"):
            await ours.send_ai_query("x" * 2_000_000, host_id.node_id)
        assert not [message for message in host.received if message["command"] == "REMOTE_INFERENCE_REQUEST"]


async def test_a_prompt_with_half_a_character_is_told_before_anything_is_sent(ours: Node, host_id: Identity) -> None:
    async with v15.Host(as_v15(host_id)) as host:
        await ours.connect(host.address)
        with pytest.raises(InvalidRequest):
            await ours.send_ai_query("half \ud83d", host_id.node_id)
        assert not [message for message in host.received if message["command"] == "REMOTE_INFERENCE_REQUEST"]


# Two nodes of ours, for what the extensions change.


async def test_two_nodes_of_ours_stream_and_know_errors_by_class(tmp_path: Path) -> None:
    async with running(Node(tmp_path / "asker")) as asking:
        serving = Node(tmp_path / "host", asking.identity, allowed_models=["alpha", "gamma"])
        async with running(serving) as host:
            status = await asking.connect(str(host.uri))
            assert status.extended and status.session == host.session
            answer = await asking.send_ai_query("hello", status.node_id, model="alpha")
            assert (answer.text, answer.thinking) == ("alpha heard: hello ", "let me see")
            with pytest.raises(AccessDenied):
                await asking.send_ai_query("hello", status.node_id, model="beta")
            with pytest.raises(ModelNotFound):
                await asking.send_ai_query("hello", status.node_id, model="gamma")


async def test_an_access_file_without_marks_lets_no_v15_peer_in() -> None:
    assert not firewall.Rules.parse("{}").legacy_ok("dpc-node-" + "a" * 32)
