"""Which model is where: every backend of a host, asked seldom and answered from memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dpc_jupyter.backends.base import Backend, ModelInfo
from dpc_jupyter.backends.providers import backends_from, default_backends
from dpc_jupyter.errors import BackendError, InferenceError, ModelNotFound

Offer = tuple[Backend, ModelInfo]

# Engines are asked at most this often, however often peers ask us.
FRESH_S = 5.0
# A model that is not in memory may have been pulled a moment ago.
MISS_FRESH_S = 1.0
PROBE_LIMIT_S = 1.0

_FIX = {
    "ollama": "Get it with `ollama pull {model}` on the host.",
    "openai_compatible": "Start {alias} with it, or choose from %dpc_models.",
    "llama_cpp": "%dpc_models shows what {alias} has.",
}


@dataclass(frozen=True, slots=True)
class _Snapshot:
    taken_s: float = float("-inf")
    offers: tuple[Offer, ...] = ()
    index: Mapping[tuple[str | None, str | None], Offer] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)


class Registry:
    """The backends of one host.

    Parameters
    ----------
    backends : sequence of Backend
        In order of preference; aliases are unique.
    discover : callable, optional
        Finds the backends when they are first needed, so that a node that only asks peers looks for no engine.
    fresh_s : float
        For so many seconds what the engines listed is taken as it was.
    clock : callable
        Monotonic, in seconds.
    """

    def __init__(
        self,
        backends: Sequence[Backend] = (),
        *,
        discover: Callable[[], Awaitable[Sequence[Backend]]] | None = None,
        fresh_s: float = FRESH_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backends = tuple(backends)
        self._discover = discover
        self._fresh_s = fresh_s
        self._clock = clock
        self._snapshot = _Snapshot()
        self._served: dict[str, frozenset[str]] = {}
        self._probe: asyncio.Task[None] | None = None

    @property
    def reasons(self) -> Mapping[str, str]:
        """Alias to sentence, for each backend that was down when it was last asked."""
        return MappingProxyType(dict(self._snapshot.reasons))

    async def offers(self) -> list[Offer]:
        """Every model that can be asked now, at most `fresh_s` old. A backend that is down is left out."""
        if self._age_s() > self._fresh_s:
            await self._refreshed()
        return list(self._snapshot.offers)

    async def resolve(self, model: str | None = None, provider: str | None = None) -> Offer:
        """Find what a request means.

        A known model is found in memory, however old: its backend itself says at once if it is gone.

        Parameters
        ----------
        model : str, optional
            Default: the first one of `provider`, else of all. In several backends: the first of them.
        provider : str, optional
            A backend's alias.

        Raises
        ------
        ModelNotFound
            No such model or provider.
        BackendError
            The backend that is meant is down; the sentence is its own.
        """
        found = self._snapshot.index.get((provider, model))
        age_s = self._age_s()
        if found is None and age_s > MISS_FRESH_S:
            await self._refreshed()
            found = self._snapshot.index.get((provider, model))
        elif age_s > self._fresh_s:
            self._refresh()
        if found is None:
            raise self._missing(model, provider)
        return found

    async def close(self) -> None:
        """Close every backend."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.wait([self._probe])
        for backend in self.backends:
            await backend.close()

    def _age_s(self) -> float:
        return self._clock() - self._snapshot.taken_s

    def _refresh(self) -> asyncio.Task[None]:
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._ask_all())
        return self._probe

    async def _refreshed(self) -> None:
        await asyncio.shield(self._refresh())  # one who goes away does not end it for the others

    async def _ask_all(self) -> None:
        if self._discover is not None:
            self.backends, self._discover = tuple(await self._discover()), None
        answers = await asyncio.gather(*(_ask(backend) for backend in self.backends))
        offers: list[Offer] = []
        reasons: dict[str, str] = {}
        for backend, answer in zip(self.backends, answers, strict=True):
            if isinstance(answer, InferenceError):
                reasons[backend.alias] = answer.sentence
            else:
                offers.extend((backend, info) for info in answer)
                self._served[backend.alias] = frozenset(info.name for info in answer)
        index: dict[tuple[str | None, str | None], Offer] = {}
        for offer in offers:
            for key in _keys(*offer):
                index.setdefault(key, offer)
        self._snapshot = _Snapshot(self._clock(), tuple(offers), index, reasons)

    def _missing(self, model: str | None, provider: str | None) -> InferenceError:
        reasons = self._snapshot.reasons
        meant = [backend for backend in self.backends if provider in (None, backend.alias)]
        if not meant:
            return ModelNotFound(
                f"Provider '{provider}' not found" if provider else "This host has no engine. See providers.json."
            )
        for backend in meant:
            known = model is None or provider is not None or model in self._served.get(backend.alias, ())
            if backend.alias in reasons and known:
                return BackendError(reasons[backend.alias])
        up = [backend for backend in meant if backend.alias not in reasons]
        if not up:
            return BackendError(reasons[meant[0].alias])
        if model is None:
            return ModelNotFound(f"{up[0].alias} has no model yet. Add one, then ask again.")
        fix = _FIX.get(up[0].type, "").format(model=model, alias=up[0].alias)
        return ModelNotFound(f"Model '{model}' not found" + (f". {fix}" if fix else ""))


def open_registry(config: Mapping[str, Any] | None, folder: Path) -> Registry:
    """The registry for a parsed ``providers.json``, or for a host without one.

    Parameters
    ----------
    config : mapping or None
        None: Ollama if it answers, else the embedded engine.
    folder : Path
        The models folder.

    Raises
    ------
    ConfigError
        Names the entry and what to change.
    """
    if config is None:
        return Registry(discover=lambda: default_backends(folder))
    return Registry(backends_from(config, folder))


async def _ask(backend: Backend) -> list[ModelInfo] | InferenceError:
    try:
        async with asyncio.timeout(PROBE_LIMIT_S):
            return await backend.models()
    except (BackendError, ModelNotFound) as error:
        return error
    except TimeoutError:
        return BackendError(f"{backend.alias} does not answer. Restart it, or remove it from providers.json.")
    except Exception as error:  # one engine's bug must not hide the others' models
        return BackendError(f"{backend.alias} failed with {type(error).__name__}.")


def _keys(backend: Backend, info: ModelInfo) -> Iterator[tuple[str | None, str | None]]:
    for provider in (backend.alias, None):
        yield provider, info.name
        yield provider, info.name.removesuffix(":latest")  # as Ollama's own tools understand it
        yield provider, None
