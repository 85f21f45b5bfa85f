"""What is asked: one frozen request, made from what a user wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from dpc_jupyter.errors import InvalidRequest
from dpc_jupyter.protocol.messages import ChatMessage, Image, Options


@dataclass(frozen=True, slots=True)
class Clocks:
    """How long to wait in silence, each in seconds. Time in the queue is not held against the model."""

    queue_s: float = 600.0
    first_token_s: float = 60.0
    idle_s: float = 60.0

    @classmethod
    def of(cls, timeout_s: float | None, queue_timeout_s: float | None) -> Clocks:
        """Return the clocks of a request, with the defaults where None is given."""
        default = cls()
        return cls(
            default.queue_s if queue_timeout_s is None else queue_timeout_s,
            default.first_token_s if timeout_s is None else timeout_s,
            default.idle_s if timeout_s is None else timeout_s,
        )


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """One question, complete: where it goes is settled, what it says is not seen by anybody else."""

    request_id: str
    messages: tuple[ChatMessage, ...]
    model: str | None = None
    provider: str | None = None
    options: Options = Options()
    clocks: Clocks = Clocks()
    priority: str = "interactive"


def convert(value: Any, struct: type[Any]) -> Any:
    """A struct from a dict of its fields.

    Raises
    ------
    InvalidRequest
        A field is unknown or has a wrong type; the sentence names it and those that are known.
    """
    if isinstance(value, struct):
        return value
    try:
        return msgspec.convert(dict(value) if isinstance(value, Mapping) else value, struct)
    except msgspec.ValidationError as error:
        known = ", ".join(field.name for field in msgspec.structs.fields(struct))
        raise InvalidRequest(f"{error}. Known here: {known}.") from error


def conversation(
    prompt: str, system: str | None, messages: Sequence[Any], images: Sequence[Any]
) -> tuple[ChatMessage, ...]:
    """The turns of a request: `system` first, then `messages`, then `prompt` with `images`.

    Raises
    ------
    InvalidRequest
        There is nothing to answer, or a part is malformed.
    """
    turns: list[ChatMessage] = [convert(turn, ChatMessage) for turn in messages]
    if system:
        turns.insert(0, ChatMessage("system", system))
    if prompt.strip() or images:
        turns.append(ChatMessage("user", prompt, tuple(convert(image, Image) for image in images)))
    if not any(turn.role != "system" and (turn.content.strip() or turn.images) for turn in turns):
        raise InvalidRequest("The prompt is empty: write a question.")
    return tuple(turns)
