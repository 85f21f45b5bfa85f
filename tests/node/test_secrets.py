"""A prompt is in no file and in no log; a home is nobody else's."""

from __future__ import annotations

import asyncio
import logging
import stat
from pathlib import Path

import pytest

from dpc_jupyter.errors import InferenceError
from node.conftest import MakeHome, MakeNode, Pair
from node.processes import headless, share_with
from node.stub import StubEngine
from node.waiting import until

CANARY = "canary-8f2b1c-prompt"


def files_that_hold(text: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


async def every_ending(pair: Pair) -> None:
    """A request that ends well, one that is refused, and ones that fail, stop, and are malformed."""
    await pair.ask(CANARY).complete()
    pair.engine.texts = (CANARY,)
    await pair.ask(CANARY, system=CANARY, messages=[{"role": "assistant", "content": CANARY}]).complete()
    with pytest.raises(InferenceError):
        await pair.ask(CANARY, model="none-such").complete()
    pair.engine.error = RuntimeError(f"engine choked on {CANARY}")
    with pytest.raises(InferenceError) as failed:
        await pair.ask(CANARY).complete()
    assert CANARY not in str(failed.value)
    pair.engine.error = None
    for bad in (
        {"options": {"warp": CANARY}},
        {"images": [{"path": CANARY}]},
        {"priority": CANARY},
        {"prompt": [CANARY]},
    ):
        response = await pair.wire(**{"prompt": CANARY} | bad)
        assert CANARY not in (response.error or "")
    pair.engine.hold()
    await (await pair.started(CANARY)).aclose()
    lost = await pair.started(CANARY)
    pair.host_link.abort("cut")
    await until(lambda: lost.done)


async def test_a_prompt_is_in_no_file_and_no_log_record(allowed: Pair, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0  # every callback is reported
    await every_ending(allowed)
    await asyncio.to_thread(allowed.host.ledger.flush)
    await asyncio.to_thread(allowed.asker.ledger.flush)
    loop.set_debug(False)
    formatted = [logging.Formatter().format(record) for record in caplog.records]
    caplog.clear()  # or a failure would print them all
    assert len(formatted) > 20
    assert not [text for text in formatted if CANARY in text]
    for node in (allowed.host, allowed.asker):
        assert files_that_hold(node.identity.node_id, node.home.path)  # the search itself works
        assert not files_that_hold(CANARY, node.home.path)


async def test_a_refused_stranger_is_noted_without_its_prompt(stranger: Pair) -> None:
    with pytest.raises(InferenceError):
        await stranger.ask(CANARY, model="stub-1").complete()
    await until(stranger.host.access.pending)
    assert files_that_hold("stub-1", stranger.host.home.path)
    assert not files_that_hold(CANARY, stranger.host.home.path)


async def test_a_prompt_is_in_no_output_of_a_node_in_debug_mode(make_home: MakeHome, make_node: MakeNode) -> None:
    asker, home = await make_node("bob", StubEngine(pause_s=0.05), listen=True), make_home("host")
    node_id = home.load_identity().node_id
    share_with(home, asker.identity.node_id)
    asker.access.allow(node_id)
    asker.access.set_sharing(True)
    with headless(home, "--debug", "--ask", str(asker.uri), CANARY) as host:
        peer = await asker.connect(host.uri)
        stream = asker.execute_ai_query(CANARY, peer.node_id)
        await until(lambda: stream.answer.text)
        await stream.aclose()
        await until(lambda: len(asker.ledger.rows()) == 2)
        host.process.terminate()
        host.process.wait(10)
        output = host.stderr.read_text() + (host.process.stdout.read() if host.process.stdout else "")
    assert "asyncio" in output  # it did log
    assert CANARY not in output
    assert not files_that_hold(CANARY, home.path)


async def test_every_file_of_a_home_is_private(stranger: Pair) -> None:
    with pytest.raises(InferenceError):
        await stranger.ask(model="stub-1").complete()
    await until(stranger.host.access.pending)
    stranger.host.access.allow(stranger.asker_id, name="bob")
    for node in (stranger.host, stranger.asker):
        node.ledger.flush()
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in node.home.path.rglob("*")}
        assert {"node.key", "node.crt", "node.id", "ledger.sqlite3"} <= set(modes)
        assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}
        assert stat.S_IMODE(node.home.path.stat().st_mode) == 0o700
    assert {".dpc_access.json", "pending.json"} <= {path.name for path in stranger.host.home.path.iterdir()}
    assert "peers.json" in {path.name for path in stranger.asker.home.path.iterdir()}
