"""An editor's edit changes the fields that it names, and nothing of anybody else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpc_jupyter.errors import ConfigError
from dpc_jupyter.firewall import Document, Edit, dumps, gains, parse_json, read_edits, revise, set_enabled
from firewall.documents import ANNA, BOB, NOW, SEED, access, chosen, documents, node_ids, rules, shared

LIMITS = {"requests_per_minute": 6, "tokens_per_day": 0, "running": 1, "queued": 0}


def edited(document: Document, *edits: Document) -> Document:
    return revise(document, read_edits(list(edits)))


def person(node_id: str = ANNA, **fields: Any) -> Document:
    return {"kind": "person", "node_id": node_id, **fields}


def group(name: str = "g", **fields: Any) -> Document:
    return {"kind": "group", "name": name, **fields}


person_edits = st.fixed_dictionaries(
    {"kind": st.just("person"), "node_id": node_ids},
    optional={
        "listed": st.booleans(),
        "models": chosen,
        "limits": st.dictionaries(st.sampled_from(sorted(LIMITS)), st.none() | st.just(1)),
        "expires": st.sampled_from(["", "2020-01-01", "2030-01-01"]),
        "legacy_ok": st.booleans(),
        "groups": st.lists(st.sampled_from("fgh"), max_size=2),
        "remove": st.booleans(),
    },
)


@given(documents(), person_edits)
def test_an_edit_of_a_person_changes_nobody_elses_access_and_not_what_it_was_given(
    document: Document, edit: Document
) -> None:
    before, text = access(document), dumps(document)
    after = edited(document, edit)
    assert dumps(document) == text
    assert rules(after).paused == document["compute"]["paused"]
    others = [node for node in before if node != edit["node_id"]]
    assert [access(after)[node] for node in others] == [before[node] for node in others]
    if edit.get("remove"):
        assert not rules(set_enabled(after, True)).is_known(edit["node_id"], NOW)


@given(documents(), person_edits, person_edits)
def test_two_editors_whose_edits_name_different_fields_come_out_the_same_in_either_order(
    document: Document, one: Document, other: Document
) -> None:
    same_place = {"kind", "node_id"}
    if one["node_id"] == other["node_id"]:
        other = {key: value for key, value in other.items() if key in same_place or key not in one}
        one, other = ({key: value for key, value in each.items() if key != "remove"} for each in (one, other))
    first, second = edited(edited(document, one), other), edited(edited(document, other), one)
    assert access(first) == access(second)
    assert sorted_lists(first) == sorted_lists(second)


def sorted_lists(value: Any) -> Any:
    """Where two join one list, their order in it says nothing."""
    if isinstance(value, dict):
        return {key: sorted_lists(each) for key, each in value.items()}
    return sorted(value) if isinstance(value, list) else value


@pytest.mark.parametrize(
    "field",
    [
        {"name": "anna"},
        {"listed": True},
        {"models": ["llama3*"]},
        {"limits": LIMITS},
        {"expires": "2030-01-01"},
        {"legacy_ok": True},
        {"groups": ["friends", "colleagues"]},
    ],
    ids=lambda field: next(iter(field)),
)
def test_a_field_of_a_person_is_set_and_taken_away_again_and_all_else_is_as_it_was(field: Document) -> None:
    (name, value), document = next(iter(field.items())), parse_json(SEED)
    empty: Document = {"name": "", "listed": False, "models": [], "expires": "", "legacy_ok": False, "groups": []}
    nothing = {**empty, "limits": dict.fromkeys(LIMITS)}[name]
    with_it = edited(document, person(**field))
    assert with_it != document
    after = edited(with_it, person(**{name: nothing}))
    assert dumps({key: value for key, value in after.items() if value != {}}) == dumps(document)
    assert edited(with_it, person()) == with_it, "an edit that names no field changes none"
    own = with_it.get("nodes", {}).get(ANNA, {})
    if name in ("name", "limits", "expires", "legacy_ok"):
        assert own == {name: value}


def test_a_limit_that_is_not_named_stays_and_zero_is_a_limit() -> None:
    document = edited(shared(), person(limits=LIMITS))
    document = edited(document, person(limits={"running": None, "queued": 2}))
    assert document["nodes"][ANNA]["limits"] == {"requests_per_minute": 6, "tokens_per_day": 0, "queued": 2}


def test_notes_the_order_of_keys_and_empty_sections_stay() -> None:
    document = {
        "_comment": "a",
        "hub": {"theirs": 1},
        "nodes": {ANNA: {"_why": "from the seminar", "name": "anna"}, "_comment": "b"},
        "groups": {},
        "compute": {"_comment": "c", "enabled": True, "allow_nodes": [BOB]},
        "node_groups": {},
    }
    after = edited(document, person(listed=True, name="", models=["a"]), {"kind": "everyone", "limits": {"running": 3}})
    assert list(after) == list(document)
    assert after["nodes"] == {ANNA: {"_why": "from the seminar", "allowed_models": ["a"]}, "_comment": "b"}
    assert after["compute"] == {
        "_comment": "c",
        "enabled": True,
        "allow_nodes": [BOB, ANNA],
        "limits": {"running": 3},
    }
    assert (after["groups"], after["node_groups"], after["hub"]) == ({}, {}, {"theirs": 1})


def test_whoever_is_removed_keeps_its_notes_and_no_access_by_any_way() -> None:
    document = shared(
        compute={"allow_nodes": [ANNA, BOB], "allow_groups": ["g"]},
        node_groups={"g": [ANNA, BOB]},
        nodes={ANNA: {"_note": "kept", "name": "anna", "legacy_ok": True, "expires": "2030-01-01"}},
    )
    document["node_groups"]["theirs"] = [ANNA]  # it lets nobody in, and D-PC Messenger may use it
    after = edited(document, person(remove=True, listed=True, groups=["g"]))
    assert after["nodes"] == {ANNA: {"_note": "kept"}}
    assert after["node_groups"] == {"g": [BOB], "theirs": [ANNA]}
    assert not rules(after).is_known(ANNA, NOW) and not rules(after).legacy_ok(ANNA)
    assert rules(after).is_known(BOB, NOW)


def test_members_join_and_leave_a_group_that_another_editor_has_changed() -> None:
    document = edited(shared(), group(allowed=True, members={"add": [ANNA], "remove": []}))
    document = edited(document, group(members={"add": [BOB], "remove": []}))
    assert document["node_groups"] == {"g": [ANNA, BOB]}
    document = edited(document, group(members={"add": [BOB], "remove": [ANNA]}))
    assert document["node_groups"] == {"g": [BOB]}
    assert rules(document).is_known(BOB, NOW) and not rules(document).is_known(ANNA, NOW)


def test_a_group_has_terms_and_one_that_is_removed_lets_nobody_in_by_it() -> None:
    document = edited(
        shared(),
        group(allowed=True, members={"add": [ANNA], "remove": []}, models=["a"], limits={"running": 1}),
        group("empty", allowed=True),
    )
    assert document["groups"] == {"g": {"allowed_models": ["a"], "limits": {"running": 1}}}
    assert rules(document).can_request_inference(ANNA, "a", NOW)
    assert rules(document).limits_for(ANNA).running == 1
    after = edited(document, group(remove=True), group("empty", remove=True))
    assert not rules(after).is_known(ANNA, NOW)
    # D-PC Messenger may use the list; an empty one nobody misses.
    assert (after["node_groups"], after["compute"]["allow_groups"]) == ({"g": [ANNA]}, [])
    assert not after["groups"]


def test_everyones_terms_are_a_ceiling_and_sharing_is_turned_on_and_off() -> None:
    document = edited({}, person(listed=True), {"kind": "everyone", "models": ["a"]}, {"kind": "sharing", "on": True})
    assert rules(document).get_available_models_for_peer(ANNA, ["a", "b"], NOW) == ["a"]
    document = edited(document, {"kind": "everyone", "models": []})
    assert rules(document).get_available_models_for_peer(ANNA, ["a", "b"], NOW) == ["a", "b"]
    assert not rules(edited(document, {"kind": "sharing", "on": False})).is_known(ANNA, NOW)


def test_no_two_nodes_get_one_name() -> None:
    document = edited(shared(), person(name="anna"))
    with pytest.raises(ConfigError, match="'anna' is what another node is called here: choose another name"):
        edited(document, person(BOB, name="anna"))
    assert edited(document, person(name="anna")) == document
    assert edited(document, person(remove=True), person(BOB, name="anna"))["nodes"] == {BOB: {"name": "anna"}}


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (person("anna"), "must be a node id"),
        (person(expires="soon"), "'expires' must be a date"),
        (person(models=["a*b"]), "the name of a model"),
        (person(models=[""]), "the name of a model"),
        (person(limits={"runing": 1}), "unknown key 'runing'"),
        (person(limits={"running": 0}), "'running' must be a whole number from 1"),
        (person(groups=["_comment"]), "'_comment' must be the name of a group"),
        (person(name="dpc-node-x"), "'name' must be a name"),
        (group("_comment", allowed=True), "'_comment' must be the name of a group"),
        (group("", allowed=True), "must be the name of a group"),
        (group(members={"add": ["anna"], "remove": []}), "must be a node id"),
    ],
)
def test_an_edit_that_would_spoil_the_file_is_refused_in_a_sentence(edit: Document, sentence: str) -> None:
    document = {"_comment": "n", "node_groups": {"_comment": "note"}, "nodes": {"_comment": "n"}, "groups": {}}
    text = dumps(document)
    with pytest.raises(ConfigError, match=sentence):
        edited(document, edit)
    assert dumps(document) == text


@pytest.mark.parametrize(
    "raw",
    [
        None,
        {},
        [{}],
        [{"kind": "other"}],
        [{"kind": "person"}],
        [person(admin=True)],
        [person(models="a")],
        [person(limits={"running": "1"})],
        [person(limits={"running": True})],
        [person(listed=1)],
        [group(members={"add": [ANNA], "all": True})],
        [{"kind": "everyone", "listed": True}],
        [{"kind": "sharing", "on": "yes"}],
    ],
)
def test_what_is_no_edit_is_not_understood(raw: Any) -> None:
    with pytest.raises(ConfigError, match=r"^This edit is not understood: "):
        read_edits(raw)


def test_edits_are_made_in_their_order() -> None:
    edits: list[Edit] = read_edits([person(listed=True), person(remove=True)])
    assert not rules(revise(shared(), edits)).is_known(ANNA, NOW)
    assert rules(revise(shared(), edits[::-1])).is_known(ANNA, NOW)


def test_a_change_that_gives_somebody_more_is_told() -> None:
    before = shared(
        compute={"allow_nodes": [ANNA, BOB], "allow_groups": ["g"]},
        node_groups={"g": [ANNA]},
        groups={"g": {"allowed_models": ["small"], "limits": {"tokens_per_day": 5}}},
        nodes={BOB: {"allowed_models": ["small"]}},
    )
    assert gains(before, edited(before, person(BOB, models=["small", "large"]))) == [BOB]
    assert gains(before, edited(before, person(BOB, models=[]))) == [BOB]
    assert gains(before, edited(before, group(remove=True))) == [ANNA]
    assert gains(before, edited(before, person(ANNA, limits={"tokens_per_day": 9}))) == [ANNA]
    assert gains(before, edited(before, person(BOB, limits={"running": 1}))) == []
    assert gains(before, edited(before, person(BOB, remove=True))) == []


@pytest.mark.parametrize("typed", ["dpc-node-12", "dpc-node-12…ab", "dpc-node-" + "D" * 32])
def test_who_is_added_is_a_whole_node_id_and_who_stands_there_already_may_be_edited(typed: str) -> None:
    edit = read_edits([{"kind": "person", "node_id": typed, "listed": True}])
    member = read_edits([{"kind": "group", "name": "lab", "members": {"add": [typed]}}])
    for edits in (edit, member):
        with pytest.raises(ConfigError, match="32 hex digits"):
            revise({}, edits)
    assert revise({"nodes": {typed: {"name": "kim"}}}, edit)["compute"]["allow_nodes"] == [typed]
