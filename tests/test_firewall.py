from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpc_jupyter.errors import ConfigError
from dpc_jupyter.firewall import DEFAULT_LIMITS, Document, Limits, Rules, allow, deny, dumps, parse_json, set_enabled

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ANNA, BOB, DAVE = "dpc-node-" + "a" * 32, "dpc-node-" + "b" * 32, "dpc-node-" + "d" * 32
SEED = """{
  "_comment": "Firewall access control configuration",
  "compute": {
    "_comment": "Compute sharing settings (Remote Inference)",
    "enabled": true,
    "allow_groups": ["friends", "colleagues"],
    "allow_nodes": ["dpc-node-alice-abc123"],
    "allowed_models": ["llama3.1:8b", "llama3-70b"]
  },
  "node_groups": {
    "friends": ["dpc-node-alice-abc123", "dpc-node-bob-def456"],
    "colleagues": ["dpc-node-charlie-ghi789"]
  }
}
"""


def rules(document: Document) -> Rules:
    return Rules.parse(dumps(document))


def shared(**more: Any) -> Document:
    compute = {"enabled": True, **more.pop("compute", {})}
    return {"compute": compute, **more}


def test_the_seed_documents_example_lets_its_nodes_use_its_models_and_nobody_else() -> None:
    found = Rules.parse(SEED)
    for name in ("alice-abc123", "bob-def456", "charlie-ghi789"):
        node_id = f"dpc-node-{name}"
        assert found.can_request_inference(node_id, "llama3-70b", NOW)
        models = ["llama3-70b", "qwen3", "llama3.1:8b"]
        assert found.get_available_models_for_peer(node_id, models, NOW) == ["llama3-70b", "llama3.1:8b"]
    assert not found.is_known(ANNA, NOW)
    assert found.get_available_models_for_peer(ANNA, ["llama3-70b"], NOW) == []


@pytest.mark.parametrize("text", ["{}", '{"compute": {}}', '{"compute": {"allow_nodes": ["%s"]}}' % ANNA])  # noqa: UP031
def test_nothing_is_shared_until_enabled_is_true(text: str) -> None:
    assert not Rules.parse(text).can_request_inference(ANNA, "m", NOW)
    assert Rules.parse(text).explain(ANNA, "m", NOW).reason.endswith("compute.enabled is not set, which means false")


@pytest.mark.parametrize("models", [[], None])
def test_absent_or_empty_allowed_models_means_all(models: list[str] | None) -> None:
    compute = {"allow_nodes": [ANNA]} | ({} if models is None else {"allowed_models": models})
    assert rules(shared(compute=compute)).can_request_inference(ANNA, "anything", NOW)


def test_a_model_is_matched_exactly_but_for_a_star_at_the_end() -> None:
    found = rules(shared(compute={"allow_nodes": [ANNA], "allowed_models": ["llama3*", "qwen3:8b"]}))
    asked = ["llama3.1:8b", "llama3", "llama2", "qwen3:8b", "qwen3:8", "qwen3:8bx", "Llama3", "my-llama3", "", "*"]
    assert found.get_available_models_for_peer(ANNA, asked, NOW) == ["llama3.1:8b", "llama3", "qwen3:8b"]


def test_a_nodes_own_models_replace_those_of_its_groups() -> None:
    document = shared(
        compute={"allow_groups": ["friends", "lab"]},
        node_groups={"friends": [ANNA, BOB, DAVE], "lab": [BOB]},
        groups={"friends": {"allowed_models": ["small"]}, "lab": {"allowed_models": ["big"]}},
        nodes={DAVE: {"allowed_models": ["huge"]}},
    )
    models = ["small", "big", "huge"]
    found = rules(document)
    assert found.get_available_models_for_peer(ANNA, models, NOW) == ["small"]
    assert found.get_available_models_for_peer(BOB, models, NOW) == ["small", "big"]
    assert found.get_available_models_for_peer(DAVE, models, NOW) == ["huge"]
    del document["groups"]["lab"]
    assert rules(document).get_available_models_for_peer(BOB, models, NOW) == models


def test_computes_allowed_models_is_a_ceiling_for_everybody() -> None:
    terms = {"allowed_models": ["a", "b"]}
    document = shared(compute={"allow_nodes": [ANNA], "allowed_models": ["b", "c"]}, nodes={ANNA: terms})
    assert rules(document).get_available_models_for_peer(ANNA, ["a", "b", "c"], NOW) == ["b"]


def test_a_group_that_is_not_allowed_grants_nothing() -> None:
    found = rules(shared(compute={"allow_groups": []}, node_groups={"friends": [ANNA]}))
    assert not found.is_known(ANNA, NOW)
    why = found.explain(ANNA, "m", NOW)
    assert why.reason == f"no: line {why.line}, {ANNA} is in group friends, which compute.allow_groups does not list"


@pytest.mark.parametrize(
    ("expires", "last"),
    [
        ("2026-11-28T18:00:00Z", datetime(2026, 11, 28, 18, tzinfo=UTC)),
        ("2026-11-28T18:00:00+02:00", datetime(2026, 11, 28, 16, tzinfo=UTC)),
        ("2026-11-28", datetime(2026, 11, 29, tzinfo=UTC)),
    ],
)
def test_access_ends_at_its_moment_or_with_its_day(expires: str, last: datetime) -> None:
    found = rules(shared(compute={"allow_nodes": [ANNA]}, nodes={ANNA: {"expires": expires}}))
    just_before = last - timedelta(microseconds=1)
    assert found.can_request_inference(ANNA, "m", just_before)
    assert found.is_known(ANNA, just_before)
    assert not found.can_request_inference(ANNA, "m", last)
    assert not found.is_known(ANNA, last)
    assert "ended at 2026-11-2" in found.explain(ANNA, "m", last).reason


def test_limits_are_the_nodes_over_the_most_generous_groups_over_computes_over_the_default() -> None:
    document = shared(
        compute={
            "allow_groups": ["a", "b"],
            "allow_nodes": [DAVE],
            "limits": {"running": 3, "queued": 5, "tokens_per_day": 100},
        },
        node_groups={"a": [ANNA, BOB], "b": [BOB]},
        groups={"a": {"limits": {"running": 1, "queued": 20}}, "b": {"limits": {"tokens_per_day": None, "queued": 9}}},
        nodes={ANNA: {"limits": {"_why": "she asked", "requests_per_minute": 7}}},
    )
    found = rules(document)
    assert found.limits_for(DAVE) == Limits(tokens_per_day=100, running=3, queued=5)
    assert found.limits_for(ANNA) == Limits(requests_per_minute=7, tokens_per_day=100, running=1, queued=20)
    assert found.limits_for(BOB) == Limits(tokens_per_day=None, running=3, queued=20)
    assert found.limits_for("dpc-node-stranger") == Limits(tokens_per_day=100, running=3, queued=5)
    assert Rules().limits_for(ANNA) == DEFAULT_LIMITS


def test_a_legacy_peer_and_names_are_found_whether_or_not_it_may_ask() -> None:
    found = rules({"nodes": {ANNA: {"name": "anna", "legacy_ok": True}, BOB: {}, "_note": "kept"}})
    assert (found.legacy_ok(ANNA), found.legacy_ok(BOB), found.legacy_ok(DAVE)) == (True, False, False)
    assert (found.name_of(ANNA), found.name_of(BOB), found.name_of(DAVE)) == ("anna", BOB, DAVE)
    assert (found.node_by_name("anna"), found.node_by_name("bob")) == (ANNA, None)
    with pytest.raises(ConfigError, match="2 nodes are named 'anna'"):
        rules({"nodes": {ANNA: {"name": "anna"}, BOB: {"name": "anna"}}}).node_by_name("anna")


EXPLAINED = """{
  "compute": {
    "enabled": true,
    "allow_groups": ["friends"],
    "allow_nodes": ["dpc-node-dave"],
    "allowed_models": ["llama*", "qwen3"]
  },
  "node_groups": {
    "friends": ["dpc-node-zoe",
      "dpc-node-anna"]},
  "groups": {"friends": {"_why": [{"deep": "note"}],
    "allowed_models": ["llama3.1:8b", "gpt"]}},
  "nodes": {
    "dpc-node-dave": {"name": "dave", "allowed_models": ["llama3.1:8b"]},
    "dpc-node-zoe": {"expires": "2020-01-01"}
  }
}"""


@pytest.mark.parametrize(
    ("node", "model", "allowed", "line", "reason"),
    [
        ("anna", "llama3.1:8b", True, 10, "yes: line 10, in group friends"),
        ("anna", None, True, 10, "yes: line 10, in group friends"),
        ("dave", "llama3.1:8b", True, 5, "yes: line 5, in compute.allow_nodes"),
        ("dave", "qwen3", False, 14, "no: line 14, allowed_models of dave: llama3.1:8b"),
        (
            "anna",
            "qwen3",
            False,
            12,
            "no: line 12, allowed_models of group friends, where dpc-node-anna is: llama3.1:8b, gpt",
        ),
        ("anna", "gpt", False, 6, "no: line 6, compute.allowed_models, which holds for everybody: llama*, qwen3"),
        ("zoe", "llama3.1:8b", False, 15, "no: line 15, the access of dpc-node-zoe ended at 2020-01-02T00:00:00+00:00"),
        (
            "eve",
            "llama3.1:8b",
            False,
            2,
            "no: line 2, dpc-node-eve is neither in compute.allow_nodes nor in an allowed group",
        ),
    ],
)
def test_explain_names_the_line_that_decided(
    node: str, model: str | None, allowed: bool, line: int, reason: str
) -> None:
    decision = Rules.parse(EXPLAINED).explain(f"dpc-node-{node}", model, NOW)
    assert (decision.allowed, decision.line, decision.reason) == (allowed, line, reason)


def test_explain_names_the_switch_when_sharing_is_off() -> None:
    decision = Rules.parse(EXPLAINED.replace("true", "false")).explain("dpc-node-anna", "qwen3", NOW)
    assert decision.reason == "no: line 3, compute.enabled is false"


def test_rules_of_an_unusable_file_deny_everybody_and_say_why() -> None:
    found = Rules.deny_all("line 3, column 4: Expecting value")
    assert not found.can_request_inference(ANNA, "m", NOW)
    assert not found.is_known(ANNA, NOW)
    assert not found.legacy_ok(ANNA)
    assert found.explain(ANNA, "m", NOW).reason == "no: line 3, column 4: Expecting value"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"compute": {\n  "enabled": tru\n}}', "line 2, column 14: Expecting value"),
        ("", "line 1, column 1: "),
        ("[]", "line 1, column 1: must be one object"),
        ('{"a": 1,\n "compute": {"enabled": NaN}}', "line 2, column 25: NaN is not a JSON number"),
        ('{"_a": -Infinity}', "line 1, column 8: -Infinity is not a JSON number"),
        ('{"_a": {"b": 1,\n  "b": 2}}', "line 2, column 3: the key 'b' is there twice"),
        ('{"_a": [{}, {"b": 1, "b": 2}]}', "line 1, column 22: the key 'b' is there twice"),
        ('{"_a": ' + "9" * 5000 + "}", "line 1, column 8: Exceeds the limit"),
        ('{"_a": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 1, column 1: nested too deeply"),
        ('{\n "comput": {}}', "line 2, column 12: unknown key 'comput'; known: compute, node_groups, groups, nodes"),
        (
            '{"compute": {"allow_node": []}}',
            "line 1, column 28: unknown key 'allow_node'; known: enabled, allow_groups, allow_nodes, ",
        ),
        ('{"compute": {"enabled": "yes"}}', "line 1, column 25: 'enabled' must be true or false"),
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


NODES = [f"dpc-node-{letter * 32}" for letter in "abcd"]
ENDS: list[Document] = [{}, {"expires": "2020-01-01"}]
MODELS = ["small", "big", "llama3.1:8b", "llama3"]
patterns = st.lists(st.sampled_from([*MODELS, "llama3*", "*"]), max_size=3)
terms = st.fixed_dictionaries({}, optional={"allowed_models": patterns, "_note": st.just("kept")})


@st.composite
def documents(draw: st.DrawFn) -> Document:
    groups = draw(st.dictionaries(st.sampled_from("fgh"), st.lists(st.sampled_from(NODES)), max_size=3))
    compute: Document = {
        "enabled": draw(st.booleans()),
        "allow_nodes": draw(st.lists(st.sampled_from(NODES), max_size=3)),
        "allow_groups": draw(st.lists(st.sampled_from("fgh"), max_size=3)),
        "allowed_models": draw(patterns),
    }
    known = sorted({*groups, *compute["allow_groups"]})
    return {
        "_comment": "kept",
        "compute": compute,
        "node_groups": groups,
        "groups": draw(st.dictionaries(st.sampled_from(known), terms)) if known else {},
        "nodes": draw(
            st.dictionaries(
                st.sampled_from(NODES),
                st.builds(lambda t, e: {**t, **e}, terms, st.sampled_from(ENDS)),
            )
        ),
    }


def access(document: Document) -> dict[str, list[str]]:
    found = rules(document)
    return {node: found.get_available_models_for_peer(node, MODELS, NOW) for node in NODES}


node_ids, chosen = st.sampled_from(NODES), st.lists(st.sampled_from([*MODELS, "llama3*", "*"]), max_size=2)


@given(documents(), node_ids, chosen, st.none() | st.sampled_from("fghi"), st.none() | st.sampled_from(MODELS))
def test_no_edit_changes_the_access_of_anybody_else_and_allow_then_deny_leaves_none(
    document: Document, node: str, models: list[str], group: str | None, model: str | None
) -> None:
    before, text = access(document), dumps(document)

    def others(held: dict[str, list[str]]) -> dict[str, list[str]]:
        return {each: found for each, found in held.items() if each != node}

    try:
        allowed = allow(document, node, name="x", models=models, group=group, limits={"queued": 1}, expires="never")
    except ConfigError as error:
        assert "allowing it would let in" in error.sentence
        return
    assert dumps(document) == text
    assert others(access(allowed)) == others(before)
    assert not document["compute"]["enabled"] or rules(allowed).is_known(node, NOW)
    denied = deny(allowed, node)
    assert others(access(denied)) == others(before)
    assert not rules(set_enabled(denied, True)).is_known(node, NOW)
    try:
        narrowed = deny(allowed, node, model)
    except ConfigError as error:
        assert "name the allowed models instead" in error.sentence
    else:
        assert others(access(narrowed)) == others(before)
        assert model not in access(set_enabled(narrowed, True))[node]
        assert set(access(narrowed)[node]) <= set(access(allowed)[node])


@given(documents(), node_ids, st.sampled_from(MODELS), st.integers(0, 4000))
def test_explain_and_the_decision_agree(document: Document, node: str, model: str, days: int) -> None:
    found, now = rules(document), datetime(2019, 1, 1, tzinfo=UTC) + timedelta(days=days)
    assert found.explain(node, model, now).allowed == found.can_request_inference(node, model, now)
    assert found.explain(node, None, now).allowed == found.is_known(node, now)


def test_an_edit_keeps_notes_and_the_order_of_keys() -> None:
    document = parse_json(SEED)
    new = allow(set_enabled(document, False), ANNA, name="anna", expires="2026-12-01")
    assert list(new) == ["_comment", "compute", "node_groups", "nodes"]
    assert list(new["compute"]) == list(document["compute"])
    assert new["compute"]["_comment"] == document["compute"]["_comment"]
    assert new["nodes"] == {ANNA: {"name": "anna", "expires": "2026-12-01"}}


def test_models_are_added_by_name_and_a_star_gives_all() -> None:
    document = allow(shared(), ANNA, models=["a"])
    document = allow(document, ANNA, models=["b"])
    assert document["nodes"][ANNA]["allowed_models"] == ["a", "b"]
    document = allow(document, ANNA, models=["*"])
    assert rules(document).can_request_inference(ANNA, "c", NOW)
    assert allow(document, ANNA, models=["c"])["nodes"][ANNA]["allowed_models"] == ["c"]


def test_a_group_members_new_model_comes_on_top_of_the_groups_models() -> None:
    document = shared(
        compute={"allow_groups": ["g"]}, node_groups={"g": [ANNA]}, groups={"g": {"allowed_models": ["a"]}}
    )
    assert allow(document, ANNA, models=["b"])["nodes"][ANNA]["allowed_models"] == ["a", "b"]


def test_denying_the_last_model_takes_the_permission_and_leaves_no_empty_list() -> None:
    document = allow(allow(shared(), ANNA, models=["a", "b"], limits={"running": 1}, name="anna"), BOB)
    once = deny(document, ANNA, "a")
    assert once["nodes"][ANNA]["allowed_models"] == ["b"]
    twice = deny(once, ANNA, "b")
    assert twice["nodes"][ANNA] == {"name": "anna", "limits": {"running": 1}}
    assert twice["compute"]["allow_nodes"] == [BOB]


def test_denying_one_model_to_a_node_that_may_use_all_asks_for_the_allowed_ones() -> None:
    with pytest.raises(ConfigError, match=r"anna may use \*, which covers a; name the allowed models instead"):
        deny(allow(shared(), ANNA, name="anna"), ANNA, "a")
    with pytest.raises(ConfigError, match=r"may use llama\*, which covers llama3"):
        deny(allow(shared(), ANNA, models=["llama*", "llama3"]), ANNA, "llama3")


def test_denying_a_group_member_takes_it_out_of_allowed_groups_only() -> None:
    document = shared(
        compute={"allow_groups": ["g"], "allow_nodes": [ANNA]}, node_groups={"g": [ANNA, BOB], "files": [ANNA]}
    )
    denied = deny(document, ANNA)
    assert denied["node_groups"] == {"g": [BOB], "files": [ANNA]}
    assert denied["compute"]["allow_nodes"] == []


def test_a_node_is_not_let_in_by_a_group_that_would_let_in_others() -> None:
    document = shared(node_groups={"g": [BOB]})
    with pytest.raises(ConfigError, match="would let in 1 more"):
        allow(document, ANNA, group="g")
    assert rules(allow(document, ANNA, group="new")).is_known(ANNA, NOW)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: allow(d, "anna"), "must be a node id"),
        (lambda d: deny(d, "_comment"), "must be a node id"),
        (lambda d: allow(d, ANNA, group="_comment"), "must be the name of a group"),
        (lambda d: allow(d, ANNA, models=["a*b"]), "the name of a model"),
        (lambda d: allow(d, ANNA, expires="soon"), "'expires' must be a date"),
        (lambda d: allow(d, ANNA, limits={"runing": 1}), "unknown key 'runing'"),
        (lambda d: allow({"compute": 1}, ANNA), "'compute' must be an object"),
    ],
)
def test_an_edit_with_a_wrong_value_is_refused_in_a_sentence(change: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        change({"_comment": "note", "node_groups": {"_comment": "note"}, "nodes": {"_comment": "note"}})
