from __future__ import annotations

import json

import pytest

from dpc_jupyter import strict_json
from dpc_jupyter.errors import ConfigError, RemoteProtocolError
from dpc_jupyter.firewall import parse_json
from dpc_jupyter.protocol.framing import decode_object

NOT_STRICT = [
    *('{"a": 1, "a": 1}', '{"a": [{"b": 1, "c": 2, "b": 3}]}', '{"a": 1, "\\u0061": 2}'),
    *('{"a": NaN}', '{"a": Infinity}', '{"a": [-Infinity]}', '{"a": 1e999}', '{"a": -1e400}'),
    *('{"a": 1} {}', '{"a": 01}', '{"a": 1,}', "{'a': 1}", ""),
]


@pytest.mark.parametrize("text", NOT_STRICT)
def test_what_two_readers_could_read_differently_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        strict_json.loads(text)


@pytest.mark.parametrize("text", NOT_STRICT)
def test_a_frame_and_a_file_are_held_to_it(text: str) -> None:
    with pytest.raises(RemoteProtocolError, match="not strict JSON"):
        decode_object(text.encode())
    with pytest.raises(ConfigError, match=r"^line 1, column \d+: "):
        parse_json(text)


def test_all_else_is_read_as_json_is() -> None:
    text = '{"a": [1, -0.5, 1e300, 1e-999, true, null, "\\u00e9\\n"], "b": {"a": {}}}'
    assert strict_json.loads(f" {text}\n") == json.loads(text)
    assert strict_json.value_at(text, 7) == (1, 8)
