"""Word wrap of sentences, by terminal cells."""

from __future__ import annotations

from rich.cells import cell_len, chop_cells

SENTENCE_LIMIT = 400
"""Characters shown of a message from a worker, a model or a file; eight rows at the least width."""


def wrapped(sentence: str, width: int) -> list[str]:
    """Return the lines of a sentence, at least one, each at most `width` cells wide; a word that is wider is broken."""
    lines: list[str] = []
    line = ""
    for word in sentence.split():
        longer = f"{line} {word}" if line else word
        if cell_len(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        *full, line = chop_cells(word, max(2, width))  # a wide character needs two
        lines += full
    return [*lines, line] if line or not lines else lines
