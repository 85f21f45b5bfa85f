"""Any server with OpenAI's chat completions API: vLLM, llama.cpp, LM Studio, Ray Serve."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import httpx
import msgspec
from httpx_sse import EventSource, SSEError, aconnect_sse

from dpc_jupyter.backends.base import Delta, Finished, Generation, ModelInfo
from dpc_jupyter.backends.engine_errors import shortened
from dpc_jupyter.backends.openai_wire import Chunk, ModelList, chat_request
from dpc_jupyter.errors import BackendError, ConfigError, InvalidRequest, ModelNotFound

CONNECT_TIMEOUT_S = 0.8
LISTING_TIMEOUT_S = 0.9
# llama.cpp and uvicorn (vLLM, Ray Serve) close an idle connection after 5 s; a request must not race with that.
KEEPALIVE_S = 4.0
_ERROR_BODY_BYTES = 16_384
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

_CHUNK = msgspec.json.Decoder(Chunk)


class OpenAICompatible:
    """A server at a base URL.

    Parameters
    ----------
    alias : str
        Its name in ``providers.json``.
    base_url : str, optional
        Like ``http://127.0.0.1:8000/v1``; without a path ``/v1`` is added. Default: ``OPENAI_BASE_URL``.
    api_key : str, optional
        Default: the environment variable named `api_key_env`.
    models : sequence of str, optional
        Offer only these of what the server lists; all if empty.
    supports_vision : bool
        Its models take images, where the server itself does not tell (vLLM does not).
    slots : int
        How many generations it is asked for at once.
    is_llama_cpp : bool, optional
        It is llama.cpp's server; by default its first response tells.

    Raises
    ------
    ConfigError
        No base URL, or not one.
    """

    type = "openai_compatible"

    def __init__(
        self,
        alias: str,
        base_url: str = "",
        *,
        api_key: str = "",
        api_key_env: str = "OPENAI_API_KEY",
        models: Sequence[str] = (),
        supports_vision: bool = False,
        slots: int = 4,
        is_llama_cpp: bool | None = None,
    ) -> None:
        self.alias = alias
        self.slots = slots
        self._api_key_env = api_key_env
        self._only = frozenset(models)
        self._supports_vision = supports_vision
        url = _parsed(alias, base_url or os.environ.get("OPENAI_BASE_URL", ""))
        key = (api_key or os.environ.get(api_key_env, "")).strip()
        self._where = f"{alias} at {url.copy_with(username=None, password=None)}"
        self._is_llama_cpp = is_llama_cpp
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            # No read timeout: the node counts the clocks.
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_keepalive_connections=slots, keepalive_expiry=KEEPALIVE_S),
            # A prompt for this machine must not go through the lab's proxy.
            trust_env=url.host not in _LOOPBACK,
            # Loading the certificate store costs 20 ms and some megabytes.
            verify=url.scheme == "https",
        )

    async def models(self) -> list[ModelInfo]:
        """What the server lists, within `LISTING_TIMEOUT_S` or a `BackendError`."""
        try:
            async with asyncio.timeout(LISTING_TIMEOUT_S):
                response = await self._client.get("models", headers=self._headers)
                self._learn(response)
        except TimeoutError:
            raise BackendError(f"{self._where} does not answer. Restart it, or ask another host.") from None
        except httpx.HTTPError:
            raise self._down() from None
        if response.status_code != 200:
            raise self._refused(response.status_code, response.content, None)
        try:
            listed = msgspec.json.decode(response.content, type=ModelList)
        except msgspec.DecodeError:
            raise self._no_api() from None
        vision = {model.name for model in listed.models if "multimodal" in model.capabilities}
        return [
            ModelInfo(
                name=model.id,
                context_window=model.context_window,
                supports_vision=self._supports_vision or model.takes_images or model.id in vision,
            )
            for model in listed.data
            if not self._only or model.id in self._only
        ]

    async def stream(self, generation: Generation) -> AsyncGenerator[Delta | Finished, None]:
        """Yield deltas, then one `Finished` with the server's own counts. Closing it closes the connection."""
        if self._only and generation.model not in self._only:
            raise self._missing(generation.model)
        end = Finished(finish_reason="")
        try:
            body = msgspec.json.encode(chat_request(generation, tell_progress=self._is_llama_cpp is True))
            headers = {"Content-Type": "application/json", **self._headers}
            async with aconnect_sse(self._client, "POST", "chat/completions", content=body, headers=headers) as source:
                self._learn(source.response)
                if source.response.status_code != 200:
                    raise await self._refusal(source, generation)
                async with aclosing(source.aiter_sse()) as events:
                    async for event in events:
                        if event.data == "[DONE]":
                            continue  # only a response read to its end leaves a connection to use again
                        chunk = _CHUNK.decode(event.data)
                        if chunk.error is not None or event.event == "error":
                            raise BackendError(f"{self._where} failed: {shortened(event.data, generation)}.")
                        end = chunk.update(end)
                        if delta := chunk.delta:
                            yield delta
        except UnicodeEncodeError:
            raise InvalidRequest("The prompt holds half a surrogate pair: it is not valid Unicode.") from None
        except (SSEError, msgspec.DecodeError):
            raise self._no_api() from None
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise self._down() from None
        except httpx.HTTPError:
            raise self._stopped() from None
        if not end.finish_reason:
            raise self._stopped()
        yield end

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    @property
    def _headers(self) -> dict[str, str]:
        # llama.cpp closes a connection after each streamed answer without having said so, and a request that
        # takes it up within that moment fails (measured: 1 of 9 back to back). Others keep theirs open.
        return {} if self._is_llama_cpp is False else {"Connection": "close"}

    def _learn(self, response: httpx.Response) -> None:
        self._is_llama_cpp = "llama.cpp" in response.headers.get("server", "")

    def _down(self) -> BackendError:
        return BackendError(f"{self._where} is not running. Start it, or correct base_url in providers.json.")

    def _stopped(self) -> BackendError:
        return BackendError(f"{self._where} stopped while answering. Check that it still runs, then ask again.")

    def _no_api(self) -> BackendError:
        return BackendError(f"{self._where} has no OpenAI-compatible API. Correct base_url in providers.json.")

    def _missing(self, model: str) -> ModelNotFound:
        return ModelNotFound(f"Model '{model}' not found. Start {self.alias} with it, or choose from %dpc_models.")

    async def _refusal(self, source: EventSource, generation: Generation) -> BackendError | ModelNotFound:
        body = b""
        async for block in source.response.aiter_bytes():
            body += block
            if len(body) > _ERROR_BODY_BYTES:
                break
        return self._refused(source.response.status_code, body[:_ERROR_BODY_BYTES], generation)

    def _refused(self, status: int, body: bytes, generation: Generation | None) -> BackendError | ModelNotFound:
        message = shortened(body, generation)
        if status in (401, 403):
            return BackendError(f"{self._where} refused the API key. Set {self._api_key_env} to a valid one.")
        if generation and status in (400, 404) and "model" in message.lower() and _says_missing(message):
            return self._missing(generation.model)
        if status == 404:
            return self._no_api()
        return BackendError(f"{self._where} answered {status}: {message}.")


def _says_missing(message: str) -> bool:
    return any(words in message.lower() for words in ("not found", "does not exist", "not exist", "no model"))


def _parsed(alias: str, text: str) -> httpx.URL:
    try:
        url = httpx.URL(text.rstrip("/"))
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"'{alias}' needs a base_url like \"http://127.0.0.1:8000/v1\" (or set OPENAI_BASE_URL)")
    return url if url.path not in ("", "/") else url.copy_with(path="/v1")
