"""Draw the machine of a link (node/reaching/wanted/) from its table, into docs/architecture.md.

Usage: python docs/link_machine.py [--write]
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path

from dpc_jupyter.node.reaching.wanted.table import TABLE, Row
from dpc_jupyter.node.reaching.wanted.words import LINKED, Event, State

PAGE = Path(__file__).with_name("architecture.md")
_BEGIN, _END = "<!-- link machine: made by docs/link_machine.py -->\n", "<!-- end of link machine -->\n"


def _words(name: str) -> str:
    return name.lower().replace("_", " ")


def _label(event: type[Event], row: Row) -> str:
    label = event.__name__.lower()
    if row.guard.__name__ != "always":
        label += f" [{_words(row.guard.__name__)}]"
    if row.actions:
        label += " / " + ", ".join(_words(act.__name__) for act in row.actions)
    return label


def _shared(event: type[Event], states: frozenset[State], least: int) -> tuple[Row, ...] | None:
    """Return the rows that most of these states have for an event, if at least `least` have them."""
    (rows, count), *_ = Counter(TABLE[state].get(event, ()) for state in states).most_common(1)
    return rows if rows and count >= least else None


def diagram() -> str:
    """Return the machine: what holds in every state as a list, and the rest as a Mermaid state diagram.

    Arrows that most states with a link share begin at the box around them.
    """
    events = list(dict.fromkeys(event for rows in TABLE.values() for event in rows))
    everywhere = {event: rows for event in events if (rows := _shared(event, frozenset(State), len(State)))}
    linked = {event: rows for event in events if (rows := _shared(event, LINKED, 3))}
    arrows: dict[tuple[str, str], list[str]] = defaultdict(list)
    for event, rows in linked.items():
        if event not in everywhere:
            for row in rows:
                arrows["linked", row.target.name.lower()].append(_label(event, row))
    for state, rows_of in TABLE.items():
        for event, rows in rows_of.items():
            if event in everywhere or (state in LINKED and linked.get(event) == rows):
                continue
            for row in rows:
                arrows[state.name.lower(), row.target.name.lower()].append(_label(event, row))
    lines = ["From every state:", ""]
    for event, rows in everywhere.items():
        lines += [f"- {_label(event, row)} leads to *{_words(row.target.name)}*" for row in rows]
    lines += ["", "```mermaid", "stateDiagram-v2", "    direction LR"]
    lines += [_state(state, "    ") for state in State if state not in LINKED]
    lines += ["    state linked {", *[_state(state, "        ") for state in State if state in LINKED], "    }"]
    for (source, target), labels in arrows.items():
        lines.append(f"    {source} --> {target} : {'<br>'.join(labels)}")
    return "\n".join([*lines, "```", ""])


def _state(state: State, indent: str) -> str:
    return f"{indent}{state.name.lower()} : {_words(state.name)}<br>{state.value}"


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
