"""A small table, for a cell or a text terminal."""

from __future__ import annotations

import html
from collections.abc import Sequence

from IPython.display import display

from dpc_jupyter.wording import columns

_CELL = 'style="text-align:left"'


def show_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Show rows under their headings; every cell is made one safe line."""
    cells, lines = columns(head, rows)
    top = "".join(f"<th {_CELL}>{html.escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td {_CELL}>{html.escape(value)}</td>" for value in row) + "</tr>" for row in cells
    )
    display(
        {
            "text/plain": "\n".join(lines),
            "text/html": f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>",
        },
        raw=True,
    )
