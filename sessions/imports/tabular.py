"""Routing as CSV: one row per token and layer, `token,layer,expert_1,expert_2,…`.

The routing table of `moe-watch export` is of this form, too: `i` is the token there. Columns that are not about experts
are left out.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from routing.arrays import ABSENT, Ints
from routing.errors import UserError
from sessions.imports.traces import MAX_LAYER, ImportOptions, RoutedTrace, routed

TOKEN, LAYER, EXPERT, PHASE = ("token", "i"), ("layer",), "expert", "phase"
ADVICE = "give columns token, layer, expert_1, expert_2, …"
MAX_TOKENS = 1 << 24
"""Tokens × layers × experts per token are held in memory, whether there are rows for them or not."""
MAX_NUMBERS = 1 << 30


@dataclass(frozen=True, slots=True)
class _Row:
    token: int
    layer: int
    experts: list[int]
    prefill: bool | None
    """Whether the token is one of the prompt's; None if the file does not say."""


def read_csv(content: bytes, options: ImportOptions, where: str) -> RoutedTrace:
    """The routing in a CSV file. Rows may come in any order; what is missing was not observed.

    Raises:
        UserError: it is no such table.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 (byte {error.start})", advice=ADVICE) from error
    rows = list(_rows(text, where))
    if not rows:
        raise UserError(f"{where}: no rows", advice=ADVICE)
    layers = sorted({row.layer for row in rows})
    named = ImportOptions(experts=options.experts, layers=layers)
    shape, experts = routed(_table(rows, layers, where), named, where)
    prompt, warnings = _prompt(rows, options)
    return RoutedTrace("unknown", "a table of routing", shape, experts, min(prompt, len(experts)), warnings=warnings)


def _rows(text: str, where: str) -> Iterator[_Row]:
    try:
        reader = csv.reader(io.StringIO(text, newline=""))
        heading = [cell.strip().lower() for cell in next(reader, [])]
        token, layer = _column(heading, TOKEN, where), _column(heading, LAYER, where)
        experts = [at for at, name in enumerate(heading) if name.startswith(EXPERT)]
        if not experts:
            raise UserError(f"{where}, line 1: no column of experts", advice=ADVICE)
        phase = heading.index(PHASE) if PHASE in heading else None
        for cells in reader:
            if any(cell.strip() for cell in cells):
                line = f"{where}, line {reader.line_num}"
                if len(cells) != len(heading):
                    raise UserError(f"{line}: {len(cells)} cells instead of {len(heading)}", advice=ADVICE)
                yield _Row(
                    _number(cells[token], line, MAX_TOKENS),
                    _number(cells[layer], line, MAX_LAYER),
                    _experts([cells[at] for at in experts], line),
                    None if phase is None else cells[phase].strip() == "prefill",
                )
    except csv.Error as error:
        raise UserError(f"{where}: not CSV: {error}", advice=ADVICE) from error


def _table(rows: list[_Row], layers: list[int], where: str) -> Ints:
    """Expert ids `[T, L, k]`, tokens counted from the first one in the file."""
    first, last = min(row.token for row in rows), max(row.token for row in rows)
    shape = (last - first + 1, len(layers), len(rows[0].experts))
    if shape[0] * shape[1] * shape[2] > MAX_NUMBERS:
        raise UserError(f"{where}: tokens {first} to {last} are too many", advice="number tokens in a row")
    places = {layer: at for at, layer in enumerate(layers)}
    experts = np.full(shape, ABSENT, np.int64)
    taken = np.zeros(shape[:2], np.bool_)
    for row in rows:
        at = row.token - first, places[row.layer]
        if taken[at]:
            raise UserError(f"{where}: token {row.token} twice in layer {row.layer}", advice="give one run")
        taken[at], experts[at] = True, row.experts
    return experts


def _prompt(rows: list[_Row], options: ImportOptions) -> tuple[int, list[str]]:
    """Tokens of the prompt, and what to say about them."""
    first = min(row.token for row in rows)
    if options.prompt_tokens is not None:
        return options.prompt_tokens, []
    if rows[0].prefill is None:
        return 0, ["the table does not tell which tokens are the prompt's: all stand as generated"]
    decoded = min((row.token for row in rows if not row.prefill), default=max(row.token for row in rows) + 1)
    later = any(row.prefill and row.token > decoded for row in rows)
    return decoded - first, ["prefill after the first decode token stands as generated"] if later else []


def _column(heading: list[str], names: tuple[str, ...], where: str) -> int:
    found = next((heading.index(name) for name in names if name in heading), None)
    if found is None:
        raise UserError(f"{where}, line 1: no column called {names[0]}", advice=ADVICE)
    return found


def _experts(cells: list[str], where: str) -> list[int]:
    """The ids in a row; all empty means that the layer was not observed."""
    if not any(cell.strip() for cell in cells):
        return [ABSENT] * len(cells)
    return [_number(cell, where, MAX_LAYER) for cell in cells]


def _number(cell: str, where: str, most: int) -> int:
    text = cell.strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 12 or int(text) > most:
        raise UserError(f"{where}: {cell[:40]!r} is no index", advice=ADVICE)
    return int(text)
