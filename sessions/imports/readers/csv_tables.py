"""Readers of CSV files: a row per token and layer, per slot, per selection, or per expert.

`token,layer,expert_1,expert_2,…` is the routing table of `moe-watch export`, with `i` for the token. BigMoeOnEdge's
route trace has one row per slot, after comment lines with the model's numbers; forks of llama.cpp's `moe-trace` write
`phase,token,layer,rank,expert`. The `moe-trace` example of llama.cpp (pull request 28544) writes `layer,expert` for
every selection; SGLang's recorder of early 2025 wrote `layer_id,expert_id,count`. Columns are found by name; all other
columns are ignored.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.document import Document
from moe_watch.sessions.imports.readers.rows import Row, trace_of
from moe_watch.sessions.imports.readers.sparse_counts import counts_trace
from moe_watch.sessions.imports.traces import (
    MAX_LAYER,
    CountedTrace,
    ImportOptions,
    RoutedTrace,
    known_experts_per_token,
)
from moe_watch.sessions.reading.multipart import shown

TOKEN, LAYER, EXPERT, PHASE = ("token", "i"), ("layer",), "expert", "phase"
STEP, SLOT = ("step", "token", "i"), ("slot", "rank")
SELECTION = ["layer", "expert"]
COUNTS = ["layer_id", "expert_id", "count"]
ADVICE = "give columns token, layer, expert_1, expert_2, …"
DELIMITERS = (",", ";", "\t")
MAX_TOKENS = 1 << 24
MAX_COUNT = 1 << 53
EXPERT_COLUMN = re.compile(r"expert(?:_?\d+)?")
FACT = re.compile(r"(?:^|\s)(\w+)=(\S+)")
NO_ORDER = "one row per selection without its token: only counts are imported"


@dataclass(frozen=True, slots=True)
class _Line:
    """One row of a CSV file."""

    where: str
    cells: list[str]


def heading_of(document: Document) -> list[str]:
    """Return the names of a CSV file's columns, in lower case; empty if it is not text."""
    line = _first_line(document)
    try:
        return [cell.strip().lower() for cell in next(csv.reader([line], delimiter=_delimiter(line)), [])]
    except csv.Error:
        return []


def _first_line(document: Document) -> str:
    return next((line for line in document.text.split("\n") if line.strip() and not line.startswith("#")), "")


def _delimiter(heading: str) -> str:
    """Return the character between cells; column names contain none of `DELIMITERS`."""
    return next((each for each in DELIMITERS if each in heading), ",")


def is_wide(document: Document) -> bool:
    """Return whether a file has a row per token and layer; some of the columns are enough."""
    heading = heading_of(document)
    some = {*TOKEN, *LAYER} & {*heading} or any(EXPERT_COLUMN.fullmatch(name) for name in heading)
    return bool(some) and not (is_slots(document) or is_selections(document) or is_counts(document))


def is_slots(document: Document) -> bool:
    """Return whether a file has a row per slot, as BigMoeOnEdge's route trace."""
    heading = {*heading_of(document)}
    return {"layer", EXPERT} <= heading and bool(heading & {*STEP}) and bool(heading & {*SLOT})


def is_selections(document: Document) -> bool:
    """Return whether a file has a row per selection."""
    return heading_of(document) == SELECTION


def is_counts(document: Document) -> bool:
    """Return whether a file has a row per layer and expert."""
    return heading_of(document) == COUNTS


def read_wide(document: Document, options: ImportOptions) -> RoutedTrace:
    """Read a row per token and layer. Rows may be in any order; missing rows were not observed.

    Raises:
        UserError: it is not such a table.
    """
    where = str(document.path)
    heading = _checked_heading(document)
    token, layer = _column(heading, TOKEN, where), _column(heading, LAYER, where)
    experts = [at for at, name in enumerate(heading) if EXPERT_COLUMN.fullmatch(name)]
    if not experts:
        raise UserError(f"{where}, line 1: no column of experts", advice=ADVICE)
    phase = heading.index(PHASE) if PHASE in heading else None
    rows = [
        Row(
            _number(line.cells[token], line.where, MAX_TOKENS),
            _number(line.cells[layer], line.where, MAX_LAYER),
            _experts([line.cells[at] for at in experts], line.where),
            None if phase is None else line.cells[phase],
            line.where,
        )
        for line in _lines(document, heading)
    ]
    if not rows:
        raise UserError(f"{where}: no rows", advice=ADVICE)
    if len(experts) == 1:
        rows = _merged(rows, options)
    return trace_of(rows, options, where, engine="unknown", what="a table of routing")


def _checked_heading(document: Document) -> list[str]:
    """Return the names of the columns.

    Raises:
        UserError: a name occurs twice, so that one of the two columns would be read as something else, or not at all.
    """
    heading = heading_of(document)
    if repeated := [name for name, times in Counter(heading).items() if name and times > 1]:
        raise UserError(
            f"{document.path}, line 1: column {repeated[0][:40]!r} occurs twice", advice="remove or rename one of them"
        )
    return heading


def _merged(rows: list[Row], options: ImportOptions) -> list[Row]:
    """Merge rows of one expert each into rows of a token's experts. Two runs in one file would look the same.

    Raises:
        UserError: a token has several rows in a layer, and the user did not give the experts per token.
    """
    found: dict[tuple[int, int], Row] = {}
    for row in rows:
        first = found.setdefault((row.token, row.layer), row)
        if first is row:
            continue
        if options.experts_per_token in (None, 1):
            what = f"{row.where}: token {row.token} twice in layer {row.layer}"
            raise UserError(what, advice="give one run, or use --experts-per-token N if each row has one expert")
        first.experts.extend(row.experts)
    return list(found.values())


def read_slots(document: Document, options: ImportOptions) -> RoutedTrace:
    """Read a row per slot. In BigMoeOnEdge's trace phase 0 is prefill, 1 decode, and `step` the context position.

    Raises:
        UserError: it is damaged, or has several turns.
    """
    where = str(document.path)
    heading = _checked_heading(document)
    facts = _facts(document)
    step, layer, slot, expert = (_column(heading, names, where) for names in (STEP, LAYER, SLOT, (EXPERT,)))
    known = heading[step] == "step"
    turn = heading.index("turn") if "turn" in heading else None
    phase = heading.index(PHASE) if PHASE in heading else None
    slots: dict[tuple[int, int], dict[int, int]] = {}
    phases: dict[tuple[int, int], tuple[str | None, str]] = {}
    for line in _of_turn(list(_lines(document, heading)), turn, options, where):
        number = [_number(line.cells[at], line.where, MAX_TOKENS) for at in (step, layer, slot, expert)]
        ids = slots.setdefault((number[0], number[1]), {})
        if number[2] in ids:
            what = f"{line.where}: slot {number[2]} of token {number[0]} twice in layer {number[1]}"
            raise UserError(what, advice="give one run")
        ids[number[2]] = number[3]
        here = None if phase is None else line.cells[phase].strip().casefold()
        if phases.setdefault((number[0], number[1]), (here, line.where))[0] != here:
            raise UserError(f"{line.where}: token {number[0]} has two phases", advice="give one run")
    if not slots:
        raise UserError(f"{where}: no rows", advice="give a trace of --route-trace")
    chosen = known_experts_per_token(options, where, _fact(facts, "n_expert_used") or max(map(max, slots.values())) + 1)
    rows = [Row(*place, _in_order(slots[place], chosen, phases[place][1]), *phases[place]) for place in sorted(slots)]
    model = facts.get("model")
    return trace_of(
        rows,
        options,
        where,
        engine="BigMoeOnEdge" if known else "unknown",
        what="BigMoeOnEdge's route trace" if known else "a table of routing by slot",
        model=model.replace("\\", "/").rsplit("/", 1)[-1] if model else None,
        experts=_fact(facts, "n_expert"),
        numbered_phase=known,
    )


def read_selections(document: Document, options: ImportOptions) -> CountedTrace:
    """Read one `layer,expert` row per selection as counts: rows do not name their tokens.

    Raises:
        UserError: it is damaged, or does not fit the number of experts.
    """
    counts: dict[tuple[int, int], int] = {}
    for line in _lines(document, SELECTION):
        if [cell.strip().lower() for cell in line.cells] == SELECTION:  # traces are merged with `cat`
            continue
        place = _number(line.cells[0], line.where, MAX_LAYER), _number(line.cells[1], line.where, MAX_LAYER)
        counts[place] = counts.get(place, 0) + 1
    what = "llama.cpp's moe-trace"
    return counts_trace(counts, options, str(document.path), engine="llama.cpp", what=what, warnings=[NO_ORDER])


def read_counts(document: Document, options: ImportOptions) -> CountedTrace:
    """Read `layer_id,expert_id,count`; an expert without a row was never selected.

    Raises:
        UserError: it is damaged, or does not fit the number of experts.
    """
    counts: dict[tuple[int, int], int] = {}
    for line in _lines(document, COUNTS):
        place = _number(line.cells[0], line.where, MAX_LAYER), _number(line.cells[1], line.where, MAX_LAYER)
        if place in counts:
            raise UserError(f"{line.where}: expert {place[1]} of layer {place[0]} twice", advice="give one dump")
        counts[place] = _number(line.cells[2], line.where, MAX_COUNT)
    what = "a table of counts per expert"
    return counts_trace(counts, options, str(document.path), engine="SGLang", what=what)


def _lines(document: Document, heading: list[str]) -> Iterator[_Line]:
    """Yield the rows below the heading, each of its width; comments and blank lines are left out."""
    path = document.path
    numbered = [
        (number, line)
        for number, line in enumerate(document.text.split("\n"), 1)
        if line.strip() and not line.startswith("#")
    ]
    delimiter = _delimiter(_first_line(document))
    reader = csv.reader((line for _, line in numbered), delimiter=delimiter, strict=True)
    try:
        for at, cells in enumerate(reader):
            if at and any(cell.strip() for cell in cells):
                where = f"{path}, line {numbered[min(reader.line_num, len(numbered)) - 1][0]}"
                if len(cells) != len(heading):
                    raise UserError(f"{where}: {len(cells)} cells instead of {len(heading)}", advice=ADVICE)
                yield _Line(where, cells)
    except csv.Error as error:
        raise UserError(f"{path}: not CSV: {error}", advice=ADVICE) from error


def _of_turn(lines: list[_Line], turn: int | None, options: ImportOptions, where: str) -> list[_Line]:
    """Return the rows of one turn of a conversation."""
    if turn is None:
        return lines
    turns = sorted({_number(line.cells[turn], line.where, MAX_TOKENS) for line in lines})
    if options.run is None and len(turns) > 1:
        named = ", ".join(map(str, turns[:8])) + (", …" if len(turns) > 8 else "")
        raise UserError(f"{where}: BigMoeOnEdge's route trace of turns {named}", advice="choose one with --run TURN")
    chosen = turns[0] if options.run is None and turns else options.run
    found = [line for line in lines if int(line.cells[turn]) == chosen]
    if lines and not found:
        raise UserError(f"{where}: no turn {chosen}", advice=f"use one of {', '.join(map(str, turns[:8]))}")
    return found


def _facts(document: Document) -> dict[str, str]:
    """Return the facts about the model in the comments before the heading."""
    found: dict[str, str] = {}
    for line in document.text.split("\n"):
        if line.strip() and not line.startswith("#"):
            break
        if "n_expert" in line or "model=" in line:
            found |= {match[1]: match[2] for match in FACT.finditer(line[1:])}
    return found


def _fact(facts: dict[str, str], name: str) -> int | None:
    value = facts.get(name, "")
    return int(value) if value.isascii() and value.isdigit() and 0 < len(value) < 7 and int(value) else None


def _in_order(slots: dict[int, int], chosen: int, where: str) -> list[int]:
    if sorted(slots) != list(range(chosen)):
        what = f"{where}: slots {', '.join(map(str, sorted(slots)))}, but a token has {chosen} experts"
        raise UserError(what, advice="give the trace as it was written")
    return [slots[slot] for slot in range(chosen)]


def _column(heading: list[str], names: tuple[str, ...], where: str) -> int:
    found = next((heading.index(name) for name in names if name in heading), None)
    if found is None:
        there = ", ".join(shown(each[:24]) for each in heading[:8])
        raise UserError(f"{where}, line 1: no column called {names[0]} among {there or 'none'}", advice=ADVICE)
    return found


def _experts(cells: list[str], where: str) -> list[int]:
    """Return the ids in a row; -1 if all cells are empty: the layer was not observed."""
    if not any(cell.strip() for cell in cells):
        return [-1] * len(cells)
    return [_number(cell, where, MAX_LAYER) for cell in cells]


def _number(cell: str, where: str, most: int) -> int:
    text = cell.strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 16 or int(text) > most:
        raise UserError(f"{where}: {cell[:40]!r} is not an index", advice=ADVICE)
    return int(text)
