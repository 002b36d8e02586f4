"""Tables on standard output. Widths are in terminal cells, so wide characters do not shift columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence

GAP = 2
"""Width between two columns, in cells."""


def table_lines(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> list[str]:
    """Return the rows of a table as lines of text.

    Args:
        rows: cells `[rows, columns]`, the heading first. They may contain untrusted text.
        right: indices of the right-aligned columns.
    """
    from rich.cells import cell_len, set_cell_size

    from moe_watch.tui.text.sanitize import inert

    shown = [[inert(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=True)]

    def placed(at: int, cell: str) -> str:
        return " " * (widths[at] - cell_len(cell)) + cell if at in right else set_cell_size(cell, widths[at])

    return [(" " * GAP).join(placed(at, cell) for at, cell in enumerate(row)).rstrip() for row in shown]
