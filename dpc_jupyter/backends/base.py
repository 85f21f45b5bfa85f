"""The contract between a node and an engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Protocol

from msgspec import Struct

from dpc_jupyter.protocol.messages import ChatMessage, Options


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model as its engine reports it.

    Attributes
    ----------
    name : str
        What a user types, e.g. ``llama3.1:8b``.
    context_window : int or None
        In tokens, where the engine tells.
    warm : bool or None
        Loaded now; None where the engine does not tell.
    digest : str or None
        ``sha256:...`` of the weights, where the engine tells.
    to_fetch_bytes : int
        What the first request for it downloads; 0 once the weights are here.
    """

    name: str
    context_window: int | None = None
    supports_vision: bool = False
    warm: bool | None = None
    digest: str | None = None
    to_fetch_bytes: int = 0


def _untold(_news: str) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine is asked, once the model is resolved and the options are clamped.

    Attributes
    ----------
    tell : callable
        Takes a few words, several times a second, while whoever asked has to wait for a download.
    """

    model: str
    messages: tuple[ChatMessage, ...]
    options: Options
    tell: Callable[[str], None] = field(default=_untold, compare=False, repr=False)


class Delta(Struct, frozen=True):
    """The next piece of an answer, or of the model's thinking."""

    # A Struct, because one is made for every token, at a quarter of a frozen dataclass's cost.

    text: str = ""
    thinking: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of an answer, with the engine's own counts (None where it gives none)."""

    finish_reason: str = "stop"
    prompt_tokens: int | None = None
    response_tokens: int | None = None
    digest: str | None = None


class Backend(Protocol):
    """One engine. Errors leave it as `BackendError` or `ModelNotFound`, never as an HTTP client's.

    Attributes
    ----------
    alias : str
        Its name in ``providers.json``; ``provider`` on the wire.
    type : str
        ``ollama``, ``openai_compatible`` or ``llama_cpp``.
    slots : int
        How many generations it runs at once.
    """

    alias: str
    type: str
    slots: int

    async def models(self) -> list[ModelInfo]:
        """What can be asked now.

        Raises
        ------
        BackendError
            The engine does not answer; within a second.
        """

    def stream(self, generation: Generation) -> AsyncGenerator[Delta | Finished, None]:
        """Yield deltas, then one `Finished`. Closing the iterator stops the engine at once.

        Raises
        ------
        BackendError
            The engine is down or failed.
        ModelNotFound
            The engine lacks the model.
        """

    async def close(self) -> None:
        """Release connections, and the engine's process where it is ours."""
