"""The node's folder: its only reader and writer. Private from creation, replaced whole, edited under one lock."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias, TypeVar

import filelock

from dpc_jupyter import identity
from dpc_jupyter.errors import ConfigError, IdentityError
from dpc_jupyter.firewall import Document, Rules, dumps, parse_json

FILE_LIMIT_BYTES = 2**20  # as one frame; 20,000 nodes fit
PENDING_LIMIT = 100
PENDING_EVERY_S = 60.0
_LOCK_TIMEOUT_S = 10.0
_ACCESS, _PROVIDERS, _PEERS, _PENDING = ".dpc_access.json", "providers.json", "peers.json", "pending.json"
_ASKED, _INVITATIONS, _LISTENING = "asked.json", "invitations.json", "listening.json"
_NETWORK = "network.json"
_IDENTITY = ("node.key", "node.crt", "node.id")
_NEW_ACCESS: Document = {
    "_comment": "Who may use this machine's models. Saved edits take effect at once; so does %dpc_firewall.",
    "compute": {
        "_comment": "Nothing is shared until enabled is true. An empty allowed_models means all models.",
        "enabled": False,
        "allow_groups": [],
        "allow_nodes": [],
        "allowed_models": [],
    },
    "node_groups": {},
    "nodes": {},
}

Change: TypeAlias = Callable[[Document], Document]
T = TypeVar("T")


class Home:
    """One node's folder, ``~/.dpc`` unless ``DPC_HOME`` says otherwise. Making a `Home` touches nothing.

    Parameters
    ----------
    path : Path
        Made on the first write, with mode 0700; a wider mode is tightened. Files have mode 0600.

    Notes
    -----
    Methods block for some milliseconds (disk, lock). Every edit raises ConfigError when another process keeps the
    lock for 10 s.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.models_folder = self.path / "models"
        self.ledger_path = self.path / "ledger.sqlite3"
        self.access_path = self.path / _ACCESS
        self.network_path = self.path / _NETWORK
        self._lock = filelock.FileLock(self.path / ".lock", timeout=_LOCK_TIMEOUT_S, mode=0o600)

    @classmethod
    def default(cls) -> Home:
        """The folder that ``DPC_HOME`` names, else ``~/.dpc``."""
        return cls(Path(os.environ.get("DPC_HOME") or "~/.dpc"))

    def load_identity(self) -> identity.Identity:
        """Read ``node.key``, ``node.crt`` and ``node.id``; where there is none of them, make and keep a new identity.

        Raises
        ------
        IdentityError
            One is missing, damaged, or the key is open to others: peers trust this identity, so it is never
            replaced silently.
        """
        with self.locked():
            try:
                parts = [self._read_bytes(name) for name in _IDENTITY]
            except ConfigError as error:
                raise IdentityError(str(error)) from None
            if parts == [None, None, None]:
                new = identity.generate()
                for name, data in zip(_IDENTITY, (new.key_pem, new.cert_pem, f"{new.node_id}\n".encode()), strict=True):
                    self._write_bytes(name, data)
                return new
            cure = (
                f"Restore {', '.join(_IDENTITY)} in {self.path} from a backup, or move all three away to start "
                "with a new identity that your peers have to allow again."
            )
            missing = [name for name, part in zip(_IDENTITY, parts, strict=True) if part is None]
            if missing:
                raise IdentityError(f"{self.path / missing[0]} is missing. {cure}")
            key, certificate, node_id = (part or b"" for part in parts)
            try:
                return identity.load(key, certificate, node_id.decode("utf-8", "replace"))
            except IdentityError as error:
                raise IdentityError(f"{error} {cure}") from error

    def read_access(self) -> Rules:
        """The rules as the file has them now; all denied without a file, or with an invalid one (`Rules.error`)."""
        try:
            text = self._read_text(_ACCESS)
            return Rules() if text is None else self._placed(_ACCESS, Rules.parse, text)
        except ConfigError as error:
            return Rules.deny_all(str(error))

    def access_document(self) -> Document:
        """The access file as it is, or what a new one would hold.

        Raises
        ------
        ConfigError
            It is invalid; path, line and column are named.
        """
        text = self._read_text(_ACCESS)
        text = dumps(_NEW_ACCESS) if text is None else text
        self._placed(_ACCESS, Rules.parse, text)
        return self._placed(_ACCESS, parse_json, text)

    def edit_access(self, change: Change) -> Rules:
        """Replace the access file by what `change` makes of its document; other processes' edits are never lost.

        Raises
        ------
        ConfigError
            The file is invalid (it stays as it is, for its owner to mend), or `change` would make it so.
        """
        with self.locked():
            text = dumps(change(self.access_document()))
            rules = Rules.parse(text)
            self._write_bytes(_ACCESS, _encoded(text))
            return rules

    def preview_access(self, change: Change) -> tuple[str, str]:
        """The access file as it is, empty without one, and as `edit_access` would write it now; raises as that does."""
        before = self._read_text(_ACCESS) or ""
        after = dumps(change(self.access_document()))
        Rules.parse(after)
        return before, after

    def read_providers(self) -> Document | None:
        """What ``providers.json`` holds, None without one; raises as `access_document`."""
        text = self._read_text(_PROVIDERS)
        return None if text is None else self._placed(_PROVIDERS, parse_json, text)

    def read_network(self) -> Document | None:
        """What ``network.json`` holds, None without one; raises as `access_document`."""
        text = self._read_text(_NETWORK)
        return None if text is None else self._placed(_NETWORK, parse_json, text)

    def edit_network(self, change: Change) -> None:
        """Replace ``network.json`` by what `change` makes of it; raises as `access_document`."""
        with self.locked():
            self._write_bytes(_NETWORK, _encoded(dumps(change(self.read_network() or {}))))

    def read_peers(self) -> dict[str, Document]:
        """Known peers: node id to ``{"name", "uri", "also", "by", "last_seen"}``; raises as `access_document`."""
        return self._read_entries(_PEERS)

    def edit_peers(self, change: Change) -> dict[str, Document]:
        """Replace ``peers.json`` by what `change` makes of it; raises as `access_document`."""
        return self._edit_entries(_PEERS, change)

    def read_asked(self) -> dict[str, Document]:
        """Open requests of this user's processes: request id to what `node.unfinished` keeps; raises as `pending`."""
        return self._read_entries(_ASKED)

    def edit_asked(self, change: Change) -> dict[str, Document]:
        """Replace ``asked.json`` by what `change` makes of it; raises as `pending`."""
        return self._edit_entries(_ASKED, change)

    def read_invitations(self) -> dict[str, Document]:
        """Invitations by their id, with their secrets: what `node.invitations` keeps; raises as `pending`."""
        return self._read_entries(_INVITATIONS)

    def edit_invitations(self, change: Change) -> dict[str, Document]:
        """Replace ``invitations.json`` by what `change` makes of it; raises as `pending`."""
        return self._edit_entries(_INVITATIONS, change)

    def read_listening(self) -> dict[str, Document]:
        """Where the nodes of this home listen, by session: what `node.whereabouts` keeps; raises as `pending`."""
        return self._read_entries(_LISTENING)

    def edit_listening(self, change: Change) -> dict[str, Document]:
        """Replace ``listening.json`` by what `change` makes of it; raises as `pending`."""
        return self._edit_entries(_LISTENING, change)

    def pending(self) -> dict[str, Document]:
        """Refused strangers, oldest first: node id to ``{"name", "model", "when"}``; raises as `access_document`."""
        return self._read_entries(_PENDING)

    def note_pending(self, node_id: str, name: str, model: str, when: float) -> bool:
        """As `note_all_pending`, for one."""
        return self.note_all_pending({node_id: (name, model, when)})

    def note_all_pending(self, asked: Mapping[str, tuple[str, str, float]]) -> bool:
        """Keep refused strangers for the owner to grant; whether anything was written.

        Strangers cost a bounded part of the disk: one write a minute each, the newest 100 kept. Raises as `pending`.

        Parameters
        ----------
        asked : mapping
            Node id to name, model and unix seconds; name and model as the stranger says: untrusted, kept up to 128
            and 256 letters.
        """
        known = self.pending()
        fresh = {
            node_id: {"name": name[:128], "model": model[:256], "when": when}
            for node_id, (name, model, when) in asked.items()
            if not _noted_lately(known.get(node_id, {}).get("when"), when)
        }
        if not fresh:
            return False

        def add(entries: Document) -> Document:
            kept = {node_id: entry for node_id, entry in entries.items() if node_id not in fresh}
            return dict(list((kept | fresh).items())[-PENDING_LIMIT:])

        self._edit_entries(_PENDING, add)
        return True

    def clear_pending(self, node_id: str) -> None:
        """Forget a stranger, granted or not; raises as `pending`."""
        if node_id in self.pending():
            self._edit_entries(_PENDING, lambda entries: {k: v for k, v in entries.items() if k != node_id})

    def watch(self) -> Watch:
        """Watch the files that an owner edits by hand. Take it before the first read, so that no edit falls between."""
        return Watch(self.path / _ACCESS, self.path / _PROVIDERS)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process and thread from editing this folder; edits inside of it are made as ever."""
        try:
            self.path.mkdir(0o700, parents=True, exist_ok=True)
            if stat.S_IMODE(self.path.stat().st_mode) != 0o700:
                self.path.chmod(0o700)
            self._lock.acquire()
        except filelock.Timeout:
            raise ConfigError(f"Another program holds {self.path / '.lock'}; close it and try again") from None
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be used: {error}; check its owner, or set DPC_HOME") from None
        try:
            yield
        finally:
            self._lock.release()

    def _read_bytes(self, name: str) -> bytes | None:
        path = self.path / name
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                if os.name == "posix" and mode & 0o077:
                    if name == _IDENTITY[0]:  # as ssh does: who knows who has read it
                        raise IdentityError(f"{path} is open to other users (mode {mode:04o}); run: chmod 600 {path}")
                    path.chmod(0o600)
                data = file.read(FILE_LIMIT_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}; check its owner and mode") from None
        if len(data) > FILE_LIMIT_BYTES:
            raise ConfigError(f"{path} is larger than 1 MiB; make it smaller")
        return data

    def _read_text(self, name: str) -> str | None:
        data = self._read_bytes(name)
        try:
            return None if data is None else data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            column = error.start - error.object.rfind(b"\n", 0, error.start)
            raise ConfigError(f"{self.path / name}: line {line}, column {column}: save the file as UTF-8") from None

    def _write_bytes(self, name: str, data: bytes) -> None:
        """Replace a file whole; the caller holds the lock, so a temporary file there is a crashed writer's."""
        path, temporary = self.path / name, self.path / f"{name}.tmp"
        try:
            temporary.unlink(missing_ok=True)
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
                temporary.chmod(0o600)  # a umask can only have narrowed it
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}; the file is as it was") from None

    def _read_entries(self, name: str) -> dict[str, Document]:
        text = self._read_text(name)
        entries = {} if text is None else self._placed(name, parse_json, text)
        return {key: entry for key, entry in entries.items() if isinstance(entry, dict)}

    def _edit_entries(self, name: str, change: Change) -> dict[str, Document]:
        with self.locked():
            entries = change(self._read_entries(name))
            self._write_bytes(name, _encoded(dumps(entries)))
            return entries

    def _placed(self, name: str, parse: Callable[[str], T], text: str) -> T:
        try:
            return parse(text)
        except ConfigError as error:
            raise ConfigError(f"{self.path / name}: {error}") from None


def _noted_lately(known: object, when: float) -> bool:
    return isinstance(known, int | float) and abs(when - known) < PENDING_EVERY_S


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate becomes its own JSON escape


class Watch:
    """Tells whether any of some files changed, at the cost of one stat each.

    Polled rather than by inotify: homes are on NFS, where inotify sees nothing that another machine writes.
    """

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._seen = self._look()

    def changed(self) -> bool:
        """Whether a file was written, replaced, made or removed since the last call, or since the start."""
        before, self._seen = self._seen, self._look()
        return before != self._seen

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_fingerprint(path) for path in self._paths]


def _fingerprint(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
