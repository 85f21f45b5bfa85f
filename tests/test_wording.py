from __future__ import annotations

import pytest

from dpc_jupyter.firewall import Rules, dumps
from dpc_jupyter.node.answer import Answer, AnswerTimings, Usage
from dpc_jupyter.protocol.messages import RemoteInferenceStatus
from dpc_jupyter.wording import ago, allow_command, asked_for, duration, let_in, ordinal, provenance, waiting

ANNA, BOB, CAROL = (f"dpc-node-{digit * 32}" for digit in "abc")


def test_a_request_in_line_says_its_place() -> None:
    status = RemoteInferenceStatus("r", "queued", 2, 40.2)
    assert waiting(status, "anna", None, 0) == "2nd in line at anna · about 40 s"
    assert waiting(status, "anna", None, 7) == "2nd in line at anna · about 40 s · 7 s so far"
    assert waiting(RemoteInferenceStatus("r", "loading"), "anna", "llama3-70b", 0) == "loading llama3-70b at anna"
    assert waiting(None, "an\x1b[31mna\n", None, 0) == "asking anna"


@pytest.mark.parametrize("number", [1, 2, 3, 4, 11, 12, 13, 21, 102, 111])
def test_ordinals(number: int) -> None:
    expected = {1: "1st", 2: "2nd", 3: "3rd", 21: "21st", 102: "102nd"}
    assert ordinal(number) == expected.get(number, f"{number}th")


def test_provenance_is_one_quiet_line() -> None:
    answer = Answer("x", ANNA, "anna", "r", "llama3-70b", usage=Usage(9, 1212), timings=AnswerTimings(0, 0.4, 3, 64.2))
    assert provenance(answer) == "anna · llama3-70b · 1,212 tokens · first after 0.4 s · 64/s"
    assert provenance(Answer("x", ANNA, "anna", "r", "m", finish_reason="length")).endswith("raise --max-tokens")
    assert provenance(Answer("x", ANNA, "anna", "r", "m\nm", error="lost")) == "anna · m m · stopped early"


def test_durations_have_as_many_digits_as_tell_something() -> None:
    assert [duration(value) for value in (0.042, 0.42, 4.24, 42.4)] == ["0.04 s", "0.4 s", "4.2 s", "42 s"]
    assert [ago(value) for value in (5, 200, 7500, 200_000)] == ["just now", "3 min ago", "2 h ago", "2 days ago"]


@pytest.mark.parametrize(
    "hostile", ["x'; rm -rf ~", "$(reboot)", "{__import__('os')}", "a b", "--model", "*", "llama*"]
)
def test_a_strangers_text_is_in_a_command_only_if_nothing_can_read_more_into_it(hostile: str) -> None:
    command = allow_command("dpc-jupyter firewall", ANNA, {"name": hostile, "model": hostile})
    assert command == f"dpc-jupyter firewall allow {ANNA} --name NAME --model MODEL"
    plainly = allow_command("%dpc_firewall", ANNA, {"name": "erin", "model": "llama3.1:8b"})
    assert plainly == f"%dpc_firewall allow {ANNA} --name erin --model llama3.1:8b"


def test_a_pending_request_says_who_asked_for_what_and_when() -> None:
    entry = {"name": "erin", "model": "m", "when": 0.0}
    assert asked_for(ANNA, entry, 180).startswith(f"erin ({ANNA}) asked for m 3 min")


def test_everybody_who_is_listed_is_shown_with_what_holds_for_them() -> None:
    document = {
        "compute": {"enabled": True, "allow_nodes": [ANNA], "allow_groups": ["friends"]},
        "node_groups": {"friends": [BOB, CAROL], "others": [ANNA]},
        "groups": {"friends": {"allowed_models": ["m*"]}},
        "nodes": {ANNA: {"name": "anna", "expires": "2030-01-01"}, CAROL: {"allowed_models": ["x"]}},
    }
    assert let_in(document, Rules.parse(dumps(document))) == [
        ("anna", ANNA, "all", "2030-01-01"),
        ("", BOB, "m*", "no end"),
        ("", CAROL, "x", "no end"),
    ]
