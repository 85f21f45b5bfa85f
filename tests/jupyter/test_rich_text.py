from __future__ import annotations

import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpc_jupyter.jupyter.drawing import rich_text
from dpc_jupyter.jupyter.drawing.display import bundle, interval_s
from dpc_jupyter.jupyter.drawing.rich_text import RICH_LIMIT_CHARS, text_to_html, to_html

ALLOWED = {
    "a": {"href", "title", "rel", "target"},
    "ol": {"start"},
    "code": {"class", "style"},
    "pre": {"class", "style"},
    "span": {"class"},
}
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "<svg onload=alert(1)><a xlink:href='javascript:1'>x</a></svg>",
    "![pixel](https://evil.example/pixel.png)",
    "![p][r]\n\n[r]: https://evil.example/pixel.png",
    "[click](javascript:alert(1))",
    "[click](JaVaScRiPt:alert(1))",
    "[click](java&#115;cript:alert(1))",
    "<javascript:alert(1)>",
    "[click](data:text/html;base64,PHNjcmlwdD4=)",
    "![d](data:image/png;base64,AAAA)",
    "[click](vbscript:x) [click](file:///etc/passwd)",
    "[up](/api/contents) [here](?x=1) [there](//evil.example/x)",
    '[t](https://ok.example "x\\" onmouseover=\\"alert(1)")',
    '```html" onclick="alert(1)\n<b>\n```',
    "<style>*{display:none}</style><iframe src=//evil.example></iframe>",
    "<a href=x style=position:fixed class=jp-Button id=x>x</a>",
    '<a href="ftp://evil.example">x</a> <a href="tel:1">x</a> [x](ftp://evil.example)',
    '<code class="jp-Dialog">x</code>',
    "<!-- --><math><mtext></mtext></math>",
    "$<img src=x onerror=alert(1)>$ $$<script>alert(1)</script>$$",
    "$$\n<script>alert(1)</script>\n$$",
]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, {name: value or "" for name, value in attrs}))


def tags_of(html: str) -> list[tuple[str, dict[str, str]]]:
    parser = Tags()
    parser.feed(html)
    parser.close()
    return parser.seen


def assert_harmless(html: str) -> None:
    for tag, attributes in tags_of(html):
        assert tag in rich_text._TAGS, html
        assert set(attributes) <= ALLOWED.get(tag, set()), html
        assert attributes.get("style") in (None, rich_text._STYLES.get(tag)), html
        if tag == "a" and "href" in attributes:
            assert attributes["href"].lower().startswith(("http://", "https://", "mailto:")), html
            assert attributes["rel"] == "noopener noreferrer" and attributes["target"] == "_blank"
        if "class" in attributes:
            assert re.fullmatch(r"language-[\w+#.-]+|highlight|[a-z][a-z0-9]{0,2}", attributes["class"]), html


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_markdown_cannot_act(text: str) -> None:
    assert_harmless(to_html(text))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_html_that_got_past_markdown_cannot_act(text: str) -> None:
    """The second wall stands alone: what Markdown let through is cut down all the same."""
    assert_harmless(rich_text._cleaner().clean(text))


@given(st.text(alphabet="<>\"'`*_[]()!$\\|-#&;: \n=/aonjscriptht.x", max_size=200))
def test_no_text_makes_a_tag_that_is_not_allowed(text: str) -> None:
    assert_harmless(to_html(text))


def test_markdown_looks_like_markdown() -> None:
    html = to_html(
        "# A\n\n**b** *c* `d<e>` ~~f~~\n\n3. g\n\n> h\n\n|i|j|\n|-|-|\n|1|2|\n\n```python\nk = 1\n```\n<https://ok.example>"
    )
    for part in (
        *("<h1>A</h1>", "<strong>b</strong>", "<em>c</em>", "<code>d&lt;e&gt;</code>", "<s>f</s>", '<ol start="3">'),
        *(
            "<blockquote>",
            "<td>2</td>",
            'class="language-python"><span class="n">k</span>',
            'href="https://ok.example"',
        ),
    ):
        assert part in html


def test_code_of_a_known_language_is_coloured_and_of_any_other_only_shown() -> None:
    assert '<span class="k">for</span>' in to_html("```python\nfor i in x:\n```")
    for plainly in ("```c\nfor(;;)\n```", "```evil\nfor\n```", "```\nfor\n```", f"```python\n{'for ' * 3000}\n```"):
        assert "<span" not in to_html(plainly)
    assert 'class="err"' not in to_html("```python\n$x = 1\n```")


def test_formulas_that_are_not_to_be_typeset_are_text() -> None:
    assert "$" not in to_html(r"so $a$ and $$b$$", typeset=False).replace("<span>$</span>", "")
    assert "\\" not in to_html(r"so \(a\) and \[b\]", typeset=False).replace("<span>\\</span>", "")


def test_formulas_stay_as_written() -> None:
    for formula in ("$x_i^*y^*$", r"\(a_b*c*\)", r"\[ \frac{a}{b} \]", "$$a_1 *b* c_1$$", "$$\na\n- b\n= c\n$$"):
        assert formula in to_html(f"so {formula} holds") or f"<p>{formula}</p>" in to_html(formula)


@pytest.mark.parametrize(
    "command",
    [
        *(
            "def",
            "gdef",
            "let",
            "newcommand",
            "renewcommand",
            "newenvironment",
            "providecommand",
            "DeclareMathOperator",
        ),
        *("definecolor", "require", "label", "ref", "eqref", "href", "class", "cssId", "style", "bbox", "mmlToken"),
        *("htmlId", "includegraphics", "DeclarePairedDelimitersX", "newtagform", "mathtoolsset"),
    ],
)
@pytest.mark.parametrize("around", ["$%s$", "$$\n%s\n$$", r"\(%s\)", r"\begin{align}%s\end{align}", r"&#92;(%s\)"])
def test_a_formula_that_reaches_beyond_itself_is_text(around: str, command: str) -> None:
    """MathJax would keep it for all of the page, or make a link of it; an element's edge hides it."""
    assert f"<span>\\</span>{command}{{" in to_html(around % f"\\{command}{{a}}{{b}}")
    assert f"\\{command}" not in to_html((around % f"&#92;{command}{{a}}") + f" \\\\{command}{{b}}")


def test_a_command_that_only_begins_like_one_stays_a_formula() -> None:
    assert r"$\letx \reflectbox{a} \classy \styles$" in to_html(r"$\letx \reflectbox{a} \classy \styles$")


def test_prices_are_not_made_formulas() -> None:
    """MathJax looks for dollars in one run of text; an element between them hides them from it."""
    assert to_html("from $5 to $10") == "<p>from <span>$</span>5 to <span>$</span>10</p>\n"
    assert to_html(r"\$5 or \$6") == "<p><span>$</span>5 or <span>$</span>6</p>\n"


@pytest.mark.parametrize("piece", ["[", "![", "\\(a ", "\\[\n", "$$\n", "* a\n", ">", "a*b_", "|a|\n|-|\n", "[a]("])
def test_no_text_takes_long(piece: str) -> None:
    """The longest that is rendered at all; an interrupt waits for one rendering."""
    text = (piece * RICH_LIMIT_CHARS)[:RICH_LIMIT_CHARS]
    spent = min(_timed(text) for _ in range(3))
    assert spent < 2.0  # 0.1 s to 0.4 s on a quiet machine; a quadratic one takes minutes


def _timed(text: str) -> float:
    began = time.process_time()
    to_html(text)
    return time.process_time() - began


def test_beyond_the_limit_it_is_the_text_as_it_is() -> None:
    html = to_html("**a** <b> $\n" * RICH_LIMIT_CHARS)
    assert html.startswith("<pre>**a** &lt;b&gt; $\n"), "MathJax does not look into pre"


def test_a_bundle_is_never_markdown_and_its_own_parts_are_escaped() -> None:
    data = bundle("**a**\x1b[31m", "anna<script> · $5", "hm <b>\x07")
    assert set(data) == {"text/plain", "text/html"}
    assert data["text/plain"] == "**a**\n\nanna<script> · $5"
    assert "<strong>a</strong>" in data["text/html"]
    assert "anna&lt;script&gt; · <span>$</span>5" in data["text/html"] and "hm &lt;b&gt;</pre>" in data["text/html"]
    assert bundle("**a**", raw=True) == {"text/plain": "**a**"}


def test_our_own_lines_are_never_formulas() -> None:
    assert text_to_html(r"\(a\) $b$") == r"<span>\</span>(a<span>\</span>) <span>$</span>b<span>$</span>"


def test_longer_texts_are_drawn_less_often() -> None:
    assert [interval_s(chars) for chars in (0, 5_000, 60_000)] == [0.05, 0.05, 0.6]


def test_nothing_of_an_answer_is_edited_behind_the_sanitizer() -> None:
    hostile = '[x](http://a "<pre><code><img src=x onerror=alert(1)>")'
    assert_harmless(to_html(hostile))
    assert bundle(hostile)["text/html"].count(to_html(hostile)) == 1


@pytest.mark.parametrize("formula", ["x" * 3000, r"\left(" * 200 + "x" + r"\right)" * 200, "x^{" * 200 + "}" * 200])
def test_a_formula_that_would_hold_up_the_page_is_text(formula: str) -> None:
    assert f"${formula[:5]}" not in to_html(f"so ${formula}$ holds")


def test_a_bundle_clips_what_a_formula_paints_and_cuts_what_no_model_writes() -> None:
    data = bundle("$x$", "anna")
    assert data["text/html"].index("contain:paint") < data["text/html"].index("$x$") < data["text/html"].index("anna")
    assert all(len(each) < 300_000 for each in bundle("$" * 4_000_000).values())
