"""A decision names the line that decided."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpc_jupyter.firewall import Document, Rules
from firewall.documents import (
    MODELS,
    NOW,
    documents,
    node_ids,
    rules,
)

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


def test_explain_says_that_sharing_is_paused_to_whom_it_makes_a_difference() -> None:
    found = Rules.parse(EXPLAINED.replace('"enabled": true,', '"enabled": true, "paused": true,'))
    decision = found.explain("dpc-node-anna", "llama3.1:8b", NOW)
    assert (decision.allowed, decision.line) == (True, 10)
    assert decision.reason == "yes, but sharing is paused (line 3, compute.paused): line 10, in group friends"
    assert "paused" not in found.explain("dpc-node-anna", "qwen3", NOW).reason


@given(documents(), node_ids, st.sampled_from(MODELS), st.integers(0, 4000))
def test_explain_and_the_decision_agree(document: Document, node: str, model: str, days: int) -> None:
    found, now = rules(document), datetime(2019, 1, 1, tzinfo=UTC) + timedelta(days=days)
    assert found.explain(node, model, now).allowed == found.can_request_inference(node, model, now)
    assert found.explain(node, None, now).allowed == found.is_known(node, now)
