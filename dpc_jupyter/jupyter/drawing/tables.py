"""A small table, for a cell or a text terminal."""

from __future__ import annotations

from collections.abc import Sequence

from IPython.display import display

from dpc_jupyter.wording import columns

_CELL = 'style="text-align:left"'


def show_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Show rows under their headings; every cell is made one safe line."""
    from dpc_jupyter.jupyter.drawing.rich_text import text_to_html  # nh3, markdown-it: only once they are needed

    cells, lines = columns(head, rows)
    top = "".join(f"<th {_CELL}>{text_to_html(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td {_CELL}>{text_to_html(value)}</td>" for value in row) + "</tr>" for row in cells
    )
    display(
        {
            "text/plain": "\n".join(lines),
            "text/html": f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>",
        },
        raw=True,
    )
