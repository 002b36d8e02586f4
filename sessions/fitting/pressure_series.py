"""Reader of P_mid series without a session: CSV, a JSON list, or ChronoMoE's result files.

Such files are untrusted: any content gives numbers or a `UserError`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from math import isfinite
from pathlib import Path

from moe_watch.routing.errors import UserError
from moe_watch.routing.pressure.formulas import Mode

MAX_BYTES = 16 * 1024 * 1024
"""Size limit of a file with a series; a larger file holds something else."""
LARGEST = 1e100
"""Largest value; squares of larger ones overflow."""

MID_COLUMNS = ("mid", "p_mid", "mid_pressure", "mid_pressures", "pressure_mid", "pressures_mid", "pressure", "p")
"""Names of a CSV column with mid-pressure, in order of preference; case does not matter."""
POSITION_COLUMNS = ("chunk", "index", "chunk_index", "chunks")
LEFT_OUT_COLUMNS = ("warm_up", "partial")
"""Columns that exclude a row from the fit if true."""
FALSE = frozenset({"", "0", "false", "no"})
DELIMITERS = ("\t", ";", ",")

REFERENCE_MODE: Mode = "chronomoe-v1"
OWN_KEY = "session_chunks"
"""Key in a trajectory of moe-watch's measurement, which names its mode once for all runs."""

FORMS = "give a session, a CSV column, a JSON list of numbers, or JSON with trajectory.mid_pressures"


@dataclass(frozen=True, slots=True)
class PressureSeries:
    """Mid-pressure by chunk, in order."""

    mid: list[float]
    positions: list[int] | None = None
    """Index of each chunk, if the file has it."""
    mode: str | None = None
    """Pressure mode, if the file names it."""
    entropies: list[float] | None = None
    """Router entropy of the same chunks, if the file has it."""


def parse_series(content: bytes, name: str) -> PressureSeries:
    """Parse the series in a file's content.

    Args:
        content: the whole file.
        name: its name in messages.

    Raises:
        UserError: it holds no series, or a value in it is not a finite number.
    """
    if len(content) > MAX_BYTES:
        raise UserError(f"{name}: larger than {MAX_BYTES >> 20} MB, and not a session", advice=FORMS)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: neither a session nor text (byte {error.start})", advice=FORMS) from error
    if "\0" in text:
        raise UserError(f"{name}: neither a session nor text (byte {text.index(chr(0))})", advice=FORMS)
    if not text.strip():
        raise UserError(f"{name}: the file is empty", advice=FORMS)
    return _from_json(text, name) if text.lstrip()[0] in "[{" else _from_csv(text, name)


def _from_json(text: str, name: str) -> PressureSeries:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: not JSON: {error}", advice=FORMS) from error
    if isinstance(found, list):
        return PressureSeries(_numbers(found, name))
    trajectory = found.get("trajectory")
    mid = trajectory.get("mid_pressures") if isinstance(trajectory, dict) else None
    if not isinstance(trajectory, dict) or not isinstance(mid, list):
        what = "a measurement of many runs" if isinstance(found.get("runs"), list) else "JSON without a series"
        raise UserError(f"{name}: {what}", advice=FORMS)
    return PressureSeries(
        mid=_numbers(mid, f"{name}, trajectory.mid_pressures"),
        positions=_indices(trajectory, len(mid)),
        mode=_mode(found, trajectory),
        entropies=_entropies(trajectory, len(mid)),
    )


def _mode(found: Mapping[str, object], trajectory: Mapping[str, object]) -> str | None:
    """Return the pressure mode that a measurement names. ChronoMoE's files name none: it is ChronoMoE's mode."""
    if isinstance(found.get("pressure"), str):
        return str(found["pressure"])
    ours = OWN_KEY in trajectory
    return REFERENCE_MODE if isinstance(found.get("protocol"), str) and not ours else None


def _numbers(values: Sequence[object], name: str) -> list[float]:
    if not values:
        raise UserError(f"{name}: the series is empty", advice="a fit needs at least 5 chunks")
    return [_number(value, f"{name}, value {at}") for at, value in enumerate(values, 1)]


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where} is {_short(json.dumps(value))}", advice="every chunk needs a number")
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    if not isfinite(number) or abs(number) > LARGEST:
        raise UserError(f"{where} is {_short(str(number))}", advice="every chunk needs a finite number")
    return number


def _indices(trajectory: Mapping[str, object], length: int) -> list[int] | None:
    """Return the chunk indices; None unless there is one for each value, ascending."""
    found = trajectory.get("chunk_indices")
    if not isinstance(found, list) or len(found) != length:
        return None
    return _ascending(found)


def _ascending(found: Sequence[object]) -> list[int] | None:
    indices = [each for each in found if type(each) is int and abs(each) < 1 << 53]
    if len(indices) != len(found):
        return None
    return indices if all(a < b for a, b in pairwise(indices)) else None


def _entropies(trajectory: Mapping[str, object], length: int) -> list[float] | None:
    found = trajectory.get("entropies")
    if not isinstance(found, list) or len(found) != length:
        return None
    try:
        return _numbers(found, "entropies")
    except UserError:
        return None


def _from_csv(text: str, name: str) -> PressureSeries:
    rows = list(_rows(text, name))
    heading = [cell.strip().lower() for cell in rows[0][1]]
    if all(_is_number(cell) for cell in heading):
        mid_at, place_at, left_out = _unnamed(rows, name), 0 if len(heading) == 2 else None, []
    else:
        mid_at, place_at = _mid_column(heading, name, rows[0][0]), _first(heading, POSITION_COLUMNS)
        left_out = [at for at, cell in enumerate(heading) if cell in LEFT_OUT_COLUMNS]
        rows = rows[1:]
        if not rows and heading[mid_at] not in MID_COLUMNS:
            raise UserError(f"{name}: no number in it", advice=FORMS)
    rows = [row for row in rows if not any(_cell(row[1], at).lower() not in FALSE for at in left_out)]
    if not rows:
        raise UserError(f"{name}: the series is empty", advice="a fit needs at least 5 chunks")
    mid = [_parsed(_cell(cells, mid_at), f"{name}, line {line}") for line, cells in rows]
    return PressureSeries(mid, None if place_at is None else _places([_cell(cells, place_at) for _, cells in rows]))


def _rows(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not empty, with their line number; lines that begin with # are comments."""
    lines = [(at, line) for at, line in enumerate(text.splitlines(), 1) if line.strip() and line.lstrip()[0] != "#"]
    if not lines:
        raise UserError(f"{name}: no number in it", advice=FORMS)
    delimiter = next((each for each in DELIMITERS if each in lines[0][1]), ",")
    try:
        for (at, _), cells in zip(lines, csv.reader((line for _, line in lines), delimiter=delimiter), strict=False):
            yield at, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise UserError(f"{name}: not CSV: {error}", advice=FORMS) from error


def _unnamed(rows: list[tuple[int, list[str]]], name: str) -> int:
    """Return the column of values of a file without column names: the only one, or the second after chunk indices."""
    width = len(rows[0][1])
    if width == 1 or (width == 2 and _places([_cell(cells, 0) for _, cells in rows]) is not None):
        return width - 1
    raise UserError(f"{name}: {width} columns without names", advice="name one of them `mid`")


def _mid_column(heading: list[str], name: str, line: int) -> int:
    at = _first(heading, MID_COLUMNS)
    if at is None and len(heading) == 1 and len(heading[0].split()) == 1:
        at = 0
    if at is None:
        shown = _short(", ".join(islice(heading, 8)))
        raise UserError(f"{name}, line {line}: no column called `mid` among {shown}", advice=FORMS)
    return at


def _first(heading: list[str], names: Sequence[str]) -> int | None:
    return next((heading.index(each) for each in names if each in heading), None)


def _places(cells: list[str]) -> list[int] | None:
    try:
        return _ascending([int(cell) for cell in cells])
    except ValueError:
        return None


def _cell(cells: list[str], at: int) -> str:
    return cells[at] if at < len(cells) else ""


def _parsed(cell: str, where: str) -> float:
    if not _is_number(cell):
        raise UserError(f"{where}: {_short(repr(cell))} is not a number", advice="every chunk needs a number")
    return _number(float(cell), where)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}…"


def read_content(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Return the first bytes of a file, at most one more than the limit; of a compressed file, unpacked.

    Raises:
        UserError: it cannot be read.
    """
    from moe_watch.sessions.reading.store import open_whole

    store = open_whole(path)
    try:
        return store.read(0, min(limit + 1, store.size()))
    finally:
        store.close()
