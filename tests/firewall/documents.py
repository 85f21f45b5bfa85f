"""Access files to test with, and strategies for any."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from dpc_jupyter.firewall import Document, Rules, dumps

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
        "paused": draw(st.booleans()),
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
