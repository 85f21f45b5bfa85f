"""The host that a notebook's own file names, read before a cell can ask: the page tells its kernel only later."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec

# jupyter_server sets it for the kernel of a notebook that is open in JupyterLab or Notebook 7: the file's path.
SESSION_NAME = "JPY_SESSION_NAME"
# Pictures in outputs make large notebooks; this much is read in a tenth of a second.
FILE_LIMIT_BYTES = 64 * 1024 * 1024
_MODEL_CHARS = 200


class SavedHost(msgspec.Struct, frozen=True):
    """What the page keeps under ``metadata.dpc``. The file may be a stranger's: nothing in it is taken on trust."""

    host: str
    model: Annotated[str, msgspec.Meta(max_length=_MODEL_CHARS)] | None = None


class Chosen(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whom a notebook asks; `model` None for the host's first. `restored` as of a `Notebook`."""

    id: str
    name: str
    model: str | None
    restored: bool = False


class _Metadata(msgspec.Struct):
    dpc: SavedHost | None = None


class _File(msgspec.Struct):
    metadata: _Metadata


def saved_host() -> SavedHost | None:
    """The choice in this kernel's notebook; None where no file tells one, whatever is wrong with it."""
    path = Path(os.environ.get(SESSION_NAME, ""))
    if path.suffix != ".ipynb" or not path.is_absolute():
        return None
    try:
        if not path.is_file() or path.stat().st_size > FILE_LIMIT_BYTES:  # a pipe would never end
            return None
        return msgspec.json.decode(path.read_bytes(), type=_File).metadata.dpc
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError):
        return None
