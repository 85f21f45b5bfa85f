"""An Ollama server."""

from __future__ import annotations

import asyncio
import os
from base64 import b64decode
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import ollama

from dpc_jupyter.backends.base import Delta, Finished, Generation, ModelInfo
from dpc_jupyter.backends.engine_errors import shortened
from dpc_jupyter.errors import BackendError, InvalidRequest, ModelNotFound
from dpc_jupyter.protocol.messages import Image

DEFAULT_HOST = "http://127.0.0.1:11434"
CONNECT_TIMEOUT_S = 0.8
LISTING_TIMEOUT_S = 0.6
# Details of models not seen before; what is not told by then is filled in at a later listing.
DETAILS_TIMEOUT_S = 0.3
_DETAILS_AT_ONCE = 8


def address(host: str = "") -> str:
    """Where Ollama is expected: `host`, else ``OLLAMA_HOST``, else its default; always with a scheme."""
    text = host or os.environ.get("OLLAMA_HOST", "") or DEFAULT_HOST
    return text if "://" in text else f"http://{text}"


class Ollama:
    """One Ollama server, spoken to by its own client.

    Parameters
    ----------
    alias : str
        Its name in ``providers.json``.
    host : str, optional
        Like ``http://127.0.0.1:11434``. Default: ``OLLAMA_HOST``, as for Ollama's own tools.
    slots : int
        Generations at once; Ollama queues what goes beyond its ``OLLAMA_NUM_PARALLEL`` (default 1).
    """

    type = "ollama"

    def __init__(self, alias: str = "ollama", host: str = "", *, slots: int = 1) -> None:
        self.alias = alias
        self.slots = slots
        self._url = address(host)
        self._client = ollama.AsyncClient(
            self._url,
            follow_redirects=False,
            # No read timeout: the node counts the clocks.
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            # A prompt for this machine must not go through the lab's proxy.
            trust_env=urlsplit(self._url).hostname not in {"127.0.0.1", "::1", "localhost", "0.0.0.0"},  # noqa: S104
            verify=self._url.startswith("https:"),
        )
        self._details: dict[str, asyncio.Task[ollama.ShowResponse]] = {}
        self._digests: dict[str, str] = {}
        self._asking = asyncio.Semaphore(_DETAILS_AT_ONCE)

    async def models(self) -> list[ModelInfo]:
        """What is pulled, embedding models left out.

        `digest` is of Ollama's manifest, which names the weights by theirs. `context_window` is the one in
        force while the model is loaded, else the model's own.
        """
        try:
            async with asyncio.timeout(LISTING_TIMEOUT_S):
                listed, loaded = await asyncio.gather(self._client.list(), self._client.ps())
        except TimeoutError:
            raise BackendError(f"Ollama at {self._url} does not answer. Restart it with `ollama serve`.") from None
        except (ConnectionError, httpx.HTTPError, ollama.ResponseError, ValueError) as error:
            raise self._failed(error, None) from None
        named = {model.model: model.digest or "" for model in listed.models if model.model}
        await self._ask_details(named)
        self._digests = {name: f"sha256:{digest}" for name, digest in named.items() if digest}
        windows = {model.model: model.context_length for model in loaded.models}
        return [
            _info(name, self._known(digest), self._digests.get(name), warm=name in windows, window=windows.get(name))
            for name, digest in named.items()
            if _can_chat(self._known(digest))
        ]

    async def stream(self, generation: Generation) -> AsyncGenerator[Delta | Finished, None]:
        """Yield deltas, then one `Finished` with Ollama's own counts. Closing it closes the connection."""
        end: Finished | None = None
        try:
            answer = await self._client.chat(
                model=generation.model, messages=_messages(generation), options=_options(generation), stream=True
            )
            # The client's iterator is a generator; closing that is what ends the HTTP response.
            async with aclosing(cast("AsyncGenerator[ollama.ChatResponse, None]", answer)) as parts:
                async for part in parts:
                    if part.message.content or part.message.thinking:
                        yield Delta(part.message.content or "", part.message.thinking or "")
                    if part.done:
                        end = Finished(
                            part.done_reason or "stop",
                            part.prompt_eval_count,
                            part.eval_count,
                            self._digests.get(generation.model),
                        )
        except UnicodeEncodeError:
            raise InvalidRequest("The prompt holds half a surrogate pair: it is not valid Unicode.") from None
        except (ConnectionError, httpx.HTTPError, ollama.ResponseError, ValueError) as error:
            raise self._failed(error, generation) from None
        if end is None:
            raise self._stopped()
        yield end

    async def close(self) -> None:
        """Close every connection."""
        for task in self._details.values():
            task.cancel()
        if self._details:
            await asyncio.wait(self._details.values())
        await self._client.close()  # type: ignore[no-untyped-call]

    async def _ask_details(self, named: dict[str, str]) -> None:
        for digest, task in list(self._details.items()):
            if task.done() and (task.cancelled() or task.exception()):
                del self._details[digest]
        for name, digest in named.items():
            if digest not in self._details:
                self._details[digest] = asyncio.create_task(self._show(name))
        if waiting := [task for task in self._details.values() if not task.done()]:
            await asyncio.wait(waiting, timeout=DETAILS_TIMEOUT_S)

    async def _show(self, name: str) -> ollama.ShowResponse:
        async with self._asking:
            return await self._client.show(name)

    def _known(self, digest: str) -> ollama.ShowResponse | None:
        task = self._details.get(digest)
        return task.result() if task and task.done() and not task.cancelled() and not task.exception() else None

    def _failed(self, error: Exception, generation: Generation | None) -> BackendError | ModelNotFound:
        down = ConnectionError | httpx.ConnectError | httpx.ConnectTimeout
        if isinstance(error, down) or (isinstance(error, httpx.HTTPError) and not generation):
            return BackendError(f"Ollama is not running at {self._url}. Start it with `ollama serve`.")
        if isinstance(error, ollama.ResponseError):
            if error.status_code == 404 and generation:
                model = generation.model
                return ModelNotFound(f"Model '{model}' not found. Get it with `ollama pull {model}` on the host.")
            return BackendError(f"Ollama at {self._url} failed: {shortened(error.error, generation)}.")
        if isinstance(error, httpx.HTTPError):
            return self._stopped()
        return BackendError(f"What answers at {self._url} is not Ollama. Correct host in providers.json.")

    def _stopped(self) -> BackendError:
        return BackendError(f"Ollama at {self._url} stopped while answering. Check that it runs, then ask again.")


def _messages(generation: Generation) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for turn in generation.messages:
        message: dict[str, Any] = {"role": turn.role, "content": turn.content}
        if turn.images:
            message["images"] = [ollama.Image(value=_decoded(image)) for image in turn.images]
        messages.append(message)
    return messages


def _decoded(image: Image) -> bytes:
    # Always bytes: given text, the client first looks whether it is the path of a file, and sends that.
    try:
        return b64decode(image.base64, validate=True)
    except ValueError:
        raise InvalidRequest("An image is not valid base64.") from None


def _options(generation: Generation) -> dict[str, Any]:
    options = generation.options
    given = {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "num_predict": options.max_tokens,
        "seed": options.seed,
        "stop": list(options.stop) or None,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
    }
    return {name: value for name, value in given.items() if value is not None}


def _can_chat(shown: ollama.ShowResponse | None) -> bool:
    return shown is None or not shown.capabilities or "completion" in shown.capabilities


def _info(
    name: str, shown: ollama.ShowResponse | None, digest: str | None, *, warm: bool, window: int | None
) -> ModelInfo:
    own = [value for key, value in ((shown and shown.modelinfo) or {}).items() if key.endswith(".context_length")]
    return ModelInfo(
        name=name,
        context_window=window or (int(own[0]) if own else None),
        supports_vision="vision" in ((shown and shown.capabilities) or ()),
        warm=warm,
        digest=digest,
    )
