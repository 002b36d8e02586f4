"""Rows and descriptions of recorded sessions. Text from files is untrusted and is made inert."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size
from textual.content import Content

from moe_watch.sessions.library.listing import Entry, Preview
from moe_watch.sessions.library.scanning import Condition
from moe_watch.sessions.text import plural, routers_text
from moe_watch.tui.text.format import NOT_AVAILABLE, count, number, size
from moe_watch.tui.text.sanitize import inert, one_line

GAP = 2
NAME_LEAST = 16
_COLUMNS: tuple[tuple[str, int], ...] = (
    ("begun (UTC)", 16),
    ("tokens", 9),
    ("size", 8),
    ("model", 16),
    ("half-life", 14),
    ("file", 11),
)
"""Titles and widths of the columns after the name; a narrow list drops `_OPTIONAL` ones, in their order."""
_OPTIONAL = ("model", "half-life", "size", "begun (UTC)")
_RIGHT = frozenset({"tokens", "size"})
_STYLES: dict[Condition, str] = {
    "whole": "$success",
    "failed": "$warning",
    "unfinished": "$foreground 60%",
    "torn": "$warning",
    "unreadable": "$error",
}
_ENDS = {
    "eos": "end of text",
    "length": "token limit reached",
    "context": "the context was full",
    "user": "stopped by the user",
}


def columns(width: int) -> list[tuple[str, int]]:
    """Return titles and widths of the columns that fit a list of this width."""
    shown, left = list(_COLUMNS), list(_OPTIONAL)
    while left and _name_width(width, shown) < NAME_LEAST:
        dropped = left.pop(0)
        shown = [column for column in shown if column[0] != dropped]
    return shown


def head(width: int) -> Content:
    """Return the titles above a list of this width."""
    return Content.styled(_line("name", {title: title for title, _ in _COLUMNS}, width), "$foreground 60%")


def row(entry: Entry, width: int, *, present: bool = False, running: bool = False) -> Content:
    """Return the row of a session; `present`: it is on the dashboard; `running`: it is being recorded."""
    name = f"● {entry.name}" if present else entry.name
    recorded = present and running and entry.condition == "unfinished"
    cells = _cells(entry) | ({"file": "recording"} if recorded else {})
    line = _line(one_line(name, 200), cells, width)
    style = "$accent" if recorded else _STYLES[entry.condition]
    end = len(line) - _COLUMNS[-1][1]
    return Content.assemble(line[:end], (line[end:], style))


def _cells(entry: Entry) -> dict[str, str]:
    facts = entry.facts
    found = {"size": size(entry.size), "file": entry.condition}
    if facts is None:
        return found
    return found | {
        "begun (UTC)": inert(facts.created[:16]).replace("T", " "),
        "tokens": count(facts.tokens),
        "model": one_line(facts.model, 16),
        "half-life": half_life(entry),
    }


def half_life(entry: Entry) -> str:
    """Return the half-life, or the verdict, in a word or two."""
    found = entry.facts.half_life if entry.facts else None
    if found is None or found.verdict is None:
        return NOT_AVAILABLE
    return found.verdict if found.half_life is None else f"{number(found.half_life, 1)} chunks"


def _line(name: str, cells: dict[str, str], width: int) -> str:
    shown = columns(width)
    parts = [set_cell_size(name, max(1, _name_width(width, shown)))]
    for title, cells_wide in shown:
        text = cells.get(title, NOT_AVAILABLE)
        fill = " " * max(0, cells_wide - cell_len(text))
        parts.append(fill + text if title in _RIGHT else set_cell_size(text, cells_wide))
    return (" " * GAP).join(parts)


def _name_width(width: int, shown: list[tuple[str, int]]) -> int:
    return width - sum(cells + GAP for _, cells in shown)


def description(entry: Entry, *, running: bool = False) -> Content:
    """Return the facts of a session, one line each; `running`: it is being recorded."""
    lines = [Content.styled(one_line(entry.path.name, 200), "bold")]
    facts = entry.facts
    if facts is not None:
        quantization = f" {one_line(facts.quantization, 24)}" if facts.quantization else ""
        shape = routers_text(len(facts.layers), facts.experts, facts.experts_per_token)
        lines.append(Content(f"{one_line(facts.model)}{quantization} on {one_line(facts.backend, 24)} · {shape}"))
        ended = "being recorded now" if running else "no end is recorded"
        if facts.ended is not None:
            ended = f"ended: {_ENDS.get(facts.ended, one_line(facts.ended))}"
        lines.append(Content(f"{plural(facts.tokens, 'token')} · {plural(facts.chunks, 'chunk')} · {ended}"))
        lines.append(Content(f"pressure: {one_line(facts.half_life.words, 200)}"))
        if facts.continues is not None:
            lines.append(Content(f"continues {one_line(facts.continues)}"))
    if entry.problem:
        lines.append(Content.styled(one_line(entry.problem, 300), "$warning"))
    return Content("\n").join(lines)


def beginning(found: Preview) -> Content:
    """Return the beginning of the text."""
    text = "\n".join(inert(line.replace("\t", "    ")) for line in found.text.split("\n"))
    return Content(f"{text}…" if found.cut else text)
