"""An edit changes what it names and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpc_jupyter.errors import ConfigError
from dpc_jupyter.firewall import Document, allow, deny, dumps, parse_json, set_enabled, set_paused, set_relaying, widen
from firewall.documents import (
    ANNA,
    BOB,
    MODELS,
    NOW,
    SEED,
    access,
    chosen,
    documents,
    node_ids,
    rules,
    shared,
)


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
    assert rules(allowed).paused == rules(deny(allowed, node)).paused == document["compute"]["paused"]
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


@given(documents(), st.booleans())
def test_a_pause_changes_nobodys_access_and_is_no_part_of_sharing(document: Document, paused: bool) -> None:
    text, new = dumps(document), set_paused(document, paused)
    assert dumps(document) == text
    assert access(new) == access(document) and new["compute"].pop("paused") == paused
    assert document["compute"].pop("paused") in (True, False) and new == document
    assert rules(set_enabled(set_paused(document, True), False)).paused
    assert set_paused({}, True) == {"compute": {"paused": True}}


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


@given(documents(), node_ids, chosen, st.none() | st.sampled_from("fghi"))
def test_widening_gives_what_it_names_takes_nothing_and_is_the_same_twice(
    document: Document, node: str, models: list[str], group: str | None
) -> None:
    before, text = access(document), dumps(document)

    def again(given: Document) -> Document:
        return widen(given, node, now=NOW, models=models, group=group, limits={"running": 1, "queued": 9})

    try:
        wide = again(document)
    except ConfigError as error:
        assert "allowing it would let in" in error.sentence
        return
    assert dumps(document) == text
    after = access(wide)
    assert {each: found for each, found in after.items() if each != node} == {
        each: found for each, found in before.items() if each != node
    }
    assert set(before[node]) <= set(after[node])
    assert not document["compute"]["enabled"] or rules(wide).is_known(node, NOW)
    bare = deny(document, node)
    bare["nodes"].pop(node, None)
    alone = access(allow(bare, node, models=models, group=group))
    assert set(alone[node]) <= set(after[node])
    held, now = rules(document).limits_for(node), rules(wide).limits_for(node)
    if before[node]:
        assert now.running >= held.running and now.queued >= max(held.queued, 9)
    assert access(again(wide)) == after


WEEK, MONTH = "2026-11-29T12:00:00Z", "2026-12-22T12:00:00Z"


@pytest.mark.parametrize(
    ("held", "given", "left"),
    [
        ({}, {"models": ["small"]}, {}),  # all models stay all
        ({"allowed_models": ["big"]}, {"models": ["small"]}, {"allowed_models": ["big", "small"]}),
        ({"allowed_models": ["big"]}, {}, {"allowed_models": ["*"]}),
        ({"expires": WEEK}, {"expires": MONTH}, {"expires": MONTH}),
        ({"expires": MONTH}, {"expires": WEEK}, {"expires": MONTH}),
        ({"expires": MONTH}, {}, {}),
        ({}, {"expires": WEEK}, {}),
        ({"limits": {"running": 4}}, {"limits": {"running": 1}}, {"limits": {"running": 4}}),
        ({"limits": {"running": 1}}, {"limits": {"running": 4}}, {"limits": {"running": 4}}),
        ({"limits": {"tokens_per_day": None}}, {"limits": {"tokens_per_day": 5}}, {"limits": {"tokens_per_day": None}}),
        ({"name": "mine"}, {"name": "bob"}, {"name": "mine"}),
        (
            {"allowed_models": ["big"], "expires": "2020-01-01", "_note": 1},
            {"models": ["small"], "expires": WEEK},
            {"_note": 1, "allowed_models": ["small"], "expires": WEEK},
        ),
    ],
)
def test_a_permission_and_one_more_are_the_better_of_both(
    held: dict[str, Any], given: dict[str, Any], left: dict[str, Any]
) -> None:
    document = shared(compute={"allow_nodes": [BOB]}, nodes={BOB: held})
    assert widen(document, BOB, now=NOW, **given).get("nodes", {}).get(BOB, {}) == left


def test_a_group_narrows_nobody_who_may_do_more_without_it() -> None:
    document = shared(
        compute={"allow_nodes": [BOB], "allow_groups": ["lab"]},
        node_groups={"lab": []},
        groups={"lab": {"allowed_models": ["small"], "limits": {"running": 1}}},
    )
    wide = widen(document, BOB, now=NOW, group="lab")
    assert wide["node_groups"] == {"lab": [BOB]}
    assert access(wide)[BOB] == access(document)[BOB] and rules(wide).limits_for(BOB).running == 2


def test_a_name_that_another_node_has_gets_a_number() -> None:
    document = shared(nodes={ANNA: {"name": "bob"}, "dpc-node-" + "c" * 32: {"name": "bob-2"}})
    assert widen(document, BOB, now=NOW, name="bob")["nodes"][BOB] == {"name": "bob-3"}


def test_relaying_is_switched_and_its_terms_stay() -> None:
    document: Document = {"relay": {"allow_nodes": [ANNA, BOB], "sessions": 2}}
    on = set_relaying(document, True)
    assert on == {"relay": {"allow_nodes": [ANNA, BOB], "sessions": 2, "enabled": True}}
    assert not rules(on).enabled and rules(on).may_relay(ANNA, NOW)
    assert not rules(set_relaying(on, False)).may_relay(ANNA, NOW)
