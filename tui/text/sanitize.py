"""Sanitizer of text from models and files: every character is shown, and none acts on the terminal.

A terminal obeys control characters, and bidirectional or invisible characters make a line read differently from its
contents. Each such character is replaced by a visible one.
"""

from __future__ import annotations

import re
import unicodedata

from rich.cells import cell_len, set_cell_size

COMBINING_LIMIT = 3
"""Combining marks kept on one base character; more of them would cover the neighbouring lines."""

_CONTROL_PICTURES = 0x2400
_COMBINING = frozenset({"Mn", "Me", "Mc"})
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Letters and marks without a glyph: fillers, joiners, variation selectors."""
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"})


def inert(text: str) -> str:
    """Return `text` with every control, format and invisible character replaced by a visible one.

    C0 controls become control pictures such as `␛`, other hidden characters their code point, such as `⟨202E⟩`.
    Newlines are replaced too: callers that wrap lines split at them first.
    """
    if text.isascii() and text.isprintable():
        return text
    shown: list[str] = []
    marks = 0
    for character in text:
        combining = cell_len(character) == 0
        marks = marks + 1 if combining else 0
        hidden = _is_hidden(character) or (combining and (marks > COMBINING_LIMIT or not shown))
        shown.append(_substitute(character) if hidden else character)
    return "".join(shown)


def is_inert(text: str) -> bool:
    """Return whether a fast check finds no control, format or invisible character; it may reject harmless text."""
    return text.isprintable() and (text.isascii() or _INVISIBLE.search(text) is None)


def one_line(text: str, limit: int = 80) -> str:
    """Return `text` inert and cut to `limit` terminal cells, for titles, messages and tables."""
    safe = inert(text[: limit + 1])
    return safe if cell_len(safe) <= limit else f"{set_cell_size(safe, limit - 1).rstrip()}…"


def _is_hidden(character: str) -> bool:
    category = unicodedata.category(character)
    invisible = cell_len(character) == 0 and category not in _COMBINING
    return category in _HIDDEN or invisible or _INVISIBLE.match(character) is not None


def _substitute(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(_CONTROL_PICTURES + code)
    if code == 0x7F:
        return "␡"
    return f"⟨{code:04X}⟩"
