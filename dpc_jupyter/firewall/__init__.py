"""Who may ask for which model: rules are frozen values, decisions are pure, and what is not allowed is denied.

The owner writes ``~/.dpc/.dpc_access.json`` (seed document, section Firewall Integration). A node is let in by
``compute.allow_nodes`` or by a group of ``compute.allow_groups``. It may use its own ``allowed_models``, else those of
its groups together, else all; never more than ``compute.allowed_models``. While ``compute.paused`` is true, they get
nothing new. Keys that start with ``_`` are notes.

`places` reads the text, `access_file` checks it, `grants` merges its terms; `rules` decide by it, `edits` and `revise`
change it.
"""

from dpc_jupyter.firewall.edits import allow, deny, set_enabled, set_paused, set_relaying, widen
from dpc_jupyter.firewall.grants import DEFAULT_LIMITS, Limits
from dpc_jupyter.firewall.places import Document, dumps, parse_json
from dpc_jupyter.firewall.revise import Edit, gains, read_edits, revise
from dpc_jupyter.firewall.rules import Decision, Rules

__all__ = [
    "DEFAULT_LIMITS",
    "Decision",
    "Document",
    "Edit",
    "Limits",
    "Rules",
    "allow",
    "deny",
    "dumps",
    "gains",
    "parse_json",
    "read_edits",
    "revise",
    "set_enabled",
    "set_paused",
    "set_relaying",
    "widen",
]
