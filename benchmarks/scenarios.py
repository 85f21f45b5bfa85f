"""What is measured, and against whom: one function a scenario, and the targets that each is judged by."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

from benchmarks.measure import Sample, cpu_s, interleave, median, percentile
from benchmarks.peers.base import Asker
from benchmarks.peers.echo import EchoClient
from benchmarks.rows import Row
from benchmarks.setting import ECHO, FLOOR, HTTP, IN_FRONT, LITELLM, NGINX, OURS, SSH, Setting
from benchmarks.stub import MODEL_ONE_SLOT, made_at, now_ns
from benchmarks.timing import first_token_us, latency_us, p50_us, rows_against, tokens_per_s

_TOKENS_PER_S = 100
_STREAMS = 256
_ENDLESS = 30_000


async def request(setting: Setting) -> list[Row]:
    """One whole request of one token, and the echo of a message of its size."""
    echo = await setting.echo()

    async def one_token() -> None:
        async with aclosing(setting.ours.ask(1)) as pieces:
            async for _ in pieces:
                pass

    count, rounds = (20, 2) if setting.quick else (300, 15)
    found = await interleave(
        rounds,
        {
            OURS: lambda: p50_us(one_token, count),
            ECHO: lambda: setting.asyncio_echo("request", count),
            FLOOR: lambda: p50_us(echo.round_trip, count),
        },
    )
    echo.close()
    return rows_against("request p50, engine in process", "µs", found, "p50", [(OURS, ECHO, "<= 3"), (OURS, FLOOR, "")])


async def first_token(setting: Setting) -> list[Row]:
    """From asking to the first piece of text, of 16 tokens that the engine has at once."""
    names = [name for name in (OURS, IN_FRONT, HTTP, NGINX, SSH, LITELLM) if name in setting.askers]

    def contender(name: str) -> Callable[[], Awaitable[Sample]]:
        count = 5 if setting.quick else 15 if name == LITELLM else 100
        return lambda: first_token_us(setting.askers[name], count)

    found = await interleave(2 if setting.quick else 9, {name: contender(name) for name in names})
    return [
        *rows_against("added time to first token, engine in process", "µs", found, "p50", [(OURS, HTTP, "<= 1.0")]),
        *rows_against(
            "added time to first token, our host in front of an HTTP engine",
            "µs",
            found,
            "p50",
            [(IN_FRONT, HTTP, "<= 2.5"), (IN_FRONT, LITELLM, "<= 0.1"), (IN_FRONT, NGINX, ""), (IN_FRONT, SSH, "")],
        ),
    ]


async def throughput(setting: Setting) -> list[Row]:
    """An engine that has its tokens at once: how fast one connection carries them, each delivered as text."""
    counts = {OURS: 32_000, HTTP: 10_000, NGINX: 10_000, LITELLM: 500}

    def contender(name: str) -> Callable[[], Awaitable[Sample]]:
        count = counts[name] // 20 if setting.quick else counts[name]
        return lambda: tokens_per_s(setting.askers[name], count)

    names = [name for name in counts if name in setting.askers]
    found = await interleave(2 if setting.quick else 7, {name: contender(name) for name in names})
    against = [(OURS, NGINX, ">= 1.5"), (OURS, LITELLM, ">= 50"), (OURS, HTTP, "")]
    return rows_against("streamed tokens/s, one connection", "1/s", found, "tokens_per_s", against)


async def token_latency(setting: Setting) -> list[Row]:
    """From the moment that the engine made a token to the moment that the asker's code has it; one stream."""
    count = 20 if setting.quick else 300
    names = [name for name in (OURS, HTTP, NGINX, SSH) if name in setting.askers]

    def contender(name: str) -> Callable[[], Awaitable[Sample]]:
        return lambda: latency_us(setting.askers[name], count, _TOKENS_PER_S)

    found = await interleave(2 if setting.quick else 6, {name: contender(name) for name in names})
    pace = f"at {_TOKENS_PER_S} tokens/s"
    return [
        *rows_against(f"latency a token {pace}, p50", "µs", found, "p50", [(OURS, NGINX, "<= 1.0"), (OURS, HTTP, "")]),
        *rows_against(
            f"latency a token {pace}, p99",
            "µs",
            found,
            "p99",
            [(OURS, SSH, "<= 0.2"), (OURS, NGINX, ""), (OURS, HTTP, "")],
        ),
    ]


async def streams(setting: Setting) -> list[Row]:
    """256 streams at once, and what a token costs the host; then slower, until the machine keeps up on both sides."""
    rows: list[Row] = []
    many, seconds, rounds = (16, 0.5, 2) if setting.quick else (_STREAMS, 4.0, 3)
    for per_s in [20] if setting.quick else [_TOKENS_PER_S, 50, 25]:
        ours, http = setting.crowd, [setting.askers[HTTP]]
        found = await interleave(
            rounds,
            {
                OURS: lambda: _Crowd(ours, many, setting.host_pid).sample(per_s, seconds),  # noqa: B023
                HTTP: lambda: _Crowd(http, many, setting.engine_pid).sample(per_s, seconds),  # noqa: B023
            },
        )
        wanted = per_s == _TOKENS_PER_S or setting.quick
        name = f"{many} streams at {per_s} tokens/s"
        rows += rows_against(f"{name}, p99", "ms", found, "p99_ms", [(OURS, HTTP, "<= 0.5" if wanted else "")])
        rows += rows_against(
            f"{name}, host CPU a token", "µs", found, "cpu_us", [(OURS, HTTP, "<= 0.7" if wanted else "")]
        )
        rows += rows_against(f"{name}, tokens/s that arrived", "1/s", found, "per_s", [(OURS, HTTP, "")])
        slow = [
            f"{who} ({median(found[who], 'per_s'):,.0f} of {many * per_s:,} tokens/s)"
            for who in found
            if median(found[who], "per_s") < 0.95 * many * per_s
        ]
        if not slow:
            setting.notes.append(f"{name}: both sides keep up.")
            break
        setting.notes.append(f"{name}: this machine is too slow for {' and '.join(slow)}.")
    return rows


async def connect(setting: Setting) -> list[Row]:
    """From nothing to the first reply: TCP, TLS, who is who, one request; the echo has the first two and a message."""

    async def ours() -> None:
        await setting.ours.reconnect()
        async for _ in setting.ours.ask(1):
            pass

    async def floor() -> None:
        connected.append(await setting.echo())
        await connected[-1].round_trip()

    async def hang_up() -> None:
        while connected:
            connected.pop().close()

    connected: list[EchoClient] = []
    count, rounds = (3, 2) if setting.quick else (20, 9)
    found = await interleave(
        rounds,
        {
            OURS: lambda: p50_us(ours, count, before=setting.ours.disconnect),
            ECHO: lambda: setting.asyncio_echo("connect", count),
            FLOOR: lambda: p50_us(floor, count, before=hang_up),
        },
    )
    await hang_up()
    return rows_against(
        "connect to first reply (RSA-2048)", "µs", found, "p50", [(OURS, ECHO, "<= 2.5"), (OURS, FLOOR, "")]
    )


async def interrupt(setting: Setting) -> list[Row]:
    """From the asker's interrupt until the next in line runs in the freed slot, seen by the token it makes."""
    asker = setting.ours

    async def one_token() -> None:
        async for _ in asker.ask(1):
            pass

    async def once() -> float:
        running = asker.query(10_000, _TOKENS_PER_S, MODEL_ONE_SLOT)
        waiting = asker.query(1, 0, MODEL_ONE_SLOT)
        while not running.answer.text or waiting.status is None:  # noqa: ASYNC110 - there is nothing to wait on
            await asyncio.sleep(0.001)
        stopped_ns = now_ns()
        running.cancel()
        text = (await waiting.complete()).text
        return (made_at(text)[0] - stopped_ns) / 1000

    count, rounds = (2, 2) if setting.quick else (10, 7)

    async def interrupts() -> Sample:
        return {"p50": percentile([await once() for _ in range(count)], 50)}

    found = await interleave(rounds, {OURS: interrupts, "request p50": lambda: p50_us(one_token, 20 * count)})
    return rows_against("interrupt to slot free", "µs", found, "p50", [(OURS, "request p50", "<= 20")])


class _Crowd:
    """Many streams at once, measured while all of them run: what opening and closing them costs is left out."""

    def __init__(self, askers: Sequence[Asker], many: int, pid: int) -> None:
        self._askers = askers
        self._many = many
        self._pid = pid
        self._running = 0
        self._measuring = False
        self._marks: list[tuple[int, float]] = []
        self._latencies_ms: list[float] = []

    async def sample(self, per_s: int, seconds: float) -> Sample:
        """Ask in every stream, let them settle, measure for so long, and leave."""
        streams = [asyncio.create_task(self._stream(number, per_s)) for number in range(self._many)]
        while self._running < self._many and not any(stream.done() for stream in streams):  # noqa: ASYNC110 - once a run
            await asyncio.sleep(0.05)
        await asyncio.sleep(seconds / 4)
        self._mark()
        await asyncio.sleep(seconds)
        self._mark()
        for stream in streams:
            stream.cancel()
        for ended in await asyncio.gather(*streams, return_exceptions=True):
            if not isinstance(ended, asyncio.CancelledError):
                raise RuntimeError(f"a stream ended early: {ended!r}")
        (began, spent), (ended_ns, spent_since) = self._marks
        tokens = len(self._latencies_ms)
        return {
            "p99_ms": percentile(self._latencies_ms, 99),
            "cpu_us": (spent_since - spent) / tokens * 1e6,
            "per_s": tokens / ((ended_ns - began) / 1e9),
        }

    def _mark(self) -> None:
        self._measuring = not self._measuring
        self._marks.append((now_ns(), cpu_s(self._pid)))

    async def _stream(self, number: int, per_s: int) -> None:
        first = True
        async with aclosing(self._askers[number % len(self._askers)].ask(_ENDLESS, per_s)) as pieces:
            async for text in pieces:
                self._running += first
                first = False
                if self._measuring:
                    now = now_ns()
                    self._latencies_ms += [(now - made) / 1e6 for made in made_at(text)]
