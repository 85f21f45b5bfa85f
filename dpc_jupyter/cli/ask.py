"""``dpc-jupyter ask``: one question, streamed to the terminal."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from dpc_jupyter.cli.console import home_of, run, say
from dpc_jupyter.errors import AccessDenied, ModelNotFound
from dpc_jupyter.home import Home
from dpc_jupyter.node.asking import LOCAL, TextDelta
from dpc_jupyter.node.core_service import CoreService
from dpc_jupyter.terminal import TerminalAnswer
from dpc_jupyter.wording import provenance, reached, read_image, sampling, tried, waiting, with_models


def ask(
    ctx: typer.Context,
    prompt: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    host: Annotated[str, typer.Option("--host", "-H", help="A dpc:// address, or a peer's name.")] = LOCAL,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Default: the host's first.")] = None,
    provider: Annotated[str | None, typer.Option("--provider", "-p", help="An engine of the host.")] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="System prompt.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", "-t", help="0 to 2.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, 1 to 32768; default: 2048.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same number, same answer, where the engine can; from 0.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Longest silence in seconds; default: 60.")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="A picture for the model; may be repeated.")] = None,
    raw: Annotated[bool, typer.Option(help="The text and nothing else.")] = False,
) -> None:
    """Ask a model, here or on a peer's machine. Ctrl-C stops it, there too."""
    question = {
        "prompt": sys.stdin.read() if prompt == "-" else prompt,
        "model": model,
        "provider": provider,
        "system": system,
        "images": [read_image(path) for path in image or ()],
        "options": sampling(temperature=temperature, max_tokens=max_tokens, seed=seed),
        "timeout_s": timeout,
    }
    run(_ask(home_of(ctx), host, question, TerminalAnswer(sys.stdout, quiet=raw)))


async def _linked(service: CoreService, where: str) -> str:
    """Link to a host, and say how where that is not just by its address."""
    peer = await service.connect(where)
    before = tried(service.attempts(peer.node_id))
    if before or peer.kind != "TLS":
        say(f"Reached {peer.name} {reached(peer)}. {before}".rstrip())
    return peer.node_id


async def _ask(home: Home, where: str, question: dict[str, Any], terminal: TerminalAnswer) -> None:
    async with CoreService(home) as service:
        await service.start()
        host = where if where == LOCAL else await _linked(service, where)
        stream = service.execute_ai_query(compute_host=host, **question)
        started = time.monotonic()
        terminal.wait(waiting(None, stream.host_name, question["model"], 0))
        try:
            async for item in stream:
                if isinstance(item, TextDelta):
                    terminal.add(item.text)
                else:
                    waited_s = time.monotonic() - started
                    terminal.wait(waiting(item, stream.host_name, question["model"], waited_s, away=stream.away))
        except (ModelNotFound, AccessDenied) as error:
            raise with_models(error, stream.answer, await service.models(host, timeout_s=1)) from None
        finally:
            terminal.end(provenance(stream.answer) if stream.answer.text else "")
