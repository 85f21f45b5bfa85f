"""Sphinx settings: `make docs` writes the site to build/site.

Sphinx with furo and MyST rather than MkDocs Material: MkDocs and that theme get security mends alone since 2026, while
Sphinx, furo and MyST are developed.
"""

import sys
from pathlib import Path

from ipython_pygments_lexers import IPython3Lexer
from sphinx.highlighting import lexers

from dpc_jupyter import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "dpc-jupyter"
author = "the dpc-jupyter authors"
release = version = __version__
html_title = f"dpc-jupyter {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "from_code", "mermaid", "self_contained"]
smartquotes = False  # it would make one dash of the two before an option
exclude_patterns = ["_ext"]

myst_enable_extensions = ["deflist"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3  # a link to a heading that is not there is a warning, and so an error

default_role = "py:obj"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
napoleon_google_docstring = False

html_theme = "furo"
html_copy_source = False
html_show_copyright = html_show_sphinx = False
# The diagrams' script comes from npm by `make docs`; without it a page shows the diagram's text.
mermaid_script = str(Path(sys.prefix) / "mermaid" / "mermaid.min.js")
lexers["python"] = IPython3Lexer()  # cells have magics
