"""One llama.cpp process: started once for many who ask, watched, and ended when nobody asks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from dpc_jupyter.backends.llama_server import Address, EngineSettings
from dpc_jupyter.backends.models import LocalModel, digest
from dpc_jupyter.backends.openai_compatible import OpenAICompatible
from dpc_jupyter.errors import BackendError

# A 40 GB file from a slow disk takes minutes; a load that hangs must still end.
LOAD_LIMIT_S = 300.0
_STDERR_BYTES = 4096


class RunningEngine:
    """A process that has its model loaded and listens."""

    def __init__(self, name: str, process: Process, server: OpenAICompatible, sha256: str) -> None:
        self.server = server
        self.digest = sha256
        self.process = process
        self._name = name

    async def explain(self, error: BackendError) -> BackendError:
        """`error`, or what it means when the process is gone."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):  # its sockets close a moment before it can be reaped
                await self.process.wait()
        if self.process.returncode is None:
            return error
        return BackendError(
            f"The embedded engine for {self._name} stopped while answering ({_ending(self.process.returncode)}). "
            "Ask again: it starts by itself."
        )


class Engine:
    """The process for one model, whether it runs now or not.

    Parameters
    ----------
    slots, slot_tokens : int
        Generations at once, and the context window of each in tokens.
    idle_s : float
        The process ends after so many seconds without a lease.
    """

    def __init__(self, model: LocalModel, folder: Path, *, slots: int, slot_tokens: int, idle_s: float) -> None:
        self._model = model
        self._folder = folder
        self._slots = slots
        self._slot_tokens = slot_tokens
        self._idle_s = idle_s
        self._leases = 0
        self._idle: asyncio.TimerHandle | None = None
        self._running: asyncio.Task[RunningEngine] | None = None
        self._ending: asyncio.Task[None] | None = None

    @property
    def is_warm(self) -> bool:
        """The model is loaded now."""
        return self._alive() is not None

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        running = self._alive()
        return running.process.pid if running else None

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[RunningEngine]:
        """Use the engine, started if need be; while a lease is held it is not idle.

        Raises
        ------
        BackendError
            The model cannot be loaded.
        """
        self._leases += 1
        self._wake()
        try:
            if self._running is None or (self._running.done() and not self._alive()):
                self._running = asyncio.create_task(self._start())
                self._running.add_done_callback(_retrieve)  # all who asked may have gone meanwhile
            yield await self._started(self._running)
        finally:
            self._leases -= 1
            if not self._leases:
                self._idle = asyncio.get_running_loop().call_later(self._idle_s, self._stop)

    async def close(self) -> None:
        """End the process and wait for its end."""
        self._wake()
        starting = self._running
        self._stop()
        if starting is not None:
            await asyncio.wait([starting])
        if self._ending is not None:
            await self._ending

    async def _started(self, starting: asyncio.Task[RunningEngine]) -> RunningEngine:
        await asyncio.wait([starting])  # one who goes away does not end the start for the others
        if starting.cancelled():
            raise BackendError(f"The embedded engine for {self._model.name} was closed while it loaded.")
        return starting.result()

    def _alive(self) -> RunningEngine | None:
        task = self._running
        if task is None or not task.done() or task.cancelled() or task.exception():
            return None
        running = task.result()
        return running if running.process.returncode is None else None

    def _wake(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _stop(self) -> None:
        if running := self._alive():
            running.process.kill()  # it keeps nothing that an orderly end would save
        elif self._running is not None:
            self._running.cancel()
        self._running = None

    async def _start(self) -> RunningEngine:
        model = self._model
        settings = EngineSettings(
            path=str(model.path),
            name=model.name,
            api_key=secrets.token_urlsafe(32),
            slots=self._slots,
            slot_tokens=self._slot_tokens,
            threads=max(1, _cpus() - 1),  # all cores: p99 of a token's way 5.0 ms; one spare: 0.6 ms
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "dpc_jupyter.backends.llama_server"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,  # Jupyter interrupts a kernel by a signal to its whole process group
        )
        assert process.stdin and process.stdout and process.stderr
        said = asyncio.create_task(_tail(process.stderr))
        try:
            process.stdin.write(msgspec.json.encode(settings) + b"\n")
            async with asyncio.timeout(LOAD_LIMIT_S):
                line, sha256 = await asyncio.gather(
                    process.stdout.readline(), asyncio.to_thread(digest, model.path, self._folder)
                )
            if not line:
                raise BackendError(
                    f"The embedded engine could not load {model.name}: {await said}. "
                    f"Replace {model.path.name} in {model.path.parent}, or ask for another model."
                )
            url = msgspec.json.decode(line, type=Address).url
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            said.cancel()
            if isinstance(error, TimeoutError):
                raise BackendError(
                    f"The embedded engine did not load {model.name} within {LOAD_LIMIT_S:g} s."
                ) from None
            raise
        server = OpenAICompatible(model.name, url, api_key=settings.api_key, slots=self._slots, is_llama_cpp=True)
        self._ending = asyncio.create_task(_bury(process, server, said, self._ending))
        return RunningEngine(model.name, process, server, sha256)


async def _bury(
    process: Process, server: OpenAICompatible, said: asyncio.Task[str], previous: asyncio.Task[None] | None
) -> None:
    if previous is not None:
        await previous
    await process.wait()
    await said
    await server.close()


async def _tail(stderr: asyncio.StreamReader) -> str:
    """The last line before the stream's end; the engine closes it before the first prompt."""
    last = b""
    while block := await stderr.read(_STDERR_BYTES):
        last = (last + block)[-_STDERR_BYTES:]
    lines = last.decode(errors="replace").split("\n")
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "no reason given")


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ending(returncode: int) -> str:
    return f"signal {-returncode}" if returncode < 0 else f"exit status {returncode}"


def _retrieve(task: asyncio.Task[RunningEngine]) -> None:
    if not task.cancelled():
        task.exception()
