"""What a face may ask for: a closed table of calls, each with the types of its parameters."""

from __future__ import annotations

import datetime as dt
import difflib
import inspect
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from dpc_jupyter.errors import DpcError, InvalidRequest
from dpc_jupyter.firewall import gains, parse_json, read_edits
from dpc_jupyter.jupyter.chat import Chats
from dpc_jupyter.jupyter.faces.state import NAME_CHARS, FoundView, found_views
from dpc_jupyter.jupyter.notebook import Notebook, is_invitation
from dpc_jupyter.sanitize import label, plain
from dpc_jupyter.wording import USAGE_HEAD, allowed, doubts, invited, several, usage_rows

_LINE_CHARS = 1000


class Calls:
    """The calls; public methods are the table, their annotations the types. Each may block, on a thread of its own.

    Raises
    ------
    DpcError
        From every one of them, with a sentence to show in place.
    """

    def __init__(self, notebook: Notebook, chats: Chats) -> None:
        self._notebook = notebook
        self._chats = chats

    def call(self, method: Any, params: Any) -> Any:
        """Call by name; a wrong name or parameter is an InvalidRequest."""
        found = _TABLE.get(method) if isinstance(method, str) else None
        if found is None:
            raise InvalidRequest(f"There is no call {label(str(method))!r}: reload the page, it is of another version.")
        try:
            given = msgspec.convert(params if isinstance(params, Mapping) else {}, found.params)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"{method}: {error}") from None
        return found.function(self, **{name: getattr(given, name) for name in found.params.__struct_fields__})

    # The node.

    def start(self) -> None:
        """Start the node; it does not listen."""
        self._notebook.node()

    def stop(self) -> None:
        """Stop the node; what is open fails by name."""
        self._notebook.stop()

    def choose(self, host: str, model: str | None = None) -> dict[str, Any]:
        """Make a host, and one of its models, the notebook's; it is linked to if need be."""
        self._notebook.choose(host, model)
        return {"id": self._notebook.host, "name": self._notebook.host_name, "model": self._notebook.model}

    def connect(self, address: str, name: str | None = None) -> dict[str, str]:
        """Link to a peer by its address, or again by name or id; or join a host by its invitation."""
        node = self._notebook.node()
        if is_invitation(address):
            host = node.run(node.service.join(address, name=name or None)).host
            return {"id": host.node_id, "name": host.name}
        peer = node.run(node.service.connect(address.strip(), name=name or None))
        node.run(node.service.models(peer.node_id))
        return {"id": peer.node_id, "name": peer.name}

    def find(self, words: str = "") -> list[FoundView]:
        """Who is online at the hub: everybody, or who has these words in the name, in a model, or as a group."""
        node = self._running()
        words = label(words, NAME_CHARS)
        found = [*node.run(node.service.search(name=words))]
        if words:
            found += node.run(node.service.search(model=words))
            found += node.run(node.service.search(group=words))
        return found_views(found)

    def share(self, on: bool) -> dict[str, str | None]:
        """Turn sharing on, which listens too, or off."""
        if not on:
            self._notebook.access.set_sharing(False)
            return {"address": None}
        return {"address": self._notebook.share()}

    def pause(self, on: bool) -> None:
        """Take no new requests from peers for now; what runs goes on."""
        self._running()  # without a node no face shows whether it is paused
        self._notebook.access.set_paused(on)

    # The access file.

    def preview(self, edits: list[Any]) -> dict[str, Any]:
        """What the access file would become, line by line, and who of those let in would get more by it."""
        access = self._notebook.access
        before, after = access.preview(read_edits(edits))
        more = [label(access.rules.name_of(each), 128) for each in gains(parse_json(before or "{}"), parse_json(after))]
        lines = [
            {"sign": line[0], "text": plain(line[2:].rstrip("\n"))}
            for line in difflib.ndiff(before.splitlines(keepends=True), after.splitlines(keepends=True))
            if line[0] != "?"
        ]
        return {"lines": lines, "changed": before != after, "gains": more}

    def apply(self, edits: list[Any]) -> None:
        """Write edits into the access file as it is now."""
        self._notebook.access.revise(read_edits(edits))

    def explain(self, who: str, model: str | None = None) -> dict[str, Any]:
        """Whether a node may use a model now, and which line decides."""
        decision = self._notebook.access.explain(who, model or None)
        return {"allowed": decision.allowed, "sentence": label(decision.reason, _LINE_CHARS), "line": decision.line}

    def allow(
        self, node_id: str, model: str | None = None, expires: str | None = None, name: str | None = None
    ) -> dict[str, str]:
        """Let a refused node in. What it calls itself is never taken for its name."""
        access = self._notebook.access
        if model and "*" in model:  # what a stranger asked for; a pattern would give it more than one model
            raise InvalidRequest(f"{label(model)!r} is no model's name: choose the models under its entry instead.")
        if model and not access.is_known(node_id):
            # What it had before it was put out or expired does not come back with one click for one model.
            terms = {"kind": "person", "node_id": node_id, "listed": True, "models": [model], "expires": expires or ""}
            access.revise(read_edits([terms | ({"name": name} if name else {})]))
            self.dismiss(node_id)
        else:
            access.allow(node_id, name=name or None, models=(model,) if model else (), expires=expires)
        return {"sentence": allowed(access.rules, dt.datetime.now(dt.UTC), node_id)}

    def dismiss(self, node_id: str) -> None:
        """Forget that a node asked."""
        self._notebook.home.clear_pending(node_id)

    def invite(
        self, name: str, models: tuple[str, ...] = (), group: str | None = None, expires: str | None = None
    ) -> dict[str, Any]:
        """Make an invitation; its line is told once."""
        invitations, access, models = self._notebook.invitations, self._notebook.access, several(models)
        before = access.rules.document
        made = invitations.make(name, models=models, group=group or None, expires=expires or None)
        sentences = invited(invitations.status(made.invite_id), access.rules)
        sentences += doubts(before, models, group or None, self._notebook.models_here() if models else ())
        return {"id": made.invite_id, "line": str(made), "sentences": sentences}

    def revoke_invitation(self, invite_id: str) -> dict[str, str]:
        """Take an open invitation back."""
        gone = self._notebook.invitations.revoke(invite_id)
        return {"sentence": f"The invitation for {label(gone.name)} is taken back."}

    def usage(self, days: float | None = None) -> dict[str, Any]:
        """Who used what, as a table."""
        service = self._notebook.node().service
        sums = service.ledger.usage(None if days is None else time.time() - days * 86_400)
        return {"head": USAGE_HEAD, "rows": usage_rows(sums, service.directory.name_of)}

    # Chats.

    def chat_state(self, chat: str) -> Any:
        """A chat as it is."""
        return self._chats[chat].state()

    def chat_ask(self, chat: str, prompt: str, host: str | None = None, model: str | None = None) -> None:
        """Say something in a chat; the answer comes as messages of its own."""
        self._chats[chat].ask(prompt, host, model)

    def chat_stop(self, chat: str) -> None:
        """Stop the answer of a chat; what came stays."""
        self._chats[chat].stop()

    def chat_clear(self, chat: str) -> None:
        """Forget what was said."""
        self._chats[chat].clear()

    def _running(self) -> Any:
        if (node := self._notebook.running) is None:
            raise DpcError("No node runs: start it first.")
        return node


class _Call(msgspec.Struct, frozen=True):
    function: Any
    params: Any


def _described(name: str, function: Any) -> _Call:
    fields = [
        (each.name, each.annotation) if each.default is each.empty else (each.name, each.annotation, each.default)
        for each in list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    ]
    return _Call(function, msgspec.defstruct(name, fields, forbid_unknown_fields=True, kw_only=True))


_TABLE = {
    name: _described(name, function)
    for name, function in vars(Calls).items()
    if inspect.isfunction(function) and not name.startswith("_") and name != "call"
}
