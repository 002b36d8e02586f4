"""Incremental word wrap of a growing text: adding a token changes only the last lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.cells import cell_len, get_character_cell_size, set_cell_size

from moe_watch.tui.state.tokens.stream_pieces import Piece
from moe_watch.tui.text.sanitize import inert

TAB = "⇥ "
_PARTS = re.compile(r" +|[^ ]+")


@dataclass(slots=True)
class PieceSpan:
    """Text of one piece on one line."""

    text: str
    piece: Piece
    mark: bool = False
    """The text is a marker, not the piece's text."""


@dataclass(slots=True)
class WrappedLine:
    """One wrapped line."""

    number: int
    """Number of the piece that the line begins with, counted from the first piece added."""
    runs: list[PieceSpan] = field(default_factory=list)
    rendered: object = None
    """Cache for the widget that draws the line; cleared when the line changes."""
    indent: int = 0
    """Blank cells before its text, so that wrapped text is indented like its first line."""
    rule: bool = False
    """The line is a horizontal rule between two contexts, over the whole width."""


HANGING_WIDTH = 8
"""Least width at which continued lines keep the indentation of their first line, up to half of the width."""


class TokenWrap:
    """Lines of at most `width` cells. Words that fit on a line are not broken."""

    def __init__(self, width: int) -> None:
        self.width = max(1, width)
        self.pieces = 0
        self.dropped = 0
        """Lines dropped from the front so far."""
        self.lines: list[WrappedLine] = [WrappedLine(0)]
        self._column = 0
        self._word: tuple[int, int, int] = (0, 0, 0)
        """Start of the incomplete word: index of its span, offset in that span's text, column."""
        self._indent = 0
        """Number of spaces that the current line of the text begins with."""
        self._leading = True
        """The current line has only spaces so far."""

    def add(self, piece: Piece, text: str) -> None:
        """Append a piece's text; newlines in it end lines."""
        for position, part in enumerate(text.split("\n")):
            if position:
                self.new_line()
            for word in _words(inert(part.replace("\t", TAB))):
                self._put(word, piece)
        self.pieces += 1

    def add_mark(self, piece: Piece, text: str) -> None:
        """Append a marker, unbroken; it is not counted as a piece."""
        if self._column and self._column + cell_len(text) > self.width:
            self.new_line()
        self._leading = False
        self._append(PieceSpan(set_cell_size(text, min(cell_len(text), self.width)), piece, mark=True))
        self._end_word()

    def add_rule(self, piece: Piece, text: str) -> None:
        """Append a rule on a separate line."""
        self.end_line()
        self.lines[-1].rule = True
        self._append(PieceSpan(text, piece, mark=True))
        self.new_line()

    def end_line(self) -> None:
        """Begin a new line, unless the current one is empty."""
        if self.lines[-1].runs:
            self.new_line()

    def new_line(self) -> None:
        """Begin the next line of the text."""
        self._indent, self._leading = 0, True
        self._begin_line(0)

    def _begin_line(self, indent: int) -> None:
        self.lines.append(WrappedLine(self.pieces, indent=indent))
        self._column = indent
        self._end_word()

    @property
    def _deepest(self) -> int:
        """Greatest indentation that leaves room for words, in cells."""
        return self.width // 2 if self.width >= HANGING_WIDTH else 0

    @property
    def _hanging(self) -> int:
        """Indentation of a line that continues the current one, in cells."""
        return min(self._indent, self._deepest)

    def drop_before(self, piece: int) -> None:
        """Drop lines that begin and end before the piece with this number."""
        last = len(self.lines) - 1
        keep = next((at for at in range(last) if self.lines[at + 1].number >= piece), last)
        if keep:
            del self.lines[:keep]
            self.dropped += keep

    def _put(self, word: str, piece: Piece) -> None:
        cells = cell_len(word)
        if word[0] == " ":
            self._append(PieceSpan(word[: self.width - self._column], piece))
            self._end_word()
            if self._leading:
                self._indent = self._column
            return
        self._leading = False
        start = self._word[2]
        whole = self._column - start + cells
        first = start == self._indent > self.lines[-1].indent
        if first and self._column + cells > self.width and self._indent > self._deepest:
            self._trim_indent()
        if self._column + cells <= self.width:
            self._append(PieceSpan(word, piece))
        elif not first and start > self.lines[-1].indent and self._hanging + whole <= self.width:
            self._carry_word()
            self._append(PieceSpan(word, piece))
        else:
            self._break_word(word, piece)
        if cells == 2 and len(word) == 1:
            self._end_word()

    def _append(self, run: PieceSpan) -> None:
        if not run.text:
            return
        self.lines[-1].rendered = None
        runs = self.lines[-1].runs
        if runs and runs[-1].piece is run.piece and runs[-1].mark == run.mark:
            runs[-1].text += run.text
        else:
            runs.append(run)
        if runs[-1].text == run.piece.text:
            runs[-1].text = run.piece.text  # one string in memory, not two
        self._column += cell_len(run.text)

    def _end_word(self) -> None:
        runs = self.lines[-1].runs
        self._word = (len(runs) - 1, len(runs[-1].text), self._column) if runs else (0, 0, 0)

    def _carry_word(self) -> None:
        """Move the incomplete word to the next line."""
        self.lines[-1].rendered = None
        runs = self.lines[-1].runs
        index, offset, _ = self._word
        first, tail = runs[index], runs[index + 1 :]
        carried = [PieceSpan(first.text[offset:], first.piece, first.mark)] if first.text[offset:] else []
        first.text = first.text[:offset]
        del runs[index + 1 :]
        self._begin_line(self._hanging)
        for run in carried + tail:
            self._append(run)

    def _trim_indent(self) -> None:
        """Remove spaces at the beginning of the line so that its first word fits, instead of leaving a blank line."""
        self.lines[-1].rendered = None
        surplus = self._indent - self._deepest
        index, offset, _ = self._word
        for at, run in enumerate(self.lines[-1].runs):
            taken = min(surplus, len(run.text))
            run.text = run.text[taken:]
            surplus -= taken
            if at == index:
                offset -= taken
        self._column -= self._indent - self._deepest
        self._indent = self._deepest
        self._word = (index, offset, self._indent)

    def _break_word(self, word: str, piece: Piece) -> None:
        """Break a word that is longer than a line over several lines."""
        for character in word:
            if self._column + get_character_cell_size(character) > self.width:
                self._begin_line(self._hanging)
            self._append(PieceSpan(character, piece))


def _words(text: str) -> Iterator[str]:
    """Yield words and runs of spaces; wide characters one by one, since lines may break around them."""
    for part in _PARTS.findall(text):
        if part.isascii():
            yield part
        else:
            yield from _wide_words(part)


def _wide_words(word: str) -> Iterator[str]:
    narrow = ""
    for character in word:
        if get_character_cell_size(character) == 2:
            if narrow:
                yield narrow
            narrow = ""
            yield character
        else:
            narrow += character
    if narrow:
        yield narrow
