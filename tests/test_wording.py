from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dpc_jupyter.errors import AccessDenied, ConfigError, DpcError, InvalidRequest, ModelNotFound, Revoked
from dpc_jupyter.firewall import Document, Rules, allow, dumps, set_enabled, set_paused
from dpc_jupyter.ledger import Entry
from dpc_jupyter.node.asking.answer import Answer, AnswerTimings, Usage
from dpc_jupyter.protocol.messages import ProviderInfo, RemoteInferenceStatus
from dpc_jupyter.wording import (
    ago,
    allow_command,
    allowed,
    asked_for,
    columns,
    doubts,
    duration,
    let_in,
    let_in_line,
    offered,
    ordinal,
    provenance,
    request_line,
    sampling,
    several,
    sharing,
    waiting,
    with_models,
)

ANNA, BOB, CAROL = (f"dpc-node-{digit * 32}" for digit in "abc")
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def rules(document: Document) -> Rules:
    return Rules.parse(dumps(document))


def test_a_request_in_line_says_its_place() -> None:
    status = RemoteInferenceStatus("r", "queued", 2, 40.2)
    assert waiting(status, "anna", None, 0) == "2nd in line at anna · about 40 s"
    assert waiting(status, "anna", None, 7) == "2nd in line at anna · about 40 s · 7 s so far"
    assert waiting(RemoteInferenceStatus("r", "loading"), "anna", "llama3-70b", 0) == "loading llama3-70b at anna"
    assert waiting(None, "an\x1b[31mna\n", None, 0) == "asking anna"
    fetching = RemoteInferenceStatus("r", "loading", note="fetching it: 12 of 93 MB")
    lost = RemoteInferenceStatus("r", "running", note="anna is unreachable, trying again: no \x1b[31mroute")
    assert waiting(lost, "anna", None, 7, away=True) == "anna is unreachable, trying again: no route · 7 s so far"
    assert waiting(fetching, "anna", "m", 0) == "loading m at anna · fetching it: 12 of 93 MB"


@pytest.mark.parametrize("number", [1, 2, 3, 4, 11, 12, 13, 21, 102, 111])
def test_ordinals(number: int) -> None:
    expected = {1: "1st", 2: "2nd", 3: "3rd", 21: "21st", 102: "102nd"}
    assert ordinal(number) == expected.get(number, f"{number}th")


def test_provenance_is_one_quiet_line() -> None:
    answer = Answer("x", ANNA, "anna", "r", "llama3-70b", usage=Usage(9, 1212), timings=AnswerTimings(0, 0.4, 3, 64.2))
    assert provenance(answer) == "anna · llama3-70b · 1,212 tokens · first after 0.4 s · 64/s"
    assert provenance(Answer("x", ANNA, "anna", "r", "m", collected=True)) == "anna · m · collected"
    assert provenance(Answer("x", ANNA, "anna", "r", "m", finish_reason="length")).endswith("raise --max-tokens")
    assert provenance(Answer("x", ANNA, "anna", "r", "m\nm", error="lost")) == "anna · m m · stopped early"


def test_durations_have_as_many_digits_as_tell_something() -> None:
    assert [duration(value) for value in (0.042, 0.42, 4.24, 42.4)] == ["0.04 s", "0.4 s", "4.2 s", "42 s"]
    assert [ago(value) for value in (5, 200, 7500, 200_000)] == ["just now", "3 min ago", "2 h ago", "2 days ago"]


@pytest.mark.parametrize(
    "hostile", ["x'; rm -rf ~", "$(reboot)", "{__import__('os')}", "a b", "--model", "*", "llama*"]
)
def test_a_strangers_text_is_in_a_command_only_if_nothing_can_read_more_into_it(hostile: str) -> None:
    command = allow_command("dpc-jupyter firewall", ANNA, {"name": hostile, "model": hostile}, Rules())
    assert command == f"dpc-jupyter firewall allow {ANNA} --name NAME --model MODEL --expires 7d"
    plainly = allow_command("%dpc_firewall", ANNA, {"name": "erin", "model": "llama3.1:8b"}, Rules())
    assert plainly == f"%dpc_firewall allow {ANNA} --name erin --model llama3.1:8b --expires 7d"


def test_a_pending_request_says_who_asked_for_what_and_when() -> None:
    entry = {"name": "erin", "model": "m", "when": 0.0}
    assert asked_for(ANNA, entry, Rules(), 180).startswith(f"erin ({ANNA}) asked for m 3 min")


def test_whoever_has_a_name_here_is_called_so_and_keeps_it_whatever_it_calls_itself() -> None:
    here, entry = rules({"nodes": {ANNA: {"name": "anna"}}}), {"name": "bob", "model": "m"}
    assert asked_for(ANNA, entry, here, 180).startswith(f"anna ({ANNA}) asked for m")
    assert allow_command("%dpc_firewall", ANNA, entry, here) == f"%dpc_firewall allow {ANNA} --model m --expires 7d"
    assert "--name bob" in allow_command("%dpc_firewall", BOB, entry, here)


def test_everybody_who_is_listed_is_shown_with_what_holds_for_them() -> None:
    document = {
        "compute": {"enabled": True, "allow_nodes": [ANNA], "allow_groups": ["friends"]},
        "node_groups": {"friends": [BOB, CAROL], "others": [ANNA]},
        "groups": {"friends": {"allowed_models": ["m*"]}},
        "nodes": {
            ANNA: {"name": "anna", "expires": "2030-01-01", "limits": {"_note": "busy", "running": 1, "queued": 2}},
            CAROL: {"allowed_models": ["x"]},
        },
    }
    assert let_in(rules(document), NOW) == [
        ("anna", ANNA, "all", "running=1, queued=2", "2030-01-01"),
        ("", BOB, "m*", "", "no end"),
        ("", CAROL, "x", "", "no end"),
    ]


def test_whose_access_has_ended_is_shown_so_sharing_or_not() -> None:
    document = allow(allow({}, ANNA, name="anna", models=["a"], expires="2026-11-21"), BOB, models=["a"])
    for on in (True, False):
        found = rules(set_enabled(document, on))
        assert [until for *_, until in let_in(found, NOW)] == ["ended 2026-11-21", "no end"]
        assert let_in_line(found, NOW) == f"anna (ended 2026-11-21); {BOB} (a)"
        assert allowed(found, NOW, ANNA) == "The access of anna ended 2026-11-21: --expires 7d gives it a new end."
    assert let_in_line(found, datetime(2026, 11, 21, 23, tzinfo=UTC)) == f"anna (a); {BOB} (a)", "its day still counts"


def test_sharing_is_on_paused_or_off() -> None:
    on = set_enabled({}, True)
    assert sharing(rules(on)) == "Sharing is on."
    assert sharing(rules(set_paused(on, True))) == (
        "Sharing is paused: what runs goes on, new requests are refused. %dpc_firewall resume ends that."
    )
    off = "Sharing is off: nobody is let in. %dpc_firewall on turns it on."
    assert [sharing(Rules()), sharing(rules(set_paused({}, True)))] == [off, f"{off} It is paused, too."]


@pytest.mark.parametrize(
    ("typed", "here", "said"),
    [
        (["lama3"], ["llama3", "qwen3"], ["No engine here has lama3 now; did you mean llama3?"]),
        (["gpt"], ["llama3", "qwen3"], ["No engine here has gpt now; there is: llama3, qwen3."]),
        (
            ["lama*", "qwen*", "*", "llama3"],
            ["llama3", "qwen3"],
            ["No engine here has lama* now; did you mean llama3?"],
        ),
        (["lama3"], [], []),
        (["x\x1b[2J"], ["a\x1b[31mb"], ["No engine here has x now; there is: ab."]),
    ],
)
def test_a_model_that_no_engine_has_is_doubted(typed: list[str], here: list[str], said: list[str]) -> None:
    assert doubts({}, typed, None, here) == said


def test_a_group_that_nobody_named_before_is_new() -> None:
    before = {"compute": {"allow_groups": ["lab"]}, "node_groups": {"guests": [], "_note": "theirs"}}
    assert doubts(before, [], "lab2", []) == ["Group lab2 is new. There were: lab, guests."]
    assert doubts({}, [], "lab2", []) == ["Group lab2 is new."]
    assert doubts(before, [], "guests", []) == doubts(before, [], None, []) == []


def test_a_line_of_a_table_is_as_long_as_it_must_be_and_safe() -> None:
    address = f"dpc://{'h' * 250}:8889?node_id={ANNA}"
    cells, lines = columns(("Peer", "Address"), [("an\x1b[31mna\n", address), ("bob", "")])
    assert lines == ["Peer  Address", f"anna  {address}", "bob"]
    assert cells == [["anna", address], ["bob", ""]]


def test_a_request_that_ended_is_one_line_without_what_was_asked() -> None:
    entry = Entry("r", "host", ANNA, "llama3.1:8b", "ollama", 0.0, total_s=3.42, prompt_tokens=40, response_tokens=1212)
    assert request_line(entry, "dave") == "dave · llama3.1:8b · 1,252 tokens · 3.4 s · ok"
    refused = Entry("r", "host", ANNA, "", "", 0.0, total_s=0.0, outcome="denied")
    assert request_line(refused, "da\nve") == "da ve · any model · 0 tokens · 0.00 s · denied"


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ({"temperature": 9.0}, "--temperature goes from 0 to 2: 9.0 is out of range."),
        ({"temperature": float("nan")}, "--temperature goes from 0 to 2: nan is out of range."),
        ({"max_tokens": -5}, "--max-tokens goes from 1 to 32768: -5 is out of range."),
        ({"max_tokens": 32_769}, "--max-tokens goes from 1 to 32768: 32769 is out of range."),
        ({"seed": -1}, "--seed goes from 0 to 2147483647: -1 is out of range."),
    ],
)
def test_an_option_that_a_host_would_clamp_is_refused_with_its_range(typed: dict[str, float], sentence: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        sampling(**typed)
    assert str(refused.value) == sentence


def test_options_in_their_range_are_taken_as_typed() -> None:
    assert sampling(temperature=2, max_tokens=1, seed=None) == {"temperature": 2, "max_tokens": 1}


def asked(model: str, host: str = ANNA, name: str = "anna") -> Answer:
    return Answer("", host, name, "r", model)


@pytest.mark.parametrize(
    ("error", "answer", "sentence"),
    [
        (
            ModelNotFound("Model 'lama3' not found. Get it with `ollama pull lama3` on the host."),
            asked("lama3"),
            "Model 'lama3' not found at anna. Did you mean llama3?",
        ),
        (
            ModelNotFound("Model 'gpt-9' not found. %dpc_models shows what embedded has."),
            asked("gpt-9"),
            "Model 'gpt-9' not found at anna. anna lets you use: llama3, qwen3.",
        ),
        (
            ModelNotFound("Model 'lama3' not found. Get it with `ollama pull lama3` on the host."),
            asked("lama3", "local", "this machine"),
            "Model 'lama3' not found. Get it with `ollama pull lama3` on the host. Did you mean llama3?",
        ),
        (
            AccessDenied("Access denied: no inference for model llama3-70b"),
            asked("llama3-70b"),
            "Access denied: no inference for model llama3-70b. anna lets you use: llama3, qwen3.",
        ),
    ],
)
def test_an_unknown_model_is_answered_with_those_that_the_host_has(
    error: DpcError, answer: Answer, sentence: str
) -> None:
    better = with_models(error, answer, [ProviderInfo("a", "llama3"), ProviderInfo("a", "qwen3")])
    assert type(better) is type(error) and str(better) == sentence


def test_other_errors_and_hosts_that_offer_nothing_are_left_alone() -> None:
    unknown = ModelNotFound("Model 'gpt' not found. %dpc_models shows what embedded has.")
    assert with_models(unknown, asked("gpt", "local"), [ProviderInfo("a", "llama3")]) is unknown
    error = AccessDenied("no")
    assert with_models(error, asked("m"), []) is error
    assert with_models(error, asked(""), [ProviderInfo("a", "llama3")]) is error
    withdrawn = Revoked("withdrawn")
    assert with_models(withdrawn, asked("m"), [ProviderInfo("a", "llama3")]) is withdrawn


def test_many_models_are_counted_and_not_all_named() -> None:
    models = [ProviderInfo("a", f"m{number}") for number in range(20)]
    assert offered("anna", models, ANNA).endswith("m6, m7 and 12 more.")


def test_adding_a_model_says_that_the_others_stay() -> None:
    document = allow({}, ANNA, name="anna", models=["a"])
    sentence = allowed(rules(document), NOW, ANNA, ["a"])
    assert sentence == "anna may use a once sharing is on, without an end."
    document["compute"]["enabled"] = True
    assert allowed(rules(document), NOW, ANNA, ["a"]) == "anna may use a, without an end."
    document = allow(document, ANNA, models=["b*"])
    assert allowed(rules(document), NOW, ANNA, ["b*"]) == (
        "anna may use a, b*, without an end. Models are added to those that it had; "
        "%dpc_firewall deny anna MODEL takes one away."
    )


def test_an_option_without_a_name_in_it_does_not_mean_all() -> None:
    assert several([]) == () and several(["a, b", "c"]) == ("a", "b", "c")
    for typed in ([""], [" , "]):
        with pytest.raises(ConfigError, match="No name stands there"):
            several(typed)
