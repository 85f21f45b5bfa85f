"""Hostile text: what acts on a terminal or misleads a reader goes, everything else stays."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpc_jupyter.sanitize import label, plain

ATTACKS = {
    "colour": ("\x1b[31mred\x1b[0m", "red"),
    "clear the screen": ("a\x1b[2J\x1b[Hb", "ab"),
    "move up and overwrite": ("safe\x1b[1A\x1b[2Kevil", "safeevil"),
    "256 colours": ("\x1b[38;5;196mx", "x"),
    "colon parameters": ("\x1b[38:2::1:2:3mx", "x"),
    "private mode": ("\x1b[?1049hx\x1b[?25l", "x"),
    "device status, answered into the shell": ("\x1b[6nx\x1b[c", "x"),
    "window title by bel": ("\x1b]0;owned\x07x", "x"),
    "window title by st": ("\x1b]2;owned\x1b\\x", "x"),
    "clipboard": ("\x1b]52;c;cm0gLXJmIC8=\x07x", "x"),
    "a link that lies": ("\x1b]8;;http://evil.example\x1b\\bank\x1b]8;;\x1b\\", "bank"),
    "an unfinished title": ("x\x1b]0;never ends", "x"),
    "dcs": ("\x1bP+q544e\x1b\\x", "x"),
    "sos": ("\x1bXhidden\x1b\\x", "x"),
    "pm": ("\x1b^hidden\x1b\\x", "x"),
    "apc, kitty graphics": ("\x1b_Gf=100;AAAA\x1b\\x", "x"),
    "character set": ("\x1b(0x", "x"),
    "reset": ("\x1bcx", "x"),
    "esc alone at the end": ("x\x1b", "x"),
    "esc esc": ("\x1b\x1b[31mx", "x"),
    "esc within esc": ("\x1b[3\x1b[31m1mx", "31mx"),
    "esc put together from halves": ("\x1b\x1b\x1b[[31mx", "31mx"),
    "c1 csi": ("\x9b31mx", "31mx"),
    "c1 osc": ("\x9d0;t\x9cx", "0;tx"),
    "bell": ("\x07x\x07", "x"),
    "backspaces": ("rm -rf /\x08\x08\x08", "rm -rf /"),
    "nul": ("a\0b", "ab"),
    "delete": ("a\x7fb", "ab"),
    "carriage return hides a line": ("evil\rgood", "evil\ngood"),
    "windows lines": ("a\r\nb", "a\nb"),
    "vertical tab and form feed": ("a\x0bb\x0cc", "abc"),
    "right-to-left override": ("invoice\u202egpj.exe", "invoicegpj.exe"),
    "isolates (trojan source)": ("a\u2066b\u2069c\u2067\u2068", "abc"),
    "marks": ("\u200ea\u200f\u061c", "a"),
    "zero width space": ("pay\u200bpal", "paypal"),
    "word joiner": ("pay\u2060pal", "paypal"),
    "byte order mark": ("\ufeffx", "x"),
    "line and paragraph separator": ("a\u2028b\u2029c", "abc"),
    "tag characters": ("hi\U000e0041\U000e0042\U000e007f", "hi"),
    "lone surrogates": ("a\ud800b\udfff", "ab"),
    "next line": ("a\x85b", "ab"),
}


@pytest.mark.parametrize(("hostile", "kept"), ATTACKS.values(), ids=ATTACKS)
def test_what_acts_or_misleads_is_dropped(hostile: str, kept: str) -> None:
    assert plain(hostile) == kept


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain words, with punctuation: <b>&amp;</b> `code` $x$ [a](b) \\ | ~",
        "tabs\tand\nnewlines\n",
        "Grüße, 你好, שלום, مرحبا, हिन्दी, ไทย",
        "👩‍👩‍👧‍👦 👍🏽 🇨🇭 e\u0301 ﷽",
        "nbsp\xa0and hyphen\u2011ation",
        "[31m without its esc is only text",
        "\U0001d518\U0001d52b (fraktur)",
    ],
)
def test_printable_text_stays_as_it_is(text: str) -> None:
    assert plain(text) == text


@given(st.text(alphabet=st.characters(codec=None, categories=None) | st.sampled_from("\x1b\x9b[]\\;m0\x07\r\n\u202e")))
def test_nothing_that_a_terminal_obeys_is_left_of_any_text(text: str) -> None:
    cleaned = plain(text)
    assert all(char in "\t\n" or unicodedata.category(char) not in ("Cc", "Cs") for char in cleaned)
    assert not set(cleaned) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")
    assert plain(cleaned) == cleaned
    cleaned.encode("utf-8")


@given(st.text(alphabet=st.sampled_from("\x1b[]PX^_\\\x07 0;m?az\r\n\x9b")))
def test_escape_sequences_cannot_be_put_together_from_pieces(text: str) -> None:
    assert not set(plain(text)) & set("\x1b\x07\x9b\r")


@given(st.text(), st.integers(1, 80))
def test_a_cut_text_is_not_longer_than_its_limit(text: str, limit: int) -> None:
    assert len(plain(text, limit)) <= limit
    assert len(label(text, limit)) <= limit


def test_a_cut_is_marked() -> None:
    assert plain("x" * 10, 4) == "xxx…"
    assert plain("xxxx", 4) == "xxxx"


@given(st.text())
def test_a_label_is_one_line(text: str) -> None:
    assert len(label(text).splitlines()) <= 1
    assert not set(label(text)) & set("\n\t\r")


def test_a_label_cannot_fake_a_second_line_or_another_peer() -> None:
    assert label("  anna \r\n [ok]\tadmin\x1b[8m ") == "anna [ok] admin"
    assert label("\u202ealice") == "alice"
    assert label("x" * 1000) == "x" * 63 + "…"


@pytest.mark.parametrize(
    "text",
    ["\x1b" * 500_000, "\x1b[" * 300_000, "\x1b[" + "0" * 500_000, "\x1b]" * 300_000, "\x1b[" + " " * 500_000,
     "\x1b[0 " * 200_000, "\x1b]" + "x" * 500_000, "\x1b]" + "\x1b" * 300_000],
    ids=["esc", "csi", "long csi", "osc", "blanks", "many", "long osc", "osc esc"],
)  # fmt: skip
def test_a_megabyte_of_escapes_is_cleaned_in_time_that_grows_with_its_length(text: str) -> None:
    assert "\x1b" not in plain(text)
