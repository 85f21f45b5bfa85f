from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dpc_jupyter import home as module
from dpc_jupyter.errors import ConfigError, IdentityError
from dpc_jupyter.firewall import Document, allow, set_enabled
from dpc_jupyter.home import Home

NOW = datetime(2026, 11, 22, tzinfo=UTC)
ANNA = "dpc-node-" + "a" * 32
ACCESS = ".dpc_access.json"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def write(home: Home, name: str, text: str | bytes) -> Path:
    home.path.mkdir(0o700, exist_ok=True)
    path = home.path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(0o600)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def grant(document: Document) -> Document:
    return set_enabled(allow(document, ANNA, name="anna"), True)


def test_making_a_home_touches_nothing(home: Home) -> None:
    assert not home.read_access().enabled
    assert home.read_providers() is None
    assert home.read_peers() == home.pending() == {}
    assert not home.path.exists()


def test_dpc_home_moves_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DPC_HOME", str(tmp_path / "there"))
    assert Home.default().path == tmp_path / "there"
    monkeypatch.delenv("DPC_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Home.default().path == tmp_path / ".dpc"
    assert Home.default().ledger_path.parent == Home.default().models_folder.parent == tmp_path / ".dpc"


# ---- identity


def test_an_identity_is_made_once_and_kept(home: Home) -> None:
    made = home.load_identity()
    for again in (home.load_identity(), Home(home.path).load_identity()):
        assert (again.node_id, again.key_pem, again.cert_pem) == (made.node_id, made.key_pem, made.cert_pem)
    assert (home.path / "node.id").read_text() == f"{made.node_id}\n"


START = """
import sys, pathlib
from dpc_jupyter.home import Home
print(Home(pathlib.Path(sys.argv[1])).load_identity().node_id)
"""


def test_two_processes_that_start_at_once_get_the_same_identity(home: Home) -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", START, str(home.path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    found = {each.communicate(timeout=60)[0] for each in running}
    assert len(found) == 1
    assert found.pop().strip() == home.load_identity().node_id


@pytest.mark.parametrize("name", ["node.key", "node.crt", "node.id"])
@pytest.mark.parametrize("damage", ["missing", "empty", "rubbish", "cut", "binary", "huge"])
def test_a_missing_or_damaged_part_is_named_and_never_replaced(home: Home, name: str, damage: str) -> None:
    home.load_identity()
    path = home.path / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        spoilt = {"empty": b"", "rubbish": b"rubbish", "cut": data[: len(data) // 2], "binary": b"\xff\x00" * 99}
        path.write_bytes(spoilt.get(damage, b"x" * (2**20 + 1)))
    kept = {each.name: each.read_bytes() for each in home.path.iterdir()}
    for _ in range(2):
        with pytest.raises(IdentityError) as caught:
            home.load_identity()
        assert name in caught.value.sentence.split(" Restore ")[0]
        assert damage == "huge" or "move all three away" in caught.value.sentence
    assert {each.name: each.read_bytes() for each in home.path.iterdir()} == kept


def test_the_key_of_another_node_is_refused(home: Home, tmp_path: Path) -> None:
    home.load_identity()
    other = Home(tmp_path / "other")
    other.load_identity()
    write(home, "node.key", (other.path / "node.key").read_bytes())
    with pytest.raises(IdentityError, match=r"node\.crt belongs to"):
        home.load_identity()


@pytest.mark.skipif(os.name != "posix", reason="modes")
@pytest.mark.parametrize("bits", [0o644, 0o640, 0o604])
def test_a_key_that_others_may_read_is_refused_with_the_fix(home: Home, bits: int) -> None:
    home.load_identity()
    (home.path / "node.key").chmod(bits)
    with pytest.raises(IdentityError, match=f"run: chmod 600 {home.path / 'node.key'}"):
        home.load_identity()
    (home.path / "node.key").chmod(0o600)
    home.load_identity()


# ---- modes


def fill(home: Home) -> None:
    home.load_identity()
    home.edit_access(grant)
    home.edit_peers(lambda peers: {**peers, ANNA: {"name": "anna", "uri": "dpc://x", "last_seen": 1.0}})
    home.note_pending(ANNA, "anna", "m", 1.0)


@pytest.mark.skipif(os.name != "posix", reason="modes")
@pytest.mark.usefixtures("open_umask")
def test_everything_is_private_from_the_moment_of_creation(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    really = os.open

    def watched(path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = really(path, flags, mode)
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor

    monkeypatch.setattr(os, "open", watched)
    fill(home)
    assert len(seen) >= 6
    assert set(seen) == {0o600}
    assert mode(home.path) == 0o700
    assert {mode(each) for each in home.path.iterdir()} == {0o600}


@pytest.mark.skipif(os.name != "posix", reason="modes")
def test_a_umask_that_takes_too_much_leaves_files_usable(home: Home) -> None:
    before = os.umask(0o277)
    try:
        home.edit_access(grant)
    finally:
        os.umask(before)
    assert (mode(home.path), mode(home.path / ACCESS)) == (0o700, 0o600)


@pytest.mark.skipif(os.name != "posix", reason="modes")
def test_wider_modes_are_tightened(home: Home) -> None:
    fill(home)
    home.path.chmod(0o755)
    write(home, "providers.json", "{}").chmod(0o644)
    (home.path / ACCESS).chmod(0o666)
    home.read_access()
    home.read_providers()
    home.edit_peers(dict)
    assert mode(home.path) == 0o700
    assert mode(home.path / ACCESS) == mode(home.path / "providers.json") == 0o600


# ---- access


def test_the_first_edit_makes_a_commented_file_and_the_next_keeps_it(home: Home) -> None:
    assert home.edit_access(grant).can_request_inference(ANNA, "m", NOW)
    text = (home.path / ACCESS).read_text()
    assert text.startswith('{\n  "_comment": "Who may use')
    assert home.read_access().can_request_inference(ANNA, "m", NOW)
    home.edit_access(lambda document: document)
    assert (home.path / ACCESS).read_text() == text
    assert home.access_document()["nodes"][ANNA] == {"name": "anna"}


INVALID = ["", "{", '{"compute": {"enabled": 1}}', "[]", b'{\n  "a": "\xff"}', "{}" + " " * 2**20]


@pytest.mark.parametrize("text", INVALID)
def test_an_invalid_access_file_denies_everybody_says_where_and_is_never_overwritten(
    home: Home, text: str | bytes
) -> None:
    path = write(home, ACCESS, text)
    kept = path.read_bytes()
    rules = home.read_access()
    assert not rules.can_request_inference(ANNA, "m", NOW)
    assert str(path) in (rules.error or "")
    assert len(text) > 2**20 or "line " in (rules.error or "")
    for read in (home.access_document, lambda: home.edit_access(grant)):
        with pytest.raises(ConfigError, match=ACCESS):
            read()
    assert path.read_bytes() == kept


def test_bytes_that_are_no_utf_8_are_placed(home: Home) -> None:
    write(home, ACCESS, b'{\n  "a": "\xff"}')
    assert "line 2, column 9: save the file as UTF-8" in (home.read_access().error or "")


def test_a_byte_order_mark_is_no_error(home: Home) -> None:
    write(home, ACCESS, b"\xef\xbb\xbf" + json.dumps(grant({})).encode())
    assert home.read_access().can_request_inference(ANNA, "m", NOW)


def test_a_file_that_cannot_be_read_denies_everybody(home: Home) -> None:
    (home.path / ACCESS).mkdir(parents=True)
    assert "cannot be read" in (home.read_access().error or "")


def test_an_edit_that_would_make_the_file_invalid_is_not_written(home: Home) -> None:
    home.edit_access(grant)
    kept = (home.path / ACCESS).read_bytes()
    with pytest.raises(ConfigError, match="unknown key 'computes'"):
        home.edit_access(lambda document: {**document, "computes": {}})
    assert (home.path / ACCESS).read_bytes() == kept


def test_a_lone_surrogate_survives_an_edit(home: Home) -> None:
    write(home, ACCESS, '{"_comment": "\\ud800 \u00e9 \\ud83d\\ude00"}')
    before = home.access_document()
    home.edit_access(grant)
    assert home.access_document()["_comment"] == before["_comment"]


def test_a_crash_between_write_and_rename_hurts_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.edit_access(grant)
    kept = (home.path / ACCESS).read_bytes()

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            home.edit_access(lambda document: set_enabled(document, False))
    assert (home.path / f"{ACCESS}.tmp").exists()
    assert (home.path / ACCESS).read_bytes() == kept
    assert not home.edit_access(lambda document: set_enabled(document, False)).enabled
    assert not list(home.path.glob("*.tmp"))


@pytest.mark.skipif(os.name != "posix", reason="symlinks")
@pytest.mark.parametrize("in_time", [True, False])
def test_a_link_planted_as_the_temporary_file_is_not_followed(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_time: bool
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    home.path.mkdir(0o700)
    (home.path / f"{ACCESS}.tmp").symlink_to(victim)
    if in_time:
        home.edit_access(grant)
        assert not (home.path / ACCESS).is_symlink()
    else:
        monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(ConfigError, match="cannot be written"):
            home.edit_access(grant)
    assert victim.read_text() == "kept"


EDITS = """
import sys, pathlib
from dpc_jupyter.firewall import allow
from dpc_jupyter.home import Home
home = Home(pathlib.Path(sys.argv[1]))
for index in range(100):
    home.edit_access(lambda document: allow(document, f"dpc-node-{sys.argv[2]}{index:031x}"))
    home.edit_peers(lambda peers: {**peers, f"{sys.argv[2]}{index}": {"name": "x"}})
"""


def test_two_processes_with_a_hundred_edits_each_lose_none(home: Home) -> None:
    running = [subprocess.Popen([sys.executable, "-c", EDITS, str(home.path), name]) for name in "ab"]
    while any(each.poll() is None for each in running):
        assert home.read_access().error is None
        home.read_peers()
    assert [each.returncode for each in running] == [0, 0]
    assert len(set(home.access_document()["compute"]["allow_nodes"])) == 200
    assert len(home.read_peers()) == 200


def test_edits_are_made_as_ever_by_whoever_holds_the_lock(home: Home) -> None:
    with home.locked():
        home.edit_invitations(lambda _: {"00ff": {"name": "anna"}})
        home.edit_access(lambda document: set_enabled(document, True))
    assert home.read_invitations() == {"00ff": {"name": "anna"}} and home.read_access().enabled


def test_a_lock_that_another_program_keeps_is_an_error_and_not_a_hang(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOCK_TIMEOUT_S", 0.1)
    with home.locked(), pytest.raises(ConfigError, match="Another program holds"):
        Home(home.path).edit_access(grant)


# ---- the other files


def test_an_invalid_providers_file_is_an_error_with_its_place(home: Home) -> None:
    write(home, "providers.json", '{"a": 1,\n "a": 2}')
    with pytest.raises(ConfigError, match=r"providers\.json: line 2, column 2: the key 'a' is there twice"):
        home.read_providers()
    write(home, "providers.json", '{"a": 1}')
    assert home.read_providers() == {"a": 1}


def test_a_stranger_is_noted_once_a_minute(home: Home) -> None:
    assert home.note_pending(ANNA, "anna", "m", 1000.0)
    assert not home.note_pending(ANNA, "anna", "m2", 1059.0)
    assert home.note_pending(ANNA, "anna", "m3", 1060.0)
    assert home.pending() == {ANNA: {"name": "anna", "model": "m3", "when": 1060.0}}
    assert home.note_pending(ANNA, "anna", "m4", -3e8), "a clock set back by ten years"
    home.clear_pending(ANNA)
    home.clear_pending(ANNA)
    assert home.pending() == {}


def test_strangers_take_a_bounded_place_and_the_newest_are_kept(home: Home) -> None:
    for index in range(module.PENDING_LIMIT + 5):
        home.note_pending(f"dpc-node-{index:032x}", "n" * 10_000, "m" * 10_000, float(index))
    found = home.pending()
    assert len(found) == module.PENDING_LIMIT
    assert next(iter(found)) == f"dpc-node-{5:032x}"
    assert (home.path / "pending.json").stat().st_size < 64 * 1024
    home.note_pending(f"dpc-node-{5:032x}", "n", "m", 1000.0)
    assert list(home.pending())[-1] == f"dpc-node-{5:032x}"


# ---- watch


def test_the_watch_sees_edits_replacements_and_removals_once_each(home: Home) -> None:
    watch = home.watch()
    assert not watch.changed()
    home.edit_access(grant)
    assert watch.changed()
    assert not watch.changed()
    home.edit_access(lambda document: set_enabled(document, False))
    assert watch.changed()
    write(home, "providers.json", "{}")
    assert watch.changed()
    write(home, "providers.json", "[]")
    assert watch.changed()
    (home.path / ACCESS).unlink()
    assert watch.changed()
    home.edit_peers(dict)
    assert not watch.changed()
