"""Draw the machine of a link (node/reaching/wanted/) from its table, into docs/architecture.md.

Usage: python docs/link_machine.py [--write]
"""

from __future__ import annotations

import sys
from pathlib import Path

from dpc_jupyter.node.reaching.wanted.table import TABLE
from dpc_jupyter.node.reaching.wanted.words import State

PAGE = Path(__file__).with_name("architecture.md")
_BEGIN, _END = "<!-- link machine: made by docs/link_machine.py -->\n", "<!-- end of link machine -->\n"


def _words(name: str) -> str:
    return name.lower().replace("_", " ")


def diagram() -> str:
    """Return the machine as a Mermaid state diagram: `event [guard] / actions` on each arrow."""
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f"    {state.name.lower()} : {_words(state.name)} ({state.value})" for state in State]
    for state, events in TABLE.items():
        for event, rows in events.items():
            for row in rows:
                label = event.__name__.lower()
                if row.guard.__name__ != "always":
                    label += f" [{_words(row.guard.__name__)}]"
                if row.actions:
                    label += " / " + ", ".join(_words(act.__name__) for act in row.actions)
                lines.append(f"    {state.name.lower()} --> {row.target.name.lower()} : {label}")
    return "\n".join([*lines, "```", ""])


def page_with_diagram() -> str:
    """Return the page with the diagram as it is now."""
    text = PAGE.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{diagram()}\n{_END}{after}"


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page_with_diagram())
    else:
        print(diagram())
