"""One conversation, every state and every command, without any network."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dpc_jupyter.errors import HandshakeError, LocalProtocolError, RemoteProtocolError
from dpc_jupyter.protocol.connection import LEGAL, Authenticated, BadRequest, Connection, State
from dpc_jupyter.protocol.messages import (
    COMMANDS,
    EXTENSIONS,
    Ext,
    GetProviders,
    Goodbye,
    Hello,
    HelloAck,
    HelloChallenge,
    Message,
    Options,
    Ping,
    RemoteInferenceChunk,
    RemoteInferenceRequest,
    RemoteInferenceResponse,
    Unknown,
)
from protocol.ends import Pair, anybody, frame, frames, raw_frame
from protocol.test_messages import GUEST, HOST, MESSAGES, golden, load_plain

CONVERSATION = frozenset(COMMANDS) - {"HELLO_CHALLENGE", "HELLO", "HELLO_ACK"}
# Written from protocol.md, not taken from the package.
ALLOWED = {
    State.AWAIT_CHALLENGE: {"HELLO_CHALLENGE"},
    State.AWAIT_ACK: {"HELLO_ACK"},
    State.AWAIT_HELLO: {"HELLO"},
    State.AWAIT_ADMISSION: set(),
    State.OPEN: CONVERSATION,
    State.CLOSED: set(),
}
CELLS = [(state, word) for state in State for word in COMMANDS]


@pytest.fixture
def ends() -> Pair:
    return Pair(GUEST, HOST, load_key=load_plain)


def brought_to(state: State, ends: Pair) -> Connection:
    """An end of `ends` in this state, with nothing waiting to be sent."""
    if state in (State.OPEN, State.CLOSED):
        ends.open()
        if state is State.CLOSED:
            list(ends.server.receive_data(frame({"command": "GOODBYE", "payload": {"reason": ""}})))
    elif state is State.AWAIT_ACK:
        ends.to_client()
    elif state is State.AWAIT_ADMISSION:
        ends.to_client()
        ends.to_server()
    end = ends.client if state in (State.AWAIT_CHALLENGE, State.AWAIT_ACK) else ends.server
    end.data_to_send()
    assert end.state is state
    return end


def test_the_table_has_a_row_for_every_state() -> None:
    assert set(LEGAL) == set(State) == set(ALLOWED)


@pytest.mark.parametrize(("state", "word"), CELLS, ids=[f"{state.name}-{word}" for state, word in CELLS])
def test_a_command_is_taken_where_the_table_allows_it_and_ends_the_connection_elsewhere(
    ends: Pair, state: State, word: str
) -> None:
    end = brought_to(state, ends)
    if state is State.CLOSED:
        assert list(end.receive_data(golden(word))) == []
    elif word in ALLOWED[state]:
        list(end.receive_data(golden(word)))
        assert end.state is not state or state is State.OPEN
    else:
        with pytest.raises(RemoteProtocolError):
            list(end.receive_data(golden(word)))
        assert end.state is State.CLOSED


@pytest.mark.parametrize("state", [s for s in State if s not in (State.OPEN, State.CLOSED)], ids=lambda s: s.name)
def test_an_unknown_command_before_the_end_of_the_handshake_ends_the_connection(ends: Pair, state: State) -> None:
    with pytest.raises(RemoteProtocolError, match="before the handshake was over"):
        list(brought_to(state, ends).receive_data(frame({"command": "GROUP_SYNC", "payload": {}})))


def test_an_unknown_command_on_an_open_connection_is_ignored(ends: Pair) -> None:
    server = ends.open().server
    assert list(server.receive_data(frame({"command": "GROUP_SYNC", "payload": {"deep": [[1]]}}))) == [
        Unknown("GROUP_SYNC")
    ]
    assert server.data_to_send() == b""
    assert list(server.receive_data(golden("GET_PROVIDERS"))) == [GetProviders()]


def test_a_long_unknown_command_is_cut(ends: Pair) -> None:
    assert list(ends.open().server.receive_data(frame({"command": "X" * 9000}))) == [Unknown("X" * 64)]


def test_a_second_hello_ends_the_connection(ends: Pair) -> None:
    ends.to_client()
    hello = ends.client.data_to_send()
    list(ends.server.receive_data(hello))
    ends.server.admit()
    with pytest.raises(RemoteProtocolError, match="HELLO is not allowed in OPEN"):
        list(ends.server.receive_data(hello))
    assert ends.server.state is State.CLOSED


def test_a_second_hello_in_the_same_read_ends_the_connection_too(ends: Pair) -> None:
    ends.to_client()
    with pytest.raises(RemoteProtocolError, match="not allowed in AWAIT_ADMISSION"):
        list(ends.server.receive_data(ends.client.data_to_send() * 2))


def test_what_follows_a_hello_in_the_same_read_is_taken_once_the_peer_is_admitted(ends: Pair) -> None:
    ends.to_client()
    events = ends.server.receive_data(ends.client.data_to_send() + golden("GET_PROVIDERS"))
    assert isinstance(next(events), Authenticated)
    ends.server.admit()
    assert list(events) == [GetProviders()]


def test_what_follows_a_hello_that_is_refused_is_dropped(ends: Pair) -> None:
    ends.to_client()
    events = ends.server.receive_data(ends.client.data_to_send() + golden("GET_PROVIDERS"))
    next(events)
    ends.server.refuse("full")
    assert list(events) == []


def test_what_follows_a_goodbye_is_dropped(ends: Pair) -> None:
    (event,) = ends.open().server.receive_data(golden("GOODBYE") + golden("GET_PROVIDERS") + b"garbage---")
    assert isinstance(event, Goodbye)


# Extensions.


def v15_ends() -> Pair:
    """A server whose peer offered no extensions."""
    ends = Pair(GUEST, HOST, anybody, load_plain)
    list(ends.server.receive_data(golden("v15/HELLO")))
    ends.server.admit()
    return ends


EXTENDING = (
    *("REMOTE_INFERENCE_STATUS", "REMOTE_INFERENCE_CHUNK", "REMOTE_INFERENCE_CANCEL", "REMOTE_INFERENCE_RESUME"),
    *("RELAY_PEERS", "RELAY_OPEN", "RELAY_OPENED", "RELAY_DATA", "RELAY_CREDIT", "RELAY_CLOSE"),
    *("INVITE_CLAIM", "INVITE_RESULT", "PING", "PONG", "GOODBYE"),
)


def test_the_extension_commands_are_those_of_section_3() -> None:
    assert {COMMANDS[word] for word in EXTENDING} == EXTENSIONS


@pytest.mark.parametrize("word", EXTENDING)
def test_an_extension_command_is_not_sent_to_a_peer_that_did_not_offer_it(word: str) -> None:
    server = v15_ends().server
    server.data_to_send()
    with pytest.raises(LocalProtocolError, match="did not offer"):
        server.send(MESSAGES[word])
    assert server.data_to_send() == b""
    assert server.state is State.OPEN


@pytest.mark.parametrize("word", EXTENDING)
def test_an_extension_command_from_a_peer_that_did_not_offer_it_is_unknown_even_when_malformed(word: str) -> None:
    server = v15_ends().server
    assert list(server.receive_data(frame({"command": word, "payload": "?"}))) == [Unknown(word)]
    assert server.state is State.OPEN


def test_an_ack_to_a_peer_without_extensions_offers_none() -> None:
    (_, ack) = frames(v15_ends().server.data_to_send())
    assert "ext" not in ack


def test_a_client_without_a_servers_offer_counts_as_plain(ends: Pair) -> None:
    ends.to_client()
    list(ends.client.receive_data(golden("v15/HELLO_ACK")))
    assert ends.client.state is State.OPEN and not ends.client.extended
    with pytest.raises(LocalProtocolError):
        ends.client.send(Ping(1.0))


# HELLO_ACK.


def test_the_fields_of_hello_ack_lie_at_the_top_level(ends: Pair) -> None:
    ends.to_client()
    ends.to_server()
    ends.server.admit()
    (ack,) = frames(ends.server.data_to_send())
    assert "payload" not in ack
    assert (ack["status"], ack["node_id"], ack["name"]) == ("OK", HOST.node_id, "host")


def ack_of(**fields: Any) -> bytes:
    return frame({"command": "HELLO_ACK", **fields})


def test_an_ack_with_its_fields_under_payload_is_refused(ends: Pair) -> None:
    ends.to_client()
    with pytest.raises(RemoteProtocolError, match="HELLO_ACK is malformed"):
        list(ends.client.receive_data(ack_of(payload={"status": "OK", "name": "", "node_id": HOST.node_id})))


def test_an_ack_that_names_another_node_is_refused(ends: Pair) -> None:
    ends.to_client()
    with pytest.raises(HandshakeError, match=f"calls itself {GUEST.node_id}"):
        list(ends.client.receive_data(ack_of(status="OK", node_id=GUEST.node_id)))
    assert ends.client.state is State.CLOSED


def test_a_refusal_reaches_the_client_with_its_sentence(ends: Pair) -> None:
    ends.to_client()
    ends.to_server()
    ends.server.refuse("This host is full.")
    assert ends.server.state is State.CLOSED
    with pytest.raises(HandshakeError, match=r"refused the connection: This host is full\."):
        ends.to_client()


@pytest.mark.parametrize("status", ["ERROR", "ok", "", "PENDING"])
def test_any_status_but_ok_is_a_refusal(ends: Pair, status: str) -> None:
    ends.to_client()
    with pytest.raises(HandshakeError, match="it gave no reason"):
        list(ends.client.receive_data(ack_of(status=status, node_id=HOST.node_id)))


def test_a_long_refusal_is_cut_to_what_the_client_takes(ends: Pair) -> None:
    ends.to_client()
    ends.to_server()
    ends.server.refuse("x" * 5000)
    with pytest.raises(HandshakeError, match=r"x{1024}$"):
        ends.to_client()


# Malformed payloads.


def request(**fields: Any) -> bytes:
    return frame({"command": "REMOTE_INFERENCE_REQUEST", "payload": {"request_id": "r-1", "prompt": "?", **fields}})


IMAGE = {"base64": "aGk=", "mime_type": "image/png"}
BAD_REQUESTS: dict[str, dict[str, Any]] = {
    "unknown option": {"options": {"num_ctx": 9}},
    "option of a wrong type": {"options": {"temperature": "hot"}},
    "options as a list": {"options": []},
    "a float for max_tokens": {"options": {"max_tokens": 1.5}},
    "too many stops": {"options": {"stop": ["a"] * 5}},
    "an empty stop": {"options": {"stop": [""]}},
    "a stop as a string": {"options": {"stop": "END"}},
    "a number out of range": {"options": {"temperature": 10**400}},
    "an image path": {"images": [{**IMAGE, "path": "/etc/passwd"}]},
    "an image path alone": {"images": [{"path": "/etc/passwd"}]},
    "an image url": {"images": [{**IMAGE, "url": "http://127.0.0.1/"}]},
    "an image path in a turn": {"messages": [{"role": "user", "content": "", "images": [{**IMAGE, "path": "/x"}]}]},
    "an image of another type": {"images": [{"base64": "", "mime_type": "image/svg+xml"}]},
    "too many images": {"images": [IMAGE] * 9},
    "an unknown role": {"messages": [{"role": "tool", "content": ""}]},
    "a turn without content": {"messages": [{"role": "user"}]},
    "too many turns": {"messages": [{"role": "user", "content": ""}] * 1025},
    "a prompt of a wrong type": {"prompt": ["?"]},
    "a long model": {"model": "m" * 257},
    "a model of a wrong type": {"model": 1},
    "an unknown priority": {"priority": "now"},
    "stream as a number": {"stream": 1},
}


@pytest.mark.parametrize("fields", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_is_named_and_keeps_the_link(ends: Pair, fields: dict[str, Any]) -> None:
    server = ends.open().server
    (event,) = server.receive_data(request(**fields))
    assert isinstance(event, BadRequest) and event.request_id == "r-1" and event.reason
    assert server.state is State.OPEN
    (good,) = server.receive_data(request())
    assert isinstance(good, RemoteInferenceRequest)


def test_the_reason_of_a_bad_request_does_not_repeat_an_enumerations_value(ends: Pair) -> None:
    (event,) = ends.open().server.receive_data(request(priority="\x1b[31mnow"))
    assert isinstance(event, BadRequest)
    assert "now" not in event.reason and "priority" in event.reason


@pytest.mark.parametrize("request_id", [None, "", 5, "x" * 65, "a b", "\n"])
def test_a_request_without_a_usable_id_ends_the_connection(ends: Pair, request_id: object) -> None:
    server = ends.open().server
    with pytest.raises(RemoteProtocolError, match="usable request_id"):
        list(server.receive_data(request(request_id=request_id)))
    assert server.state is State.CLOSED


def test_a_request_with_numbers_beyond_all_limits_is_taken_and_clamped(ends: Pair) -> None:
    (event,) = ends.open().server.receive_data(request(options={"max_tokens": 10**9, "seed": 10**300}))
    assert isinstance(event, RemoteInferenceRequest)
    assert event.options.clamped() == Options(max_tokens=32_768, seed=2**31 - 1)


FREQUENT_BUT_NOT_JSON = {
    "a key twice": b'"request_id":"r","request_id":"s","index":0',
    "an unknown key twice": b'"request_id":"r","index":0,"x":1,"x":2',
    "NaN": b'"request_id":"r","index":0,"x":NaN',
    "1e999": b'"request_id":"r","index":0,"x":1e999',
    "a lone surrogate": b'"request_id":"r","index":0,"text":"\\ud800"',
    "a raw surrogate": b'"request_id":"r","index":0,"text":"\xed\xa0\x80"',
    "not utf-8": b'"request_id":"r","index":0,"text":"\xff"',
    "not utf-8 in what is not read": b'"request_id":"r","index":0,"x":"\xff"',
    "a raw newline": b'"request_id":"r","index":0,"text":"a\nb"',
}


@pytest.mark.parametrize("fields", FREQUENT_BUT_NOT_JSON.values(), ids=FREQUENT_BUT_NOT_JSON)
def test_frequent_commands_are_read_as_strictly_as_any(ends: Pair, fields: bytes) -> None:
    """They have a fast path of their own."""
    server = ends.open().server
    with pytest.raises(RemoteProtocolError, match="strict JSON"):
        list(server.receive_data(raw_frame(b'{"command":"REMOTE_INFERENCE_CHUNK","payload":{%s}}' % fields)))
    assert server.state is State.CLOSED


def test_what_lies_beside_the_payload_of_a_frequent_command_is_parsed_too(ends: Pair) -> None:
    for tail in (b',"command":"PING"}', b"}}", b",}", b',"x":NaN}', b"} "):
        server = Pair(GUEST, HOST, load_key=load_plain).open().server
        payload = b'{"command":"REMOTE_INFERENCE_CHUNK","payload":{"request_id":"r","index":0}' + tail
        if tail == b"} ":
            assert list(server.receive_data(raw_frame(payload))) == [RemoteInferenceChunk("r", 0)]
        else:
            with pytest.raises(RemoteProtocolError, match="strict JSON"):
                list(server.receive_data(raw_frame(payload)))


MALFORMED: dict[str, object] = {
    "PROVIDERS_RESPONSE": {"providers": [{"alias": "a" * 129, "model": "m"}]},
    "REMOTE_INFERENCE_STATUS": {"request_id": "r", "state": "dancing"},
    "REMOTE_INFERENCE_CHUNK": {"request_id": "r", "index": -1},
    "REMOTE_INFERENCE_RESPONSE": {"request_id": "r", "status": "maybe"},
    "REMOTE_INFERENCE_CANCEL": {},
    "REMOTE_INFERENCE_RESUME": {"request_id": ""},
    "RELAY_PEERS": {"nodes": [{"node_id": "anna"}]},
    "RELAY_OPEN": {"relay_id": "x" * 32, "target": "dpc-node-" + "5" * 32},
    "RELAY_OPENED": {},
    "RELAY_DATA": {"relay_id": "0" * 32, "data": ""},
    "RELAY_CREDIT": {"relay_id": "0" * 32, "count_bytes": 0},
    "RELAY_CLOSE": {"relay_id": "0" * 31},
    "INVITE_CLAIM": {"invite_id": "00112233445566ff", "proof": "0f" * 31},
    "INVITE_RESULT": {"invite_id": "00112233445566FF", "status": "ok"},
    "PING": {"timestamp": 10**400},
    "PONG": {"timestamp": "now"},
    "GOODBYE": {"reason": "x" * 257},
    "GET_PROVIDERS": [],
}


@pytest.mark.parametrize("word", MALFORMED)
def test_a_malformed_payload_ends_an_open_connection_with_a_goodbye_that_says_so(ends: Pair, word: str) -> None:
    server = ends.open().server
    with pytest.raises(RemoteProtocolError, match=f"{word} is malformed"):
        list(server.receive_data(frame({"command": word, "payload": MALFORMED[word]})))
    (goodbye,) = frames(server.data_to_send())
    assert goodbye["command"] == "GOODBYE" and word in goodbye["payload"]["reason"]


def test_a_malformed_payload_of_a_v15_peer_ends_its_connection_without_a_word() -> None:
    server = v15_ends().server
    server.data_to_send()
    with pytest.raises(RemoteProtocolError):
        list(server.receive_data(frame({"command": "GET_PROVIDERS", "payload": 1})))
    assert server.data_to_send() == b""


@pytest.mark.parametrize("payload", [None, [], "", {"node_id": "?"}])
def test_a_malformed_hello_is_answered_with_a_refusal(ends: Pair, payload: object) -> None:
    ends.server.data_to_send()
    with pytest.raises(RemoteProtocolError, match="HELLO is malformed"):
        list(ends.server.receive_data(frame({"command": "HELLO", "payload": payload})))
    (ack,) = frames(ends.server.data_to_send())
    assert ack["status"] == "ERROR" and "HELLO is malformed" in ack["error"]


@pytest.mark.parametrize("session", ["", "x" * 65, "a b", "../x", "a\n", 7])
def test_a_malformed_session_is_refused(ends: Pair, session: object) -> None:
    ends.to_client()
    (hello,) = frames(ends.client.data_to_send())
    hello["payload"]["ext"]["session"] = session
    with pytest.raises(RemoteProtocolError, match="HELLO is malformed"):
        list(ends.server.receive_data(frame(hello)))


def test_a_command_without_a_payload_is_read_as_an_empty_one(ends: Pair) -> None:
    assert list(ends.open().server.receive_data(frame({"command": "GET_PROVIDERS"}))) == [GetProviders()]


# Our own mistakes.


@pytest.mark.parametrize("state", [s for s in State if s is not State.OPEN], ids=lambda s: s.name)
@pytest.mark.parametrize("message", [GetProviders(), Ping(1.0), RemoteInferenceRequest(request_id="r")])
def test_nothing_is_sent_before_or_after_the_open_conversation(ends: Pair, state: State, message: Message) -> None:
    end = brought_to(state, ends)
    with pytest.raises(LocalProtocolError, match=state.name):
        end.send(message)
    assert end.data_to_send() == b""
    assert end.state is state


@pytest.mark.parametrize(
    "message",
    [
        HelloChallenge("bm9uY2U="),
        Hello(GUEST.node_id, "", "", ""),
        HelloAck(status="OK"),
        Unknown("X"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_handshake_messages_are_not_sent_by_hand(ends: Pair, message: Message) -> None:
    server = ends.open().server
    with pytest.raises(LocalProtocolError):
        server.send(message)
    assert server.data_to_send() == b""


def test_nothing_is_sent_after_our_own_goodbye(ends: Pair) -> None:
    server = ends.open().server
    server.send(Goodbye("closing"))
    with pytest.raises(LocalProtocolError):
        server.send(GetProviders())
    assert list(server.receive_data(golden("GET_PROVIDERS"))) == []
    assert [message["command"] for message in frames(server.data_to_send())] == ["GOODBYE"]


def test_nobody_is_admitted_before_a_hello_or_twice(ends: Pair) -> None:
    with pytest.raises(LocalProtocolError):
        ends.server.admit()
    with pytest.raises(LocalProtocolError):
        ends.client.admit()
    ends.open()
    with pytest.raises(LocalProtocolError):
        ends.server.admit()


def test_a_refusal_of_an_open_connection_does_nothing(ends: Pair) -> None:
    ends.open().server.refuse("too late")
    assert ends.server.state is State.OPEN and ends.server.data_to_send() == b""


@pytest.mark.parametrize(
    "message",
    [
        RemoteInferenceChunk("r", 0, "\ud800"),
        RemoteInferenceResponse(request_id="r", status="success", response="a\udfff"),
        RemoteInferenceRequest(request_id="r", prompt="\udc00"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_text_that_no_frame_can_hold_is_our_own_error_and_sends_nothing(ends: Pair, message: Message) -> None:
    server = ends.open().server
    with pytest.raises(LocalProtocolError):
        server.send(message)
    assert server.data_to_send() == b"" and server.state is State.OPEN


def test_what_has_collected_is_taken_once(ends: Pair) -> None:
    server = ends.open().server
    server.send(GetProviders())
    server.send(Ping(1.0))
    assert [message["command"] for message in frames(server.data_to_send())] == ["GET_PROVIDERS", "PING"]
    assert server.data_to_send() == b""


def test_what_is_sent_is_compact_json(ends: Pair) -> None:
    server = ends.open().server
    server.send(RemoteInferenceChunk("r", 0, "é\n"))
    payload = server.data_to_send()[10:]
    assert json.loads(payload) == {
        "command": "REMOTE_INFERENCE_CHUNK",
        "payload": {"request_id": "r", "index": 0, "text": "é\n"},
    }
    assert b" " not in payload


def test_both_ends_know_each_other_by_proven_id_name_and_session(ends: Pair) -> None:
    ends.to_client()
    assert ends.to_server() == [Authenticated(GUEST.node_id, "guest", Ext(1, "guest-session", stream=True))]
    ends.server.admit()
    assert ends.to_client() == [Authenticated(HOST.node_id, "host", Ext(1, "host-session", stream=True))]
