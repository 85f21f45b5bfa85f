"""Asking this machine: from the stream straight to an engine, without a link, a rule or a queue."""

from __future__ import annotations

from contextlib import aclosing

from dpc_jupyter.backends.base import Finished, Generation
from dpc_jupyter.backends.registry import Registry
from dpc_jupyter.errors import DpcError, InferenceError
from dpc_jupyter.node.asking.answer import AnswerStream, Outcome, Usage
from dpc_jupyter.protocol.messages import RemoteInferenceStatus


async def run_here(registry: Registry, stream: AnswerStream) -> None:
    """Answer a stream from an engine of this machine; whatever fails ends up in the stream."""
    request = stream.request

    def tell(news: str) -> None:
        if not stream.done:  # a download goes on when whoever asked has gone
            stream.take_progress(RemoteInferenceStatus(request.request_id, "loading", note=news))

    try:
        backend, model = await registry.resolve(request.model, request.provider)
        loading = model.warm is False
        stream.take_status(RemoteInferenceStatus(request.request_id, "loading" if loading else "running"))
        generation = Generation(model.name, request.messages, request.options.clamped(), tell)
        async with aclosing(backend.stream(generation)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    usage = Usage(event.prompt_tokens, event.response_tokens)
                    stream.finish(Outcome(model.name, backend.alias, usage, event.finish_reason, event.digest))
                    break
                stream.take_delta(event.text, event.thinking)
        if not stream.done:
            stream.finish(Outcome(model.name, backend.alias))
    except DpcError as error:
        stream.fail(error)
    except Exception as error:
        stream.fail(InferenceError(f"The engine failed: {type(error).__name__}: {error}"))
