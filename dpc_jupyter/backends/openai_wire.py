"""The parts of OpenAI's chat completions API that are used, with what vLLM and llama.cpp add to it."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from dpc_jupyter.backends.base import Delta, Finished, Generation
from dpc_jupyter.protocol.messages import ChatMessage


class ModelMeta(Struct, frozen=True):
    """llama.cpp: `n_ctx` is the window of one slot, `n_ctx_train` the model's own; both in tokens."""

    n_ctx: int | None = None
    n_ctx_train: int | None = None


class Architecture(Struct, frozen=True):
    """llama.cpp: what a model takes."""

    input_modalities: tuple[str, ...] = ()


class Model(Struct, frozen=True):
    """One entry of ``GET /v1/models``. `max_model_len` is vLLM's context window in tokens."""

    id: str
    max_model_len: int | None = None
    context_length: int | None = None
    meta: ModelMeta | None = None
    architecture: Architecture | None = None

    @property
    def context_window(self) -> int | None:
        """In tokens, where any server's way of telling it is present."""
        meta = self.meta or ModelMeta()
        return self.max_model_len or self.context_length or meta.n_ctx or meta.n_ctx_train

    @property
    def takes_images(self) -> bool:
        """The server says so itself."""
        return self.architecture is not None and "image" in self.architecture.input_modalities


class OllamaStyleModel(Struct, frozen=True):
    """llama.cpp repeats its list in Ollama's shape, where older versions tell of vision."""

    name: str = ""
    capabilities: tuple[str, ...] = ()


class ModelList(Struct, frozen=True):
    """Answer to ``GET /v1/models``."""

    data: tuple[Model, ...]
    models: tuple[OllamaStyleModel, ...] = ()


class ChoiceDelta(Struct, frozen=True):
    """The next piece; thinking is `reasoning_content` (llama.cpp, vLLM, DeepSeek) or `reasoning` (newer vLLM)."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class Choice(Struct, frozen=True):
    """The one choice that was asked for."""

    delta: ChoiceDelta | None = None
    finish_reason: str | None = None


class Usage(Struct, frozen=True):
    """Counts, in tokens."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Chunk(Struct, frozen=True):
    """One server-sent event of a streamed answer."""

    choices: tuple[Choice, ...] = ()
    usage: Usage | None = None
    error: Any = None

    @property
    def delta(self) -> Delta | None:
        """What to show, if anything."""
        piece = self.choices[0].delta if self.choices else None
        if piece is None:
            return None
        text, thinking = piece.content or "", piece.reasoning_content or piece.reasoning or ""
        return Delta(text, thinking) if text or thinking else None

    def update(self, end: Finished) -> Finished:
        """`end` with what this chunk tells about the end."""
        reason = self.choices[0].finish_reason if self.choices else None
        if reason is None and self.usage is None:
            return end
        usage = self.usage or Usage(end.prompt_tokens, end.response_tokens)
        return Finished(reason or end.finish_reason, usage.prompt_tokens, usage.completion_tokens)


def chat_request(generation: Generation, *, tell_progress: bool = False) -> dict[str, Any]:
    """The body of ``POST /v1/chat/completions``. Options that are not set are left to the server.

    With `tell_progress` llama.cpp writes while it reads the prompt. Nobody needs the figures; only by writing
    does it see that the asker has gone, and without them it reads a long prompt to its end for nobody.
    """
    options = generation.options
    given = {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,  # not OpenAI's, but understood by vLLM, llama.cpp and LM Studio
        "max_tokens": options.max_tokens,
        "seed": options.seed,
        "stop": options.stop or None,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
    }
    return {
        "model": generation.model,
        "messages": [_message(turn) for turn in generation.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        **{name: value for name, value in given.items() if value is not None},
        **({"return_progress": True} if tell_progress else {}),
    }


def _message(turn: ChatMessage) -> dict[str, Any]:
    if not turn.images:
        return {"role": turn.role, "content": turn.content}
    parts: list[dict[str, Any]] = [{"type": "text", "text": turn.content}] if turn.content else []
    for image in turn.images:
        url = f"data:{image.mime_type};base64,{image.base64}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return {"role": turn.role, "content": parts}
