"""Bytes that are no frames, through a whole conversation: each ends it, none is kept, none is a crash."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpc_jupyter.errors import LocalProtocolError, RemoteProtocolError
from dpc_jupyter.identity import Identity
from dpc_jupyter.protocol.connection import Connection, State
from dpc_jupyter.protocol.framing import (
    LIMIT_BEFORE_AUTHENTICATION_BYTES,
    LIMIT_BYTES,
    MAX_DEPTH,
    decode_object,
    encode_frame,
)
from dpc_jupyter.protocol.messages import (
    GetProviders,
    ProvidersResponse,
    RemoteInferenceChunk,
    RemoteInferenceRequest,
    Unknown,
)
from protocol.ends import Pair, frame, frames, opened, raw_frame, server_of

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.bin"))


@pytest.fixture
def server(host_id: Identity) -> Connection:
    """Before authentication."""
    return server_of(host_id)


@pytest.fixture
def host(server: Connection, guest_id: Identity, host_id: Identity) -> Connection:
    """After it."""
    return opened(server, guest_id, host_id)


def refuses(connection: Connection, data: bytes, word: str) -> None:
    with pytest.raises(RemoteProtocolError, match=word):
        list(connection.receive_data(data))
    assert connection.state is State.CLOSED


HEADERS = {
    "spaces": b"         2",
    "trailing space": b"2         ",
    "plus": b"+000000002",
    "minus": b"-000000002",
    "underscore": b"00000_0002",
    "hexadecimal": b"0x00000002",
    "hex digits": b"000000000a",
    "decimal point": b"00000002.0",
    "exponent": b"00000002e0",
    "arabic digits": "٢".encode() * 5,
    "fullwidth digits": "\uff12".encode() * 3 + b"2",
    "newline": b"000000002\n",
    "nul": b"000000002\0",
    "http": b"GET / HTTP",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_header_of_anything_but_ten_ascii_digits_ends_the_connection(server: Connection, header: bytes) -> None:
    refuses(server, header + b"{}", "ten digits")


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_wrong_header_ends_an_open_connection_too(host: Connection, header: bytes) -> None:
    refuses(host, frame({"command": "GET_PROVIDERS"}) + header, "ten digits")


@pytest.mark.parametrize("size", [LIMIT_BEFORE_AUTHENTICATION_BYTES + 1, LIMIT_BYTES, 9_999_999_999])
def test_a_frame_over_16_kib_is_refused_before_authentication(server: Connection, size: int) -> None:
    refuses(server, b"%010d" % size, "limit is 16,384")


@pytest.mark.parametrize("size", [LIMIT_BYTES + 1, 9_999_999_999])
def test_a_frame_over_1_mib_is_refused_after_authentication(host: Connection, size: int) -> None:
    refuses(host, b"%010d" % size, "limit is 1,048,576")


def test_a_frame_of_exactly_the_limit_is_taken(host: Connection) -> None:
    head = b'{"command":"FUTURE","payload":"'
    payload = head + b"x" * (LIMIT_BYTES - len(head) - 2) + b'"}'
    assert len(payload) == LIMIT_BYTES
    assert list(host.receive_data(raw_frame(payload))) == [Unknown("FUTURE")]


def test_a_frame_of_exactly_16_kib_is_read_before_authentication(server: Connection) -> None:
    head = b'{"command":"GET_PROVIDERS","payload":"'
    payload = head + b"x" * (LIMIT_BEFORE_AUTHENTICATION_BYTES - len(head) - 2) + b'"}'
    refuses(server, raw_frame(payload), "AWAIT_HELLO")


def held_after(connection: Connection, pieces: int, piece: bytes) -> int:
    """Bytes that the connection keeps of what it was fed, up to the error."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(pieces):
            try:
                list(connection.receive_data(piece))
            except RemoteProtocolError:
                continue
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def test_a_header_of_ten_gigabytes_buffers_nothing(host: Connection) -> None:
    refuses(host, b"9999999999", "limit")
    assert held_after(host, 200, b"x" * 65536) < 2 * 65536


@pytest.mark.parametrize("piece", [b"0" * 65536, frame({"command": "PING"}) * 1500])
def test_what_comes_after_the_end_is_not_kept(host: Connection, piece: bytes) -> None:
    refuses(host, b"not a frame", "DPTP")
    assert held_after(host, 100, piece) < 3 * len(piece)


def test_what_comes_after_a_goodbye_is_not_kept(host: Connection) -> None:
    list(host.receive_data(frame({"command": "GOODBYE", "payload": {"reason": "done"}})))
    piece = frame({"command": "GET_PROVIDERS", "payload": {}}) * 1500
    assert held_after(host, 100, piece) < 3 * len(piece)


def test_an_unfinished_frame_is_kept_up_to_its_limit_and_one_read(host: Connection) -> None:
    list(host.receive_data(b"%010d" % LIMIT_BYTES))
    assert held_after(host, 15, b"x" * 65536) < 2 * LIMIT_BYTES


# The dicts hold text between quotes of a payload, or the whole of it.
NOT_JSON = {
    "NaN": b'{"command":"PING","payload":{"timestamp":NaN}}',
    "Infinity": b'{"command":"PING","payload":{"timestamp":Infinity}}',
    "-Infinity": b'{"command":"PING","payload":{"timestamp":-Infinity}}',
    "1e999": b'{"command":"PING","payload":{"timestamp":1e999}}',
    "-1e999": b'{"command":"PING","payload":{"timestamp":-1e999}}',
    "5000 digits": b'{"command":"PING","payload":{"timestamp":%s}}' % (b"9" * 5000),
    "a key twice": b'{"command":"PING","command":"GET_PROVIDERS","payload":{}}',
    "a key twice, once escaped": b'{"command":"PING","comm\\u0061nd":"GET_PROVIDERS"}',
    "a key twice inside": b'{"command":"GET_PROVIDERS","payload":{"a":1,"b":[{"c":1,"c":2}]}}',
    "escaped lone surrogate": b'{"command":"GOODBYE","payload":{"reason":"\\ud800"}}',
    "escaped low surrogate": b'{"command":"GOODBYE","payload":{"reason":"\\udc00"}}',
    "surrogates in wrong order": b'{"command":"GOODBYE","payload":{"reason":"\\udc00\\ud800"}}',
    "escaped lone surrogate in a key": b'{"command":"GOODBYE","payload":{"\\udfff":1}}',
    "raw lone surrogate": b'{"command":"GOODBYE","payload":{"reason":"\xed\xa0\x80"}}',
    "raw surrogate pair": b'{"command":"GOODBYE","payload":{"reason":"\xed\xa0\xbd\xed\xb8\x80"}}',
    "overlong slash": b'{"command":"GOODBYE","payload":{"reason":"\xc0\xaf"}}',
    "beyond unicode": b'{"command":"GOODBYE","payload":{"reason":"\xf5\x80\x80\x80"}}',
    "cut utf-8": b'{"command":"GOODBYE","payload":{"reason":"\xe2\x82"}}',
    "utf-16": '{"command":"PING"}'.encode("utf-16-le"),
    "byte order mark": b'\xef\xbb\xbf{"command":"GET_PROVIDERS","payload":{}}',
    "raw newline in a string": b'{"command":"GOODBYE","payload":{"reason":"a\nb"}}',
    "single quotes": b"{'command':'GET_PROVIDERS'}",
    "trailing comma": b'{"command":"GET_PROVIDERS",}',
    "comment": b'{"command":"GET_PROVIDERS"}//',
    "two objects": b'{"command":"GET_PROVIDERS"}{"command":"GET_PROVIDERS"}',
    "open end": b'{"command":"GET_PROVIDERS"',
    "nothing": b"",
    "blank": b"   ",
}
NOT_AN_OBJECT = {"array": b'["GET_PROVIDERS"]', "string": b'"GET_PROVIDERS"', "number": b"1", "null": b"null"}
NO_COMMAND = {
    "empty object": b"{}",
    "number for a command": b'{"command":1}',
    "null for a command": b'{"command":null}',
    "list for a command": b'{"command":["PING"]}',
    "COMMAND": b'{"COMMAND":"PING"}',
}


@pytest.mark.parametrize("payload", NOT_JSON.values(), ids=NOT_JSON)
def test_a_payload_that_is_not_strict_json_ends_the_connection(host: Connection, payload: bytes) -> None:
    refuses(host, raw_frame(payload), "strict JSON")


@pytest.mark.parametrize("payload", NOT_JSON.values(), ids=NOT_JSON)
def test_a_payload_that_is_not_strict_json_is_refused_before_authentication(server: Connection, payload: bytes) -> None:
    refuses(server, raw_frame(payload), "strict JSON")


@pytest.mark.parametrize("payload", NOT_AN_OBJECT.values(), ids=NOT_AN_OBJECT)
def test_a_payload_that_is_no_object_ends_the_connection(host: Connection, payload: bytes) -> None:
    refuses(host, raw_frame(payload), "not a JSON object")


@pytest.mark.parametrize("payload", NO_COMMAND.values(), ids=NO_COMMAND)
def test_an_object_without_a_command_ends_the_connection(host: Connection, payload: bytes) -> None:
    refuses(host, raw_frame(payload), "without a command")


def test_the_reason_does_not_repeat_what_the_peer_wrote(host: Connection) -> None:
    secret = "\x1b]0;owned\x07"
    with pytest.raises(RemoteProtocolError) as caught:
        list(host.receive_data(raw_frame(b'{"command":"' + secret.encode() + b'"')))
    assert "owned" not in str(caught.value)


def nested(levels: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    """A whole payload of this many levels, the frame's own object counted."""
    return b'{"command":"FUTURE","payload":' + opening * (levels - 1) + b"1" + closing * (levels - 1) + b"}"


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
def test_nesting_is_counted_over_arrays_and_objects(host: Connection, opening: bytes, closing: bytes) -> None:
    per_step = len(opening.strip(b'"a:'))
    steps = (MAX_DEPTH - 1) // per_step
    fits = b'{"command":"FUTURE","payload":' + opening * steps + b"1" + closing * steps + b"}"
    assert list(host.receive_data(raw_frame(fits))) == [Unknown("FUTURE")]
    deeper = b'{"command":"FUTURE","payload":' + opening * (steps + 1) + b"1" + closing * (steps + 1) + b"}"
    refuses(host, raw_frame(deeper), "strict JSON")


def test_32_levels_are_taken_and_33_are_not(host: Connection) -> None:
    assert MAX_DEPTH == 32
    assert list(host.receive_data(raw_frame(nested(32)))) == [Unknown("FUTURE")]
    refuses(host, raw_frame(nested(33)), "strict JSON")


@pytest.mark.parametrize("levels", [33, 1000, 100_000, 500_000])
def test_any_depth_is_an_error_and_not_a_crash(host: Connection, levels: int) -> None:
    refuses(host, raw_frame(nested(levels)), "strict JSON")


HOT = ("REMOTE_INFERENCE_REQUEST", "REMOTE_INFERENCE_STATUS", "REMOTE_INFERENCE_CHUNK", "REMOTE_INFERENCE_RESPONSE")


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
@pytest.mark.parametrize("levels", [40, 1000, 100_000, 500_000])
@pytest.mark.parametrize("word", HOT)
def test_any_depth_within_a_frequent_command_is_an_error_and_not_a_crash(
    host: Connection, word: str, levels: int, closed: bool
) -> None:
    inner = b"[" * levels + b"]" * (levels if closed else 0)
    refuses(host, raw_frame(b'{"command":"%s","payload":{"request_id":"r","x":%s}}' % (word.encode(), inner)), "strict")


@pytest.mark.parametrize("levels", [33, 8000])
def test_open_brackets_alone_are_an_error_and_not_a_crash(server: Connection, levels: int) -> None:
    refuses(server, raw_frame(b"[" * levels), "strict JSON")


def test_brackets_within_text_are_not_nesting(host: Connection) -> None:
    text = '{"[' * 100 + '\\"{{' + "\\"
    message = {"command": "FUTURE", "payload": [text, "]" * 50, {"{" * 40: text}]}
    assert list(host.receive_data(frame(message))) == [Unknown("FUTURE")]


def test_depth_after_text_with_quotes_and_backslashes_is_still_counted(host: Connection) -> None:
    payload = b'{"command":"FUTURE","a":"\\\\","b":"\\"","payload":' + b"[" * 32 + b"]" * 32 + b"}"
    refuses(host, raw_frame(payload), "strict JSON")


def mebibyte_of(piece: bytes) -> bytes:
    pieces = b",".join([piece] * ((LIMIT_BYTES - 400) // (len(piece) + 1)))
    return b'{"command":"FUTURE", "payload":[' + b"{}," * 40 + pieces + b"]}"


SHAPES = {"objects": b"{}", "arrays": b"[]", "text": b'"{"', "escapes": b'"\\\\"', "numbers": b"1.5"}


@pytest.mark.parametrize("piece", SHAPES.values(), ids=SHAPES)
def test_more_structure_than_any_message_has_ends_the_connection(host: Connection, piece: bytes) -> None:
    refuses(host, raw_frame(mebibyte_of(piece)), "strict JSON")


HONEST: dict[str, dict[str, Any]] = {
    "1,024 turns": {
        "command": "REMOTE_INFERENCE_REQUEST",
        "payload": {"request_id": "r", "messages": [{"role": "user", "content": "{[" * 400}] * 1024},
    },
    "512 models": {
        "command": "PROVIDERS_RESPONSE",
        "payload": {"providers": [{"alias": "a" * 64, "model": "m" * 64, "type": "t", "context_window": None}] * 512},
    },
    "a prompt of brackets": {
        "command": "REMOTE_INFERENCE_REQUEST",
        "payload": {"request_id": "r", "prompt": '{"[' * 250_000},
    },
}


@pytest.mark.parametrize("message", HONEST.values(), ids=HONEST)
def test_the_largest_honest_messages_are_read(host: Connection, message: dict[str, Any]) -> None:
    (event,) = host.receive_data(raw_frame(json.dumps(message).encode()))
    assert isinstance(event, RemoteInferenceRequest | ProvidersResponse)


def best_cpu_s(read: Callable[[bytes], object], payload: bytes) -> float:
    times = []
    for _ in range(3):
        began = time.thread_time()
        with suppress(RemoteProtocolError):
            read(payload)
        times.append(time.thread_time() - began)
    return min(times)


@pytest.mark.parametrize("piece", SHAPES.values(), ids=SHAPES)
def test_no_shape_of_a_mebibyte_costs_many_times_a_plain_parse(piece: bytes) -> None:
    """A node reads frames on its one loop: a frame that takes a second is a second's silence for everyone."""
    plain = best_cpu_s(json.loads, mebibyte_of(b"{}"))
    assert best_cpu_s(decode_object, mebibyte_of(piece)) < 8 * plain


def test_escaped_pairs_and_raw_astral_text_are_taken(host: Connection) -> None:
    (chunk,) = host.receive_data(
        raw_frame(
            '{"command":"REMOTE_INFERENCE_CHUNK","payload":{"request_id":"r","index":0,"text":"\\ud83d\\ude00😀"}}'.encode()
        )
    )
    assert isinstance(chunk, RemoteInferenceChunk) and chunk.text == "😀😀"


def test_a_message_over_the_limit_is_not_sent(pair: Pair) -> None:
    client = pair.open().client
    with pytest.raises(LocalProtocolError, match="Shorten the prompt"):
        client.send(RemoteInferenceRequest(request_id="r", prompt="x" * LIMIT_BYTES))
    assert client.data_to_send() == b""
    assert client.state is State.OPEN


def test_the_largest_frame_is_encoded() -> None:
    assert encode_frame(b"x" * LIMIT_BYTES)[:10] == b"0001048576"
    with pytest.raises(LocalProtocolError):
        encode_frame(b"x" * (LIMIT_BYTES + 1))


STREAM = b"".join(path.read_bytes() for path in GOLDEN if not path.stem.startswith("HELLO") and path.stem != "GOODBYE")


def fed(connection: Connection, data: bytes, cuts: list[int]) -> list[object]:
    edges = [0, *sorted(cuts), len(data)]
    return [event for start, end in pairwise(edges) for event in connection.receive_data(data[start:end])]


def test_byte_by_byte_and_all_at_once_give_the_same_events(
    guest_id: Identity, host_id: Identity, host: Connection
) -> None:
    whole = list(host.receive_data(STREAM))
    assert len(whole) >= 9
    single = opened(server_of(host_id), guest_id, host_id)
    assert fed(single, STREAM, list(range(1, len(STREAM)))) == whole


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_any_cutting_of_the_stream_gives_the_same_events(open_hosts: Callable[[], Connection], cuts: list[int]) -> None:
    assert fed(open_hosts(), STREAM, cuts) == fed(open_hosts(), STREAM, [])


@pytest.fixture(scope="session")
def open_hosts(guest_id: Identity, host_id: Identity) -> Callable[[], Connection]:
    return lambda: opened(server_of(host_id), guest_id, host_id)


def test_an_error_in_the_middle_gives_what_came_before_it(host: Connection) -> None:
    events = host.receive_data(frame({"command": "GET_PROVIDERS"}) * 2 + b"garbage---")
    assert [next(events), next(events)] == [GetProviders()] * 2
    with pytest.raises(RemoteProtocolError):
        next(events)


def test_a_conversation_that_is_over_hears_nothing_more(host: Connection) -> None:
    refuses(host, b"garbage---", "DPTP")
    for data in (frame({"command": "GET_PROVIDERS"}), b"more garbage", b"9999999999"):
        assert list(host.receive_data(data)) == []


def test_an_open_peer_that_breaks_the_framing_is_told_why(host: Connection) -> None:
    refuses(host, b"garbage---", "DPTP")
    (goodbye,) = frames(host.data_to_send())
    assert goodbye["command"] == "GOODBYE"
    assert "ten digits" in goodbye["payload"]["reason"]


def test_a_peer_that_breaks_the_framing_before_hello_is_told_why(server: Connection) -> None:
    server.data_to_send()
    refuses(server, b"garbage---", "DPTP")
    (ack,) = frames(server.data_to_send())
    assert (ack["command"], ack["status"]) == ("HELLO_ACK", "ERROR")
    assert "ten digits" in ack["error"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_whatever_json_can_say_is_read_as_the_standard_parser_reads_it(value: object) -> None:
    payload = json.dumps({"value": value}).encode()
    assert decode_object(payload) == json.loads(payload)


@given(st.text())
def test_any_text_goes_through_a_frame_unchanged(text: str) -> None:
    payload = json.dumps({"a": text}, ensure_ascii=False).encode()
    assert decode_object(payload) == {"a": text}


def test_a_models_list_of_the_largest_size_fits_a_frame(pair: Pair) -> None:
    pair.open().server.send(ProvidersResponse())
    assert pair.to_client() == [ProvidersResponse()]
