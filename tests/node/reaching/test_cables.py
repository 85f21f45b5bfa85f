"""Two hosts on a cable that is cut, and an address that changes: real processes in real network namespaces."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dpc_jupyter.node.reaching.network import LAN_VARIABLE
from node import namespaces
from node.conftest import MakeHome
from node.namespaces import NET, Cable
from node.processes import Apart, share_with

_WHY_NOT = namespaces.missing()
pytestmark = pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT)


class Far:
    """A host at end 1 of a cable and an asker at end 2."""

    def __init__(self, cable: Cable, make_home: MakeHome, stack: ExitStack) -> None:
        self.cable = cable
        self._stack = stack
        self._homes = make_home("far"), make_home("near")
        share_with(self._homes[0], self._homes[1].load_identity().node_id)
        self.clocks: tuple[str, ...] = ()

    def start(self, tokens: int, pause_s: float, *also: int) -> None:
        """Serve an answer of so many tokens, and ask for it; `also`: further addresses where the host may be."""
        self.whole = "".join(f"{number} " for number in range(tokens))
        host_home, home = self._homes
        self.host = self._run(1, host_home.path, "serve", str(tokens), str(pause_s))
        port, node_id = self.host.said()["port"], host_home.load_identity().node_id
        uris = [f"dpc://{NET}.{last}:{port}?node_id={node_id}" for last in (1, *also)]
        self.asker = self._run(2, home.path, "ask", *uris)

    def _run(self, end: int, home: Path, *arguments: str) -> Apart:
        process = Apart(self.cable.inside(end), home, *self.clocks, *arguments)
        self._stack.callback(process.gone)
        return process

    def is_whole(self, end: dict[str, Any]) -> None:
        """The answer came byte for byte, and was made once."""
        assert end["error"] == "" and end["chars"] == len(self.whole)
        assert end["sha256"] == hashlib.sha256(self.whole.encode()).hexdigest()
        assert end["outcomes"] == ["ok"]
        host = self.host.ask()
        assert (host["seen"], host["running"], host["outcomes"]) == (1, 0, ["ok"])


@pytest.fixture
def far(make_home: MakeHome) -> Iterator[Far]:
    with ExitStack() as stack:
        yield Far(stack.enter_context(namespaces.cable()), make_home, stack)


@pytest.mark.parametrize("where", ["at the host", "at the asker", "on the way"])
def test_a_cable_that_is_out_for_10_s_costs_no_token(far: Far, where: str) -> None:
    out_s = 10.0
    if where != "on the way":  # a machine that sees its own cable out has an easier part: all clocks at a third
        far.clocks, out_s = ("--clocks", "10", "200"), 3.3
    cable = far.cable
    far.start(int(120 * (out_s + 3)), 0.01)
    far.asker.until_piece(200)
    end = 1 if where == "at the host" else 2
    if where == "on the way":
        cable.swallow()
    else:
        cable.cut(end)
    time.sleep(out_s)
    if where == "on the way":
        cable.spit_out()
    else:
        cable.mend(end)
    mended = time.monotonic()
    # TCP by itself would be silent for longer: its tries are 6.4 s apart by now.
    assert far.asker.next_piece(mended)["heard"] - mended < 2
    far.is_whole(far.asker.end())


def test_a_cable_that_is_out_for_longer_than_silence_lasts_costs_no_token(far: Far) -> None:
    far.clocks = ("--clocks", "3", "60")  # of 30 and 600
    far.start(1100, 0.01)
    far.asker.until_piece(100)
    far.cable.cut()
    time.sleep(8)
    far.cable.mend()
    mended = time.monotonic()
    assert far.asker.next_piece(mended)["heard"] - mended < 2.5
    far.is_whole(far.asker.end())


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_cable_that_is_out_for_5_minutes_costs_no_token(far: Far) -> None:
    """By the clocks that users have; nearly all of it is waiting, and `make test` runs it beside the others."""
    far.start(3500, 0.1)
    far.asker.until_piece(50)
    far.cable.cut(2)
    time.sleep(300)
    far.cable.mend(2)
    mended = time.monotonic()
    assert far.asker.next_piece(mended)["heard"] - mended < 4
    far.is_whole(far.asker.end(within_s=120))


def test_a_cable_that_stays_out_fails_the_request_once_and_frees_the_engine(far: Far) -> None:
    far.clocks = ("--clocks", "2", "4")  # of 30 and 600
    far.start(100_000, 0.01)
    far.asker.until_piece(100)
    far.cable.cut()
    end = far.asker.end(within_s=15)
    assert end["error"].startswith("PeerLost: The connection to far was lost") and end["outcomes"] == ["peer_lost"]
    until = time.monotonic() + 10
    while (host := far.host.ask())["running"]:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert (host["seen"], host["outcomes"]) == (1, ["peer_lost"])


def test_a_host_whose_address_changes_is_found_under_another_that_is_known(far: Far) -> None:
    far.clocks = ("--clocks", "6", "60")
    far.start(1000, 0.01, 7)
    far.asker.until_piece(200)
    far.cable.move(1, 1, 7)
    far.is_whole(far.asker.end())


def test_a_host_whose_address_changes_to_one_that_nobody_knows_is_found_in_the_local_network(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(LAN_VARIABLE)
    far.clocks = ("--clocks", "6", "60")
    far.start(2000, 0.01)
    far.asker.until_piece(200)
    far.cable.move(1, 1, 9)
    far.is_whole(far.asker.end())
