"""What an access file may hold, and how it is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpc_jupyter.errors import ConfigError
from dpc_jupyter.firewall import Document, Rules, allow, deny, dumps, parse_json, set_enabled
from firewall.documents import (
    ANNA,
    BOB,
    NOW,
    rules,
    shared,
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"compute": {\n  "enabled": tru\n}}', "line 2, column 14: Expecting value"),
        ("", "line 1, column 1: "),
        ("[]", "line 1, column 1: must be one object"),
        ('{"a": 1,\n "compute": {"enabled": NaN}}', "line 2, column 25: NaN is not a JSON number"),
        ('{"_a": -Infinity}', "line 1, column 8: -Infinity is not a JSON number"),
        ('{"_a":\n 1e999}', "line 2, column 2: a number is out of range"),
        ('{"hub": {"b": 1,\n  "b": 2}}', "line 2, column 3: the key 'b' is there twice"),
        ('{"_a": {"b": 1,\n  "b": 2}}', "line 2, column 3: the key 'b' is there twice"),
        ('{"_a": [{}, {"b": 1, "b": 2}]}', "line 1, column 22: the key 'b' is there twice"),
        ('{"_a": ' + "9" * 5000 + "}", "line 1, column 8: Exceeds the limit"),
        ('{"_a": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 1, column 1: nested too deeply"),
        (
            '{"compute": {"allow_node": []}}',
            "line 1, column 28: unknown key 'allow_node'; known: enabled, paused, allow_groups, allow_nodes, ",
        ),
        ('{"compute": {"enabled": "yes"}}', "line 1, column 25: 'enabled' must be true or false"),
        ('{"compute": {"paused": "no"}}', "line 1, column 24: 'paused' must be true or false"),
        ('{"compute": {"pause": true}}', "unknown key 'pause'; known: enabled, paused, "),
        ('{"compute": {"enabled": 1}}', "line 1, column 25: 'enabled' must be true or false"),
        ('{"compute": []}', "line 1, column 13: 'compute' must be an object"),
        ('{"compute": {"allow_nodes": "x"}}', "line 1, column 29: 'allow_nodes' must be a list"),
        ('{"compute": {"allow_nodes": ["dpc-node-a",\n"anna"]}}', "line 2, column 1: must be a node id"),
        ('{"compute": {"allow_groups": ["_x"]}}', "line 1, column 31: must be the name of a group"),
        ('{"compute": {"allowed_models": ["a*b"]}}', "line 1, column 33: must be the name of a model"),
        ('{"compute": {"limits": {"running": 0}}}', "column 36: 'running' must be a whole number from 1 to 1,024"),
        ('{"compute": {"limits": {"running": true}}}', "'running' must be a whole number"),
        ('{"compute": {"limits": {"running": 1.5}}}', "'running' must be a whole number"),
        ('{"compute": {"limits": {"queued": null}}}', "'queued' must be a whole number"),
        ('{"compute": {"limits": {"tokens_per_day": -1}}}', "or null"),
        ('{"nodes": {"anna": {}}}', "line 1, column 20: unknown key 'anna'; known: a node id"),
        ('{"nodes": {"dpc-node-a": {"name": "dpc-node-b"}}}', "'name' must be a name"),
        ('{"nodes": {"dpc-node-a": {"expires": "soon"}}}', "'expires' must be a date"),
        ('{"nodes": {"dpc-node-a": {"expires": "2026-11-28T18:00:00"}}}', "'expires' must be a date"),
        ('{"nodes": {"dpc-node-a": {"expires": "9999-12-31"}}}', "'expires' must be a date"),
        ('{"nodes": {"dpc-node-a": {"expires": "0001-01-01T00:00:00+10:00"}}}', "'expires' must be a date"),
        (
            '{"node_groups": {"friends": []},\n "groups": {"freinds": {}}}',
            "line 2, column 24: no group is called 'freinds'; known: friends",
        ),
    ],
)
def test_an_invalid_file_is_refused_with_line_and_column(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Rules.parse(text)
    assert sentence in caught.value.sentence
    assert caught.value.sentence.startswith("line ")


def test_notes_may_stand_anywhere_and_hold_anything() -> None:
    note: Document = {"_comment": [1, {"x": None}]}
    document: Document = {
        **note,
        "compute": {**note, "enabled": True, "limits": note, "allow_groups": ["g"]},
        "node_groups": {**note, "g": [ANNA]},
        "groups": {**note, "g": note},
        "nodes": {**note, ANNA: note},
    }
    assert rules(document).can_request_inference(ANNA, "m", NOW)


def test_a_key_that_starts_with_an_underscore_is_a_note_and_never_a_group() -> None:
    with pytest.raises(ConfigError, match="the name of a group"):
        rules(shared(compute={"allow_groups": ["_friends"]}, node_groups={"_friends": [ANNA]}))


THEIRS: Document = {
    "hub": {"personal.json:profile.name": "allow"},
    "file_groups": {"work": ["work_*.json"]},
    "ai_scopes": {"work": {"@work:*": "allow"}},
    "device_sharing": {"basic": {"device_context.json:hardware.*": "deny"}},
    "transcription": {"enabled": True, "allow_nodes": [BOB], "allowed_models": ["whisper"]},
    "file_transfer": {"nodes": {BOB: {"file_transfer.allow": "allow"}}},
    "image_transfer": {"max_size_mb": 100},
    "notifications": {"enabled": True},
    "dpc_agent": {"enabled": True, "tools": {}},
    "agent_profiles": {"default": {}},
    "from a later version": [1, None],
}


def test_sections_of_dpc_messenger_in_the_same_file_grant_nothing_and_deny_nothing() -> None:
    found = rules({**THEIRS, **shared(compute={"allow_nodes": [ANNA], "allowed_models": ["m"]})})
    assert found.get_available_models_for_peer(ANNA, ["m", "whisper"], NOW) == ["m"]
    assert not found.is_known(BOB, NOW)
    assert not rules(THEIRS).enabled


def test_an_edit_keeps_sections_of_dpc_messenger_as_they_are() -> None:
    document = {**THEIRS, **shared()}
    for edited in (set_enabled(document, False), allow(document, ANNA), deny(allow(document, ANNA), ANNA)):
        assert {key: value for key, value in edited.items() if key in THEIRS} == THEIRS
        assert list(edited)[: len(THEIRS)] == list(THEIRS)
        assert parse_json(dumps(edited)) == edited


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        *(("comput", "compute"), ("computes", "compute"), ("Compute", "compute"), ("COMPUTE", "compute")),
        *(("node", "nodes"), ("noeds", "nodes"), ("NODES", "nodes"), ("nodes ", "nodes")),
        *(("group", "groups"), ("gruops", "groups"), ("node_group", "node_groups"), ("nodegroups", "node_groups")),
    ],
)
def test_a_section_that_is_nearly_called_like_one_of_ours_is_refused(key: str, ours: str) -> None:
    sentence = f"unknown key {key!r}; did you mean {ours!r}?"
    with pytest.raises(ConfigError) as caught:
        Rules.parse(f'{{"hub": {{}},\n "{key}": {{}}}}')
    assert caught.value.sentence == f"line 2, column {len(key) + 6}: {sentence}"
    with pytest.raises(ConfigError) as caught:
        set_enabled({"hub": {}, key: {}}, True)
    assert caught.value.sentence == f"{key}: {sentence}"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["compute", "nodes", "node_groups", "groups", "enabled", "limits", "_c", ANNA])
            | st.text(max_size=8),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(json_values.map(json.dumps) | st.text())
def test_whatever_the_file_holds_it_is_either_valid_or_refused(text: str) -> None:
    try:
        found = Rules.parse(text)
    except ConfigError as error:
        assert error.sentence.startswith("line ")
    else:
        assert found.explain(ANNA, "m", NOW).allowed == found.can_request_inference(ANNA, "m", NOW)


@pytest.mark.parametrize("key", ["enabled", "paused", "allowed_models", "limits"])
def test_a_restriction_beside_compute_instead_of_in_it_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"line 2, column .*: '{key}' belongs inside 'compute'"):
        Rules.parse(f'{{"compute": {{}},\n "{key}": {{}}}}')
