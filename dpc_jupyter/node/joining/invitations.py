"""The owner's invitations: made, listed, taken back, and each used up by the one node that proves to hold it."""

from __future__ import annotations

import datetime as dt
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import msgspec

from dpc_jupyter import firewall
from dpc_jupyter.errors import ConfigError, InvitationError
from dpc_jupyter.firewall.access_file import end_of
from dpc_jupyter.home import Home
from dpc_jupyter.hub.client.trust import is_loopback
from dpc_jupyter.hub.wire import origin_of
from dpc_jupyter.node.joining.whereabouts import Whereabouts
from dpc_jupyter.node.reaching import Network
from dpc_jupyter.node.serving import Access, limits_of, moment
from dpc_jupyter.node.status import InvitationStatus
from dpc_jupyter.protocol.invitation import ADDRESSES_LIMIT, ID_BYTES, SECRET_BYTES, Invitation, is_address, proves
from dpc_jupyter.sanitize import label
from dpc_jupyter.transports.tls import DEFAULT_PORT

# What the command line, the notebook and the form propose: who is to stay for longer is meant to.
VALID = EXPIRES = "7d"
# As the list of refused nodes: more than anybody keeps an eye on.
INVITATIONS_LIMIT = 100
# So long the owner can see what became of one.
_REMEMBER_S = 30 * 86_400
# In the access file, beside the permission: what it came by. Keys that begin with _ are notes there.
_NOTE = "_invitation"
_ANYBODY = "dpc-node-" + "0" * 32

_log = logging.getLogger(__name__)


class _Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry of ``invitations.json``; times in unix seconds, terms as they were typed."""

    secret: str
    name: str
    made_at: float
    valid_until: float
    models: tuple[str, ...] = ()
    group: str | None = None
    expires: str | None = None
    limits: tuple[str, ...] = ()
    revoked: bool = False
    used_by: str = ""
    used_at: float = 0.0
    here_alone: bool = False

    def state(self, now: float) -> str:
        if self.used_by:
            return "used"
        return "revoked" if self.revoked else "open" if now < self.valid_until else "expired"


@dataclass(frozen=True, slots=True)
class Joined:
    """Somebody is in: under which name, whether sharing is on, and whether the same invitation had done it before."""

    node_id: str
    name: str
    sharing: bool
    again: bool


class Invitations:
    """The file ``invitations.json`` of a home. Methods block on the disk and the home's lock.

    Parameters
    ----------
    home : Home
    access : Access
        Of the same home; its rules are those that an invitation has changed.

    Notes
    -----
    An invitation is used by the very write that puts its permission into the access file, where a note names it: there
    is no moment at which one holds without the other, whatever crashes. ``used_by`` only repeats it.
    """

    def __init__(self, home: Home, access: Access) -> None:
        self._home = home
        self._access = access
        self._whereabouts = Whereabouts(home)
        self._nobodys = secrets.token_bytes(SECRET_BYTES)

    def make(
        self,
        name: str,
        *,
        models: Sequence[str] = (),
        group: str | None = None,
        expires: str | None = None,
        limits: Sequence[str] = (),
        valid: str = VALID,
        addresses: Sequence[str] = (),
    ) -> Invitation:
        """Write an invitation; ``str()`` of it is the line to send to one person.

        Parameters
        ----------
        name : str
            What to call the node that joins.
        models, group, expires, limits
            What it may do then, as `Access.allow`. A span in `expires` counts from the joining.
        valid : str
            How long the line can be used: ``12h``, ``7d``, or a date.
        addresses : sequence of str
            Ways to this host beside those where its nodes listen, ``host:port``: a VPN's name, a forwarded port.

        Raises
        ------
        ConfigError
            A term is not valid, another node has this name, or the access file cannot be used.
        InvitationError
            Nothing listens here and there is no hub, there are too many open ones, or one for this name is open.
        """
        name, now = " ".join(name.split()), time.time()
        document = self._home.access_document()  # a broken file is told before anything else
        if (known := self._home.read_access().node_by_name(name)) is not None:
            raise ConfigError(
                f"{label(name)!r} is what {known} is called here: choose another name for another machine. "
                f"%dpc_firewall allow changes what {label(name)} may do."
            )
        terms = _Kept("", name, now, 0, tuple(models), group, expires, tuple(limits))
        _admission(document, _ANYBODY, terms)
        where = list(dict.fromkeys([*map(_address, addresses), *self._whereabouts.addresses()]))
        where, hub = where[:ADDRESSES_LIMIT], Network.read(self._home).hub
        hub = hub and origin_of(hub)
        if not (where or hub):
            raise InvitationError(
                "No node of this home listens, so there is no address to invite to. Run %dpc_start --share first, "
                "or say where it will be: --address HOST:PORT."
            )
        made = Invitation(
            self._host_id,
            secrets.token_hex(ID_BYTES),
            secrets.token_bytes(SECRET_BYTES),
            tuple(where),
            hub,
        )
        entry = msgspec.structs.replace(
            terms,
            secret=made.secret.hex(),
            valid_until=_end_of_line(valid, expires),
            here_alone=all(map(is_loopback, _hosts(made))),
        )
        with self._home.locked():
            kept = self._read(document)
            open_ones = [each for each in kept.values() if each.state(now) == "open"]
            if any(each.name == name for each in open_ones):
                raise InvitationError(
                    f"An invitation for {label(name)} is open: send that line, or take it back first: "
                    f"%dpc_invite --revoke {label(name)}"
                )
            if len(open_ones) >= INVITATIONS_LIMIT:
                raise InvitationError(
                    f"{INVITATIONS_LIMIT} invitations are open: %dpc_invite --list shows them, --revoke takes one back."
                )
            closed = [each for each, old in kept.items() if old.state(now) != "open"]
            for each in closed[: max(len(kept) + 1 - INVITATIONS_LIMIT, 0)]:
                del kept[each]
            self._write({**kept, made.invite_id: entry})
        return made

    def all(self) -> tuple[InvitationStatus, ...]:
        """Every invitation that is remembered, oldest first; without their secrets."""
        return tuple(
            self._status(invite_id, entry) for invite_id, entry in self._read(self._access.rules.document).items()
        )

    def status(self, invite_id: str) -> InvitationStatus:
        """One of `all`; InvitationError where there is none."""
        for each in self.all():
            if each.invite_id == invite_id:
                return each
        raise InvitationError(f"There is no invitation {label(invite_id)}: %dpc_invite --list shows those that are.")

    def revoke(self, which: str) -> InvitationStatus:
        """Take an open invitation back.

        Parameters
        ----------
        which : str
            Its id, or the name that it is for.

        Raises
        ------
        InvitationError
            There is none, or it is used: what it gave is taken back by a deny.
        """
        with self._home.locked():
            kept, now = self._read(self._home.read_access().document), time.time()
            found = [i for i, entry in kept.items() if which in (i, entry.name)]
            for invite_id in found:
                if kept[invite_id].state(now) == "open":
                    kept[invite_id] = msgspec.structs.replace(kept[invite_id], revoked=True)
                    self._write(kept)
                    return self._status(invite_id, kept[invite_id])
        for invite_id in reversed(found):
            if user := kept[invite_id].used_by:
                raise InvitationError(
                    f"{self._access.rules.name_of(user)} has joined by it: %dpc_firewall deny {user} takes the "
                    "permission back."
                )
        raise InvitationError(f"No open invitation is for {label(which)!r}: %dpc_invite --list shows those that are.")

    def claim(self, invite_id: str, proof: str, binding: bytes, joiner_id: str) -> Joined:
        """Let in the node that proves to hold an invitation; once more for the same node does nothing.

        Parameters
        ----------
        proof : str
            As it came over the link whose `Connection.binding` is `binding`, from the node `joiner_id`.

        Raises
        ------
        InvitationError, ConfigError
            Why not, for the owner alone: to whoever claims, one refusal must look like another.
        """
        entry = self._read({}).get(invite_id)
        secret = self._nobodys if entry is None else bytes.fromhex(entry.secret)
        # Without the lock, and without a write: guesses must not stand in the way of the owner's edits.
        proven = proves(proof, secret, binding, joiner_id, self._host_id, invite_id)
        if entry is None:
            raise InvitationError("there is no such invitation")
        if not proven:
            raise InvitationError(f"the proof for the invitation of {entry.name} was wrong")
        with self._home.locked():
            kept, now = self._read(self._home.access_document()), time.time()
            entry = kept.get(invite_id, entry)
            if entry.used_by == joiner_id:
                rules = self._home.read_access()
                if not rules.lists(joiner_id, dt.datetime.now(dt.UTC)):
                    raise InvitationError(f"{entry.name} has used it before, and is no longer let in")
                return Joined(joiner_id, rules.name_of(joiner_id), rules.enabled, True)
            if (state := entry.state(now)) != "open":
                by = f" by {self._access.rules.name_of(entry.used_by)}" if entry.used_by else ""
                raise InvitationError(f"the invitation of {entry.name} is {state}{by}")
            rules = self._access.rules = self._home.edit_access(
                lambda document: _noted(_admission(document, joiner_id, entry), joiner_id, invite_id)
            )
            try:  # the rest is bookkeeping: the invitation is used by now
                self._write({**kept, invite_id: msgspec.structs.replace(entry, used_by=joiner_id, used_at=now)})
                self._home.clear_pending(joiner_id)
            except (ConfigError, OSError) as error:
                _log.warning("an invitation is used, which its file does not say yet: %s", error)
        return Joined(joiner_id, rules.name_of(joiner_id), rules.enabled, False)

    @cached_property
    def _host_id(self) -> str:
        return self._home.load_identity().node_id

    def _status(self, invite_id: str, entry: _Kept) -> InvitationStatus:
        return InvitationStatus(
            invite_id,
            entry.name,
            entry.state(time.time()),
            entry.models,
            entry.group,
            entry.expires,
            entry.limits,
            entry.valid_until,
            entry.used_by,
            entry.here_alone,
        )

    def _read(self, document: firewall.Document) -> dict[str, _Kept]:
        """What is remembered, and used by the word of an access file; an entry that somebody has damaged is none."""
        nodes = document.get("nodes", {}).items()
        used = {settings.get(_NOTE): node_id for node_id, settings in nodes if isinstance(settings, dict)}
        kept, since = {}, time.time() - _REMEMBER_S
        for invite_id, raw in self._home.read_invitations().items():
            try:
                entry = msgspec.convert(raw, _Kept)
                bytes.fromhex(entry.secret)
            except (msgspec.ValidationError, ValueError):
                continue
            if not entry.used_by and invite_id in used:
                entry = msgspec.structs.replace(entry, used_by=used[invite_id])
            if max(entry.valid_until, entry.used_at) > since:
                kept[invite_id] = entry
        return kept

    def _write(self, kept: dict[str, _Kept]) -> None:
        entries: dict[str, Any] = msgspec.to_builtins(kept)
        self._home.edit_invitations(lambda _: entries)


def _admission(document: firewall.Document, node_id: str, terms: _Kept) -> firewall.Document:
    return firewall.widen(
        document,
        node_id,
        now=dt.datetime.now(dt.UTC),
        name=terms.name,
        models=terms.models,
        group=terms.group,
        expires=moment(terms.expires),
        limits=limits_of(terms.limits),
    )


def _noted(document: firewall.Document, node_id: str, invite_id: str) -> firewall.Document:
    document.setdefault("nodes", {}).setdefault(node_id, {})[_NOTE] = invite_id
    return document


def _address(typed: str) -> str:
    """``host:port``; the port that nodes use where none is given."""
    found = typed.strip()
    for each in (found, f"{found}:{DEFAULT_PORT}", f"[{found}]:{DEFAULT_PORT}"):
        if is_address(each):
            return each
    raise InvitationError(f"{label(typed)!r} is no address: write host:port, an IPv6 address in brackets.")


def _hosts(made: Invitation) -> list[str]:
    hosts = [each.rpartition(":")[0].strip("[]") for each in made.addresses]
    return [*hosts, urlsplit(made.hub).hostname or ""] if made.hub else hosts


def _end_of_line(valid: str, expires: str | None) -> float:
    """When the line ends, in unix seconds: a permission that ends on a day needs no line behind that day."""
    try:
        ends = end_of(moment(valid) or "")
        if ends <= dt.datetime.now(dt.UTC):
            raise ValueError
    except (ConfigError, ValueError, OverflowError):
        raise ConfigError(
            f"{label(valid)!r} is no end of a line: write how long it can be used, such as 12h, 7d, or a date to come."
        ) from None
    is_day = bool(expires) and str(expires)[:4].isdigit() and not str(expires)[:-1].isdigit()
    return min(ends, end_of(str(expires)) if is_day else ends).timestamp()
