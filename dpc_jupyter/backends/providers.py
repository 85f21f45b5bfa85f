"""``providers.json``: which engines a host has. Parsed content in, backends out."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from dpc_jupyter.backends.base import Backend
from dpc_jupyter.backends.models import SMOLLM2, LocalModel
from dpc_jupyter.errors import BackendError, ConfigError

# Here too the engine modules are imported where they are used: httpx costs 10 MB, ollama 14 MB more.

Alias = Annotated[str, Meta(min_length=1, max_length=128)]
Slots = Annotated[int, Meta(ge=1, le=1024)]
PROBE_TIMEOUT_S = 0.3


class OllamaEntry(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="ollama"):
    """An Ollama server; `host` defaults to ``OLLAMA_HOST``."""

    alias: Alias
    host: str = ""
    slots: Slots = 1

    def backend(self, _folder: Path) -> Backend:
        """The backend it describes."""
        from dpc_jupyter.backends.ollama import Ollama

        return Ollama(self.alias, self.host, slots=self.slots)


class OpenAIEntry(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="openai_compatible"):
    """A server with OpenAI's API. The key itself stays out of the file: `api_key_env` names its variable."""

    alias: Alias
    base_url: str = ""
    api_key_env: Annotated[str, Meta(min_length=1)] = "OPENAI_API_KEY"
    models: tuple[str, ...] = ()
    supports_vision: bool = False
    slots: Slots = 4

    def backend(self, _folder: Path) -> Backend:
        """The backend it describes."""
        from dpc_jupyter.backends.openai_compatible import OpenAICompatible

        return OpenAICompatible(
            self.alias,
            self.base_url,
            api_key_env=self.api_key_env,
            models=self.models,
            supports_vision=self.supports_vision,
            slots=self.slots,
        )


class LlamaCppEntry(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="llama_cpp"):
    """The embedded engine.

    Attributes
    ----------
    model : str
        ``smollm2:135m``, or the path of a GGUF (``~`` is the home folder, a relative path starts in the
        models folder). Absent: every model in the models folder.
    name : str
        What users type for it; default: `model`, or the file's stem.
    context_window : int, optional
        In tokens.
    idle_s : float
        Seconds without a request until its memory is freed.
    """

    alias: Alias
    model: str = ""
    name: Annotated[str, Meta(max_length=256)] = ""
    slots: Slots = 2
    context_window: Annotated[int, Meta(ge=256)] | None = None
    idle_s: Annotated[float, Meta(gt=0)] = 600.0

    def backend(self, folder: Path) -> Backend:
        """The backend it describes."""
        from dpc_jupyter.backends.llama_cpp import LlamaCpp

        return LlamaCpp(
            self.alias,
            folder,
            model=self._local(folder),
            slots=self.slots,
            context_window=self.context_window,
            idle_s=self.idle_s,
        )

    def _local(self, folder: Path) -> LocalModel | None:
        if not self.model:
            if self.name:
                raise ConfigError("it has a name but no model")
            return None
        if self.model == SMOLLM2.name:
            return replace(SMOLLM2.in_folder(folder), name=self.name or self.model)
        path = folder / Path(self.model).expanduser()
        return LocalModel(self.name or path.stem, path)


Entry = OllamaEntry | OpenAIEntry | LlamaCppEntry


def backends_from(config: Mapping[str, Any], folder: Path) -> list[Backend]:
    """Backends in the file's order.

    Parameters
    ----------
    config : mapping
        Parsed ``providers.json``. Keys that start with ``_`` are comments.
    folder : Path
        The models folder.

    Raises
    ------
    ConfigError
        Names the entry and what to change.
    """
    entries = config.get("providers")
    if not isinstance(entries, list):
        raise ConfigError('providers.json: "providers" must be a list of entries, each with "alias" and "type".')
    found: dict[str, Backend] = {}
    for number, raw in enumerate(entries, start=1):
        entry = _entry(number, raw)
        if entry.alias in found:
            raise ConfigError(f"providers.json: entry {number}: '{entry.alias}' is taken. Give it an alias of its own.")
        try:
            found[entry.alias] = entry.backend(folder)
        except ConfigError as error:
            raise ConfigError(f"providers.json: entry {number} ('{entry.alias}'): {error}.") from None
    return list(found.values())


async def default_backends(folder: Path) -> list[Backend]:
    """Without ``providers.json``: Ollama if it answers and has a model, else the embedded engine."""
    from dpc_jupyter.backends.llama_cpp import LlamaCpp

    if await _ollama_listens():
        from dpc_jupyter.backends.ollama import Ollama

        ollama = Ollama()
        with contextlib.suppress(BackendError):
            if await ollama.models():
                return [ollama]
        await ollama.close()
    return [LlamaCpp("embedded", folder, published=SMOLLM2)]


async def _ollama_listens() -> bool:
    """A bare connection, so that a machine without Ollama never pays for importing its client."""
    text = os.environ.get("OLLAMA_HOST", "") or "127.0.0.1:11434"
    parts = urlsplit(text if "://" in text else f"//{text}")
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 11434)
    except (OSError, TimeoutError, ValueError):
        return False
    writer.close()
    return True


def _entry(number: int, raw: object) -> Entry:
    where = f"providers.json: entry {number}"
    if not isinstance(raw, dict):
        raise ConfigError(f'{where} must be an object with "alias" and "type".')
    if isinstance(raw.get("alias"), str):
        where += f" ('{raw['alias']}')"
    told = {key: value for key, value in raw.items() if not str(key).startswith("_")}
    if told.get("type") not in ("ollama", "openai_compatible", "llama_cpp"):
        raise ConfigError(f'{where}: "type" must be "ollama", "openai_compatible" or "llama_cpp".')
    try:
        return msgspec.convert(told, Entry)  # type: ignore[no-any-return]
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}. Correct or remove that field.") from None
