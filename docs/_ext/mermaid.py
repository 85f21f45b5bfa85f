"""A ``mermaid`` block: drawn by the script of the site itself where there is one, else shown as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_START = "mermaid.initialize({startOnLoad: true, securityLevel: 'strict', theme: 'neutral'});"


class Diagram(nodes.literal_block):
    """The text of a diagram."""


class Mermaid(SphinxDirective):
    """The directive that a fenced ``mermaid`` block is read as."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Keep the text as it is."""
        text = "\n".join(self.content)
        return [Diagram(text, text)]


def _open(translator: Any, _node: Diagram) -> None:
    translator.body.append('<pre class="mermaid" style="background: white; color: black">')


def _close(translator: Any, _node: Diagram) -> None:
    translator.body.append("</pre>")


def _add_script(
    app: Sphinx, _page: str, _template: str, _context: dict[str, Any], doctree: nodes.document | None
) -> None:
    script = Path(app.config.mermaid_script)
    if doctree is not None and doctree.next_node(Diagram) is not None and script.is_file():
        app.add_js_file(script.name)
        app.add_js_file(None, body=_START)


def _copy_script(app: Sphinx) -> None:
    script = Path(app.config.mermaid_script)
    if script.is_file():
        app.config.html_static_path.append(str(script))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register directive, node and script."""
    app.add_config_value("mermaid_script", "", "html")
    app.add_node(Diagram, html=(_open, _close))
    app.add_directive("mermaid", Mermaid)
    app.connect("builder-inited", _copy_script)
    app.connect("html-page-context", _add_script)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
