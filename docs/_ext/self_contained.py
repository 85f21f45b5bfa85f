"""The site loads nothing from another server: a page that would is a warning, and so an error."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

# What a browser fetches by itself; a link that a reader may click is none of it.
_LOADS = re.compile(
    r"""<(?:script|link|img|iframe|source|object)\b[^>]*\b(?:src|href|data)=["']((?:https?:)?//[^"']+)"""
)
_LOADS_IN_STYLE = re.compile(r"""(?:url\(|@import )["']?((?:https?:)?//[^"')]+)""")
_log = logging.getLogger(__name__)


def _check(app: Sphinx, failure: Exception | None) -> None:
    if failure is None:
        for pattern, suffix in ((_LOADS, "html"), (_LOADS_IN_STYLE, "css")):
            for path in Path(app.outdir).rglob(f"*.{suffix}"):
                for url in pattern.findall(path.read_text("utf-8")):
                    _log.warning("%s loads %s", path.relative_to(app.outdir), url)


def setup(app: Sphinx) -> dict[str, bool]:
    """Look at the site when it is written."""
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
