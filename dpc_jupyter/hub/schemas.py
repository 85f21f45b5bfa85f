"""Bodies of the hub's REST calls, as OpenAPI shows them. Text is bounded here and nowhere else."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from dpc_jupyter.hub.wire import OFFERS_LIMIT, WORDS_LIMIT
from dpc_jupyter.identity import NODE_ID
from dpc_jupyter.sanitize import label

NodeId = Annotated[str, StringConstraints(pattern=f"^{NODE_ID}$")]
# Made safe to print before it is kept: it ends up on other people's screens.
Word = Annotated[str, StringConstraints(min_length=1, max_length=128), AfterValidator(lambda text: label(text, 128))]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ChallengeRequest(_Body):
    """Who wants to log in."""

    node_id: NodeId


class Challenge(_Body):
    """What to sign: once, within `expires_in_s`, and with the origin that was dialled, not with this one."""

    nonce: str
    origin: str = Field(description="What this hub calls itself. A node that dialled another origin must not sign.")
    expires_in_s: int


class LoginRequest(_Body):
    """The proof: RSA-PSS (MGF1-SHA256, SHA-256) over the domain, the dialled origin, the node id and the nonce."""

    node_id: NodeId
    cert_pem: str = Field(max_length=16_384, description="The node's certificate; its key hashes to the node id.")
    nonce: str = Field(max_length=256)
    signature: str = Field(max_length=1024, description="Base64.")


class Login(_Body):
    """A token for the other calls: ``Authorization: Bearer ...``."""

    token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105
    node_id: NodeId
    expires_in_s: int


class Offer(_Body):
    """Models and groups, and who may see them: the owner's access file decides, the hub only keeps to it."""

    models: list[Word] = Field(max_length=WORDS_LIMIT)
    groups: list[Word] = Field(default=[], max_length=WORDS_LIMIT)
    visible_to: list[NodeId] | Literal["everyone"] = Field(description="Node ids, or everyone who can log in.")


class Advert(_Body):
    """What a node lets be found. Whoever sees one of its offers sees its name."""

    name: Word
    offers: list[Offer] = Field(max_length=OFFERS_LIMIT)

    @property
    def words(self) -> int:
        """How many rows it takes to keep this."""
        return sum(len(offer.models) + len(offer.groups) + len(offer.visible_to) for offer in self.offers)


class FoundNode(_Body):
    """A node that is online and lets the asker see it. Its name is its own claim; only the id is proven."""

    node_id: NodeId
    name: str
    models: list[str]
    groups: list[str]


class Found(_Body):
    """At most 100 nodes, those that let the asker in by its id first, then by name; `more`: narrow the search."""

    nodes: list[FoundNode]
    more: bool


class Health(_Body):
    """Whether this process and what it depends on answer."""

    status: Literal["ok", "failing"]
    database: bool
    redis: bool | None = Field(description="Null where none is used.")


class Problem(_Body):
    """Why a call was refused."""

    detail: str
