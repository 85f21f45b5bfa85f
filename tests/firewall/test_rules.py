"""Who may use which model, until when, and how much of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dpc_jupyter.errors import ConfigError
from dpc_jupyter.firewall import DEFAULT_LIMITS, Limits, Rules
from firewall.documents import (
    ANNA,
    BOB,
    DAVE,
    NOW,
    SEED,
    rules,
    shared,
)


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
    assert (found.has_ended(ANNA, just_before), found.has_ended(ANNA, last), found.has_ended(BOB, last)) == (
        *(False, True, False),
    )
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


def test_rules_of_an_unusable_file_deny_everybody_and_say_why() -> None:
    found = Rules.deny_all("line 3, column 4: Expecting value")
    assert not found.can_request_inference(ANNA, "m", NOW)
    assert not found.is_known(ANNA, NOW)
    assert not found.legacy_ok(ANNA)
    assert found.explain(ANNA, "m", NOW).reason == "no: line 3, column 4: Expecting value"
