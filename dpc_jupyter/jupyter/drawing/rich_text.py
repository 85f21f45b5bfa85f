"""A model's Markdown as HTML that cannot act: rendered here, then cut down to an allow-list.

In a live notebook ``text/markdown`` and ``text/html`` run scripts and fetch remote images (jupyter.md), so the browser
never gets either from a peer.
"""

from __future__ import annotations

import bisect
import functools
import html
import re
from typing import TYPE_CHECKING, Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

if TYPE_CHECKING:
    from pygments.lexer import Lexer

# About 8,000 tokens. The worst text of this length takes 0.3 s, and an interrupt waits for it.
RICH_LIMIT_CHARS = 32_000
# A table of 32,000 characters would take two seconds.
_CELLS_LIMIT = 4_000
_SCHEMES = {"http", "https", "mailto"}
_TAGS = {
    *("p", "br", "hr", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a", "span"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
}
_ATTRIBUTES = {
    "a": {"href", "title"},
    "ol": {"start"},
    "code": {"class", "style"},
    "pre": {"class", "style"},
    "span": {"class"},
}
# Ours, put in before the sanitizer, which lets these very words pass and no others: nothing is edited behind it.
# On the ground of a cell's output Lab's colours for code have a contrast of 4.5:1 or more in each of its themes, on the
# grey of a box as little as 2.2:1. All but a comment's, 4.2:1 in the dark: mixed with the text's colour it has 5.9:1.
_STYLES = {
    "pre": "padding:6px 10px;border:1px solid var(--jp-border-color2,rgba(128,128,128,.4));border-radius:3px;"
    "background:var(--jp-layout-color0,transparent);--dpc-comment:var(--jp-mirror-editor-comment-color)",
    "code": "background:none;padding:0;"  # Lab's own code colour would stripe the box
    "--jp-mirror-editor-comment-color:"  # named anew on its way down: of itself it cannot be mixed
    "color-mix(in srgb,var(--dpc-comment,gray) 80%,var(--jp-content-font-color1,currentColor))",
}
# Jupyter's front ends, and nbconvert's pages, have colours for Pygments' short class names below this one.
_STYLED_BLOCK = f'<pre class="highlight" style="{_STYLES["pre"]}"><code style="{_STYLES["code"]}"'
# Not `err`: what a lexer does not know is no error of the model's, and its red too dim on white (4:1).
_CLASSES = {"code": r"language-[\w+#.-]{1,32}", "pre": "highlight", "span": "(?!err)[a-z][a-z0-9]{0,2}"}
# A peer names the language, and some lexers take seconds for a hostile text (C: 1.9 s for 8,000 characters); of these
# none takes a tenth.
_LANGUAGES = {
    **{name: name for name in ("python", "bash", "json", "r", "sql", "julia", "rust")},
    **{"py": "python", "sh": "bash", "shell": "bash"},
}
_HIGHLIGHT_CHARS = 8_000
# MathJax holds all of the page up while it works: 22 kB of nested brackets took it 9 s.
_FORMULA_CHARS = 2_000
_FORMULA_OPENED = 150
_INLINE_MATH = re.compile(r"\$(?![\s$])[^$\n]*?(?<![\s\\])\$(?!\d)")
_MATH_ENDS = {"$$": "$$", r"\[": r"\]", r"\(": r"\)"}
# What reaches beyond its formula. MathJax keeps definitions, colours and labels for all of a page, so that a peer's
# \renewcommand{\cos}{\sin} would change the user's own formulas; and its links may lead into Lab itself.
_BEYOND = re.compile(
    r"\\(?=(?:[gex]?def|let|futurelet|global|(?:re|provide)?(?:new)?(?:command|environment)|(?:re)?newtagform|usetagform"
    r"|DeclareMathOperator|DeclarePairedDelimiters?(?:XP?P?)?|Newextarrow|mathtoolsset|definecolor|require|label|ref|eqref"
    r"|href|url|class|cssId|style|bbox|mmlToken|html\w+|data|includegraphics|(?:begin|end)group\w*|newcolumntype)(?![A-Za-z]))"
)
_ANY_MATH = re.compile(r"[$\\]")


def to_html(markdown: str, *, typeset: bool = True) -> str:
    """Render sanitized text.

    Parameters
    ----------
    markdown : str
        After `sanitize.plain`.
    typeset : bool
        Let MathJax have the formulas; it takes milliseconds for each, every time that a text is drawn.

    Returns
    -------
    str
        HTML with the tags above and no others: no image, no style, no id, no script; links only to `_SCHEMES`.
        LaTeX stays as written between its dollars, for the notebook's MathJax, unless it reaches beyond its
        formula. Beyond `RICH_LIMIT_CHARS` it is the text as it is.
    """
    if len(markdown) > RICH_LIMIT_CHARS or markdown.count("|") > _CELLS_LIMIT:
        return f"<pre>{html.escape(markdown)}</pre>"  # where MathJax does not look
    return _cleaner().clean(_markdown().render(markdown, {"typeset": typeset}).replace("<pre><code", _STYLED_BLOCK))


def text_to_html(text: str) -> str:
    """Plain text: escaped, and never taken for LaTeX."""
    return _ANY_MATH.sub(_apart, html.escape(text))


@functools.cache
def _cleaner() -> nh3.Cleaner:
    return nh3.Cleaner(
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        attribute_filter=_attribute,
        url_schemes=_SCHEMES,
        url_relative="deny",
        link_rel="noopener noreferrer",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )


def _attribute(tag: str, name: str, value: str) -> str | None:
    if name == "style":
        return value if value == _STYLES.get(tag) else None
    if name == "class":
        return value if re.fullmatch(_CLASSES[tag], value) else None
    return value


@functools.cache
def _markdown() -> MarkdownIt:
    parser = (
        MarkdownIt("commonmark", {"html": False, "highlight": _highlight})
        .enable(["table", "strikethrough"])
        .disable("image")
    )
    # Without this, data: images pass as link targets.
    parser.validateLink = lambda url: url.partition(":")[0].lower() in _SCHEMES  # type: ignore[method-assign]
    parser.inline.ruler.before("escape", "math", _math)
    parser.block.ruler.before("code", "math_block", _math_block, {"alt": ["paragraph", "list", "blockquote"]})
    parser.add_render_rule("dollar", _render_dollar)
    parser.add_render_rule("text", _render_text)
    parser.add_render_rule("math", _render_math)
    return parser


def _highlight(code: str, language: str, _attributes: str) -> str:
    """Code as Pygments' spans; empty for what is to stay plain."""
    if (name := _LANGUAGES.get(language.lower())) is None or len(code) > _HIGHLIGHT_CHARS:
        return ""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter

    return str(highlight(code, _lexer(name), HtmlFormatter(nowrap=True)))


@functools.cache
def _lexer(name: str) -> Lexer:
    from pygments.lexers import get_lexer_by_name

    return get_lexer_by_name(name, stripnl=False)


def _math(state: StateInline, silent: bool) -> bool:
    """Keep LaTeX from being read as Markdown; keep a dollar that begins none from being read as LaTeX."""
    src, start = state.src, state.pos
    if src[start] not in "$\\":
        return False
    if (closing := _MATH_ENDS.get(src[start : start + 2])) is not None:
        end = _closed_at(src, closing, start + 2)
    else:
        found = _INLINE_MATH.match(src, start, state.posMax)
        end = found.end() if found else 0
    kind = "math" if end > start + 2 else "dollar"
    if kind == "dollar":
        end = start + (2 if src.startswith("\\$", start) else 1)
        if src[end - 1] != "$":
            return False
    if not silent:
        state.push(kind, "", 0).content = src[start:end]
    state.pos = end
    return True


def _math_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A formula over several lines, whose lines may look like lists or headings."""
    begin = state.bMarks[start] + state.tShift[start]
    closing = _MATH_ENDS.get(state.src[begin : begin + 2])
    closed_at = 0 if closing is None else _closed_at(state.src, closing, begin + 2)
    if closed_at <= state.eMarks[start]:
        return False
    last = bisect.bisect_left(state.eMarks, closed_at, start, end)
    if last >= end or state.src[closed_at : state.eMarks[last]].strip():
        return False
    if not silent:
        state.push("paragraph_open", "p", 1)
        formula = state.push("inline", "", 0)
        formula.content, formula.children = state.getLines(start, last + 1, state.blkIndent, False), []
        state.push("paragraph_close", "p", -1)
        state.line = last + 1
    return True


def _closed_at(src: str, closing: str, start: int) -> int:
    """Where a formula's closing ends, 0 without one."""
    found = src.find(closing, start)
    return 0 if found < 0 else found + len(closing)


def _render_dollar(_renderer: Any, _tokens: Any, _index: int, _options: Any, _env: Any) -> str:
    return "<span>$</span>"


def _render_text(_renderer: Any, tokens: Any, index: int, _options: Any, _env: Any) -> str:
    return _ANY_MATH.sub(_apart, html.escape(tokens[index].content))


def _render_math(_renderer: Any, tokens: Any, index: int, _options: Any, env: Any) -> str:
    formula = tokens[index].content
    opened = formula.count("{") + formula.count(r"\left") + formula.count(r"\begin")
    typeset = env["typeset"] and len(formula) <= _FORMULA_CHARS and opened <= _FORMULA_OPENED
    return (_BEYOND if typeset else _ANY_MATH).sub(_apart, html.escape(formula))


def _apart(found: re.Match[str]) -> str:
    return f"<span>{found[0]}</span>"  # MathJax finds no formula across an element's edge
