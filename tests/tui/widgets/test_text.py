"""Word wrap and sanitizing of text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from moe_watch.tui.state.tokens.stream_pieces import Piece
from moe_watch.tui.text.sanitize import inert, one_line
from moe_watch.tui.widgets.panels.token_wrap import TokenWrap


def wrapped(tokens, width):
    wrap = TokenWrap(width)
    for i, text in enumerate(tokens):
        wrap.add(Piece("generated", text, i), text)
    return [" " * line.indent + "".join(run.text for run in line.runs) for line in wrap.lines]


@pytest.mark.parametrize(
    ("raw", "safe"),
    [
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("\x07\x00\r\x7f", "␇␀␍␡"),
        ("a\x9b2Jb", "a⟨009B⟩2Jb"),
        ("\x1b]0;title\x07", "␛]0;title␇"),
        ("abc\u202edef", "abc⟨202E⟩def"),
        ("zero\u200bwidth\ufeff", "zero⟨200B⟩width⟨FEFF⟩"),
        ("soft\u00adhyphen", "soft⟨00AD⟩hyphen"),
        ("tag\U000e0041", "tag⟨E0041⟩"),
        ("❤\ufe0f", "❤⟨FE0F⟩"),
        ("[bold]not markup[/]", "[bold]not markup[/]"),
        ("ünïcödé 漢字 ✓", "ünïcödé 漢字 ✓"),
        ("e\u0301", "e\u0301"),
        ("\u0301x", "⟨0301⟩x"),
    ],
)
def test_nothing_in_a_text_acts(raw, safe):
    assert inert(raw) == safe


def test_a_pile_of_combining_marks_is_cut_down():
    assert inert("e" + "\u0301" * 50).count("⟨0301⟩") == 47


@given(st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_inert_text_has_only_characters_that_can_be_seen(text):
    safe = inert(text)
    assert not any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in safe)
    assert inert(safe) == safe


def test_one_line_says_that_it_was_cut():
    assert one_line("a\nb" * 50, 10) == "a␊ba␊ba␊b…"


@pytest.mark.parametrize(
    ("tokens", "width", "expected"),
    [
        (["The", " quick", " brown", " fox"], 11, ["The quick ", "brown fox"]),
        (["pho", "to", "syn", "thesis is"], 14, ["photosynthesis", "is"]),
        (["a pho", "to", "graph"], 8, ["a photog", "raph"]),
        (["one\n", "\n", "two"], 10, ["one", "", "two"]),
        (["x" * 25], 10, ["x" * 10, "x" * 10, "x" * 5]),
        (["漢字漢字漢字"], 5, ["漢字", "漢字", "漢字"]),
        (["    indented"], 20, ["    indented"]),
        (["a\tb"], 20, ["a⇥ b"]),
        (["ends here   ", "next"], 9, ["ends here", "next"]),
        (["\r\n", "x"], 5, ["␍", "x"]),
        (["    one", " two", " three"], 12, ["    one two ", "    three"]),
        (["  ", "  one two\n", "three", " four"], 9, ["    one ", "    two", "three ", "four"]),
        ([" " * 16, "pho", "to", "graph"], 20, [" " * 10 + "photograph"]),
        ([" " * 16 + "photograph"], 20, [" " * 10 + "photograph"]),
        ([" " * 16, "photo", "graphers"], 20, [" " * 10 + "photograph", " " * 10 + "ers"]),
        ([" " * 40 + "x"], 20, [" " * 10 + "x"]),
        (["   abc", "def"], 5, ["abcde", "f"]),
    ],
    ids=[
        "words",
        "token-parts",
        "carry",
        "newlines",
        "long",
        "wide",
        "indent",
        "tab",
        "spaces",
        "crlf",
        "hanging",
        "hanging-ends-with-the-line",
        "deep-indent-in-parts",
        "deep-indent",
        "word-wider-than-the-room",
        "deeper-than-the-line",
        "too-narrow-to-hang",
    ],
)
def test_wrapping(tokens, width, expected):
    assert wrapped(tokens, width) == expected


tokens = st.lists(st.text(alphabet="ab 漢é\n", max_size=7), max_size=40)


@given(tokens, st.integers(4, 20))
@settings(max_examples=150, deadline=None)
def test_no_line_is_too_wide_and_no_letter_is_lost(texts, width):
    lines = wrapped(texts, width)
    assert all(cell_len(line) <= width for line in lines)
    letters = "".join("".join(texts).split())
    assert "".join("".join(lines).split()) == letters


@given(tokens, st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_token_by_token_gives_the_same_lines_as_all_at_once(texts, more):
    """Words are short enough for any indentation: the end of a longer word is unknown when its beginning is placed."""
    width = 2 * max([4, *(cell_len(word) for word in "".join(texts).split())]) + more
    assert wrapped(texts, width) == wrapped(["".join(texts)], width)


def test_adding_a_token_leaves_finished_lines_as_they_are():
    wrap = TokenWrap(20)
    for i in range(200):
        wrap.add(Piece("generated", " word", i), " word")
    before = [id(line) for line in wrap.lines[:-1]]
    wrap.add(Piece("generated", " word", 200), " word")
    assert [id(line) for line in wrap.lines[: len(before)]] == before


def test_old_lines_are_dropped_and_counted():
    wrap = TokenWrap(10)
    for i in range(100):
        wrap.add(Piece("generated", "12345678\n", i), "12345678\n")
    wrap.drop_before(40)
    assert wrap.dropped == 40
    assert wrap.lines[0].runs[0].piece.i == 40
    assert len(wrap.lines) == 61


@given(tokens, st.integers(2, 40))
@settings(max_examples=150, deadline=None)
def test_a_line_is_blank_only_where_the_text_has_a_blank_one(texts, width):
    blank = sum(not line.strip() for line in "".join(texts).split("\n"))
    assert sum(not line.strip() for line in wrapped(texts, width)) <= blank
