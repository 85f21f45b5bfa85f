"""What a node lets be found of it, and what it finds of others: values of the client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from dpc_jupyter.identity import is_node_id
from dpc_jupyter.sanitize import label


@dataclass(frozen=True, slots=True)
class Offer:
    """Models and groups, and the node ids that may see them: None shows them to everyone who can log in."""

    models: tuple[str, ...]
    visible_to: tuple[str, ...] | None
    groups: tuple[str, ...] = ()

    @property
    def words(self) -> int:
        """How many of the `WORDS_LIMIT` it takes."""
        return len(self.models) + len(self.groups) + len(self.visible_to or ())


@dataclass(frozen=True, slots=True)
class Advert:
    """What a node lets be found: only what its owner's access file allows to be seen.

    Attributes
    ----------
    offers : tuple of Offer
        Different friends may see different models. At most `OFFERS_LIMIT`, all words together at most `WORDS_LIMIT`.
    """

    offers: tuple[Offer, ...]

    def body(self, name: str) -> dict[str, Any]:
        """As PUT /me takes it."""
        offers = [
            {
                "models": offer.models,
                "groups": offer.groups,
                "visible_to": "everyone" if offer.visible_to is None else offer.visible_to,
            }
            for offer in self.offers
        ]
        return {"name": name, "offers": offers}


@dataclass(frozen=True, slots=True)
class FoundNode:
    """A node that is online now, by the hub's word. Its words are safe to print; nothing of it is proven."""

    node_id: str
    name: str
    models: tuple[str, ...]
    groups: tuple[str, ...]


class _Node(msgspec.Struct, frozen=True):
    node_id: str
    name: str
    models: list[str]
    groups: list[str]


class FoundNodes(msgspec.Struct, frozen=True):
    """The answer of GET /nodes."""

    nodes: list[_Node]

    def safe(self) -> tuple[FoundNode, ...]:
        """What may be shown of it."""
        return tuple(
            FoundNode(node.node_id, label(node.name), _words(node.models), _words(node.groups))
            for node in self.nodes
            if is_node_id(node.node_id)
        )


def _words(words: list[str]) -> tuple[str, ...]:
    return tuple(label(word, 128) for word in words)
