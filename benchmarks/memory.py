"""What a node costs in memory: in a notebook's kernel, and for a peer that does nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

from benchmarks.measure import Sample, interleave, median, own_memory_bytes, resident_bytes
from benchmarks.rows import Row, row
from benchmarks.setting import IDLE_IDENTITIES, Setting
from benchmarks.stub import MODEL

# As a notebook does it: the extension, a link, and one question with its answer on show.
_CELLS = (
    "%load_ext dpc_jupyter",
    "%dpc_connect {uri} --name host",
    "%dpc_ask --host host --model {model} --max-tokens 16 -o answer hello",
    "assert answer.usage.response_tokens == 16, answer",
)


async def kernel(setting: Setting) -> list[Row]:
    """What one remote question adds to a fresh kernel of ipykernel."""

    async def once() -> Sample:
        return {"mb": await asyncio.to_thread(_added_mb, setting)}

    found = await interleave(1 if setting.quick else 3, {"kernel": once})
    return [row("memory added to a kernel", "MB", median(found["kernel"], "mb"), "<= 40")]


async def idle_peer(setting: Setting) -> list[Row]:
    """200 links that do nothing, from one process to one host: what each costs either end."""
    return await asyncio.to_thread(_idle_peer, setting)


def _idle_peer(setting: Setting) -> list[Row]:
    count, before = (20, 4) if setting.quick else (200, 16)
    host, uri = setting.host("idle-host")
    homes = [str(setting.folder(f"asker{number}")) for number in range(IDLE_IDENTITIES)]
    asker = setting.processes.module("peers.ours", "idle", uri, *homes)
    asker.read()
    ends = {"host": host.pid, "asker": asker.pid}
    asker.ask(before)  # what the first links load is not the others' cost
    began = {end: own_memory_bytes(pid) for end, pid in ends.items()}
    asker.ask(count)
    rows = [
        row(f"an idle peer, {end}'s end", "KiB", (own_memory_bytes(pid) - began[end]) / count / 1024, "<= 350")
        for end, pid in ends.items()
    ]
    setting.processes.end(asker.pid)
    setting.processes.end(host.pid)
    return rows


def _added_mb(setting: Setting) -> float:
    from jupyter_client.manager import start_new_kernel

    setting.node_id("asker6")  # a first start makes a key; that is not what is measured
    root = Path(__file__).parent.parent
    env = {**os.environ, "DPC_HOME": str(setting.folder("asker6")), "PYTHONPATH": str(root)}
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(root), env=env, stderr=subprocess.DEVNULL)
    try:
        pid = int(_execute(client, "import os; print(os.getpid())"))
        before = resident_bytes(pid)
        for cell in _CELLS:
            _execute(client, cell.format(uri=setting.ours.uri, model=MODEL))
        return (resident_bytes(pid) - before) / 1e6
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def _execute(client: object, code: str) -> str:
    printed: list[str] = []

    def hook(message: dict[str, object]) -> None:
        content = message["content"]
        if message["msg_type"] == "stream" and isinstance(content, dict):
            printed.append(content["text"])

    reply = client.execute_interactive(code, output_hook=hook, timeout=60)  # type: ignore[attr-defined]
    if reply["content"]["status"] != "ok":
        raise RuntimeError(f"the kernel: {reply['content'].get('ename')}: {reply['content'].get('evalue')}")
    return "".join(printed)
