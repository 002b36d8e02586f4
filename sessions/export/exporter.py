"""Export of a session as files of tables, in one pass and bounded memory."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from moe_watch.routing.contexts import ContextNumbers
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Chunk, Event, Header, Keyframe, Unknown
from moe_watch.sessions import paths
from moe_watch.sessions.export import tables
from moe_watch.sessions.export.columns import Batch, Cell, Table, batch_of, rows_in
from moe_watch.sessions.export.selection_counts import RunCounts
from moe_watch.sessions.export.writers import Form, Writer, check_form, writer
from moe_watch.sessions.reading.multipart import RunReader
from moe_watch.sessions.reading.recompute import Beginnings, Recomputed
from moe_watch.sessions.reading.token_arrays import TokenArrays, TokenBatches

ROWS_HELD = 4096
"""Rows held in memory of a table that gets its rows one by one."""
OF_ROUTERS = ("routing", "usage", "probabilities")
"""Tables that a dense model does not have."""
DESCRIPTION = "session.json"
"""File with header and columns, in the folder of the tables."""


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """Tables to write, their format and their place.

    Args:
        form: format of the files.
        output: a folder, or with `table` a file; None names it after the session, in the working folder.
        table: the only table to write; None writes all.
        force: replace existing files.
        spreadsheet: in CSV, put an apostrophe before text that a spreadsheet would read as a formula.
    """

    form: Form
    output: Path | None = None
    table: str | None = None
    force: bool = False
    spreadsheet: bool = False


@dataclass(frozen=True, slots=True)
class Exported:
    """Result of an export: written files, numbers of rows, warnings."""

    output: Path
    """The folder, or the one file."""
    rows: dict[str, int]
    """By table; those without rows have no file, unless asked for by name."""
    warnings: list[str]


def export_session(path: Path, plan: ExportPlan) -> Exported:
    """Write a session's tables, from all files of a multi-part session.

    Chunks are computed from the tokens, as in a replay. A torn file is exported up to its last whole line.

    Raises:
        UserError: the session cannot be read, the format cannot be written, or a file exists already.
    """
    check_form(plan.form)
    with closing(RunReader(path)) as session:
        known = tables.tables(session.header)
        if plan.table is not None and plan.table not in known:
            raise UserError(f"there is no table named {plan.table!r}", advice=f"use one of {', '.join(known)}")
        if session.header.is_dense and plan.table in OF_ROUTERS:
            what = f"{path}: {session.header.model.name} is dense: there is no table {plan.table}"
            raise UserError(what, advice="use --table tokens")
        output = plan.output or _default_output(path, plan)
        with _Files(output, plan, known) as files:
            warnings = _fill(session, path, files)
            files.finish(session.header)
    return Exported(output, files.rows, warnings)


def _default_output(path: Path, plan: ExportPlan) -> Path:
    stem = paths.stem_of(path)
    return Path(f"{stem}-{plan.form}" if plan.table is None else f"{stem}-{plan.table}.{plan.form}")


def _fill(session: RunReader, path: Path, files: _Files) -> list[str]:
    """Write every row; return warnings about the session."""
    differing: set[tuple[type, int]] = set()
    rows = _Rows(session.header, files)
    recomputed = Recomputed(session.header, differing)
    for event in session:
        for each in recomputed.feed(event):
            rows.feed(each)
    rows.rest()
    chunks = sum(kind is Chunk for kind, _ in differing)
    differ = [f"{path}: {chunks} recorded chunks differ from those computed from its tokens, which are exported"]
    return [*session.warnings, *(differ if chunks else [])]


class _Rows:
    """Converter of events to batches of rows."""

    def __init__(self, header: Header, files: _Files) -> None:
        self._header = header
        self._files = files
        self._batches = TokenBatches(header)
        self._held: dict[str, list[list[Cell]]] = {}
        self._counts = RunCounts(header)
        self._beginnings = Beginnings()
        self._contexts = ContextNumbers()

    def feed(self, event: Event | Unknown) -> None:
        """Add the rows of the next event of the session."""
        self._contexts.feed(event)
        for tokens in self._batches.feed(event):
            self._write_tokens(tokens)
        if self._beginnings.feed(event) and isinstance(event, Keyframe):
            self._counts.begin_with(event)
        elif (found := tables.rows_of(self._contexts.named(event) if isinstance(event, Chunk) else event)) is not None:
            self._hold(*found)

    def rest(self) -> None:
        """Write the remaining rows, and the rows that are known only at the end."""
        for tokens in self._batches.rest():
            self._write_tokens(tokens)
        for phase, counts in self._counts.counts.items():
            if counts.any():
                for row in tables.usage_rows(self._header, phase, counts, self._counts.rows[phase]):
                    self._hold("usage", [row])
        for name in list(self._held):
            self._release(name)

    def _write_tokens(self, tokens: TokenArrays) -> None:
        makers: dict[str, Callable[[], Batch | None]] = {
            "tokens": lambda: tables.token_batch(tokens),
            "routing": lambda: None if self._header.model.is_dense else tables.routing_batch(tokens, self._header),
            "probabilities": lambda: tables.probability_batch(tokens, self._header),
        }
        for name, make in makers.items():
            if self._files.includes(name) and (batch := make()) is not None:
                self._files.write(name, batch)
        self._counts.add(tokens)

    def _hold(self, name: str, rows: Sequence[list[Cell]]) -> None:
        held = self._held.setdefault(name, [])
        held.extend(rows)
        if len(held) >= ROWS_HELD:
            self._release(name)

    def _release(self, name: str) -> None:
        rows = self._held.pop(name)
        if rows and self._files.includes(name):
            self._files.write(name, batch_of(self._files.tables[name], rows))


class _Files:
    """The files of an export: written under temporary names, and renamed when all are complete.

    Raises:
        UserError: one exists already, or cannot be written.
    """

    def __init__(self, output: Path, plan: ExportPlan, known: dict[str, Table]) -> None:
        self.tables = known
        self.rows: dict[str, int] = {}
        self._output = output
        self._plan = plan
        self._folder = output if plan.table is None else output.parent
        self._writers: dict[str, Writer] = {}
        self._beside: dict[Path, Path] = {}
        """Temporary file of each final path."""
        self._check_places()

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._writers.values():
            with contextlib.suppress(Exception):  # another error is being raised; complete files are closed already
                each.close()
        for path in self._beside.values():
            path.unlink(missing_ok=True)

    def includes(self, name: str) -> bool:
        """Return whether this table is to be written."""
        return self._plan.table in (None, name)

    def write(self, name: str, batch: Batch) -> None:
        """Append rows to a table."""
        with paths.writing(self._place(name)):
            self._writer(name).write(batch)
        self.rows[name] = self.rows.get(name, 0) + rows_in(batch)

    def finish(self, header: Header) -> None:
        """Complete all files and rename them to their final paths."""
        if self._plan.table is not None:
            self.rows.setdefault(self._plan.table, 0)
        with paths.writing(self._output):
            for name in self.rows:
                self._writer(name).close()
            self._writers.clear()
            if self._plan.table is None:
                self._begin(self._folder / DESCRIPTION).write_bytes(_description(header, self._written()))
            self._put_in_place()
            paths.sync_folder(self._folder)

    def _put_in_place(self) -> None:
        if self._plan.table is None and self._plan.force:
            for place in {self._place(name) for name in self._tables_before()} - self._beside.keys():
                place.unlink(missing_ok=True)  # a table of another session would be taken as one of this session
        for place, beside in list(self._beside.items()):
            beside.replace(place)
            del self._beside[place]

    def _tables_before(self) -> set[str]:
        """Return the names of the tables in the description of the export to be replaced."""
        try:
            before = msgspec.json.decode((self._folder / DESCRIPTION).read_bytes(), type=_Description)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return set()
        return before.tables.keys() & self.tables.keys()

    def _written(self) -> Iterator[Table]:
        return (self.tables[name] for name in self.rows)

    def _writer(self, name: str) -> Writer:
        if name not in self._writers:
            beside, table = self._begin(self._place(name)), self.tables[name]
            self._writers[name] = writer(self._plan.form, beside, table, spreadsheet=self._plan.spreadsheet)
        return self._writers[name]

    def _place(self, name: str) -> Path:
        return self._output if self._plan.table else self._folder / f"{name}.{self._plan.form}"

    def _begin(self, place: Path) -> Path:
        """Create an empty temporary file, private to its owner, in the folder of its final path."""
        paths.make_private(self._folder)
        descriptor, beside = tempfile.mkstemp(prefix=".export-", dir=self._folder)
        os.close(descriptor)
        self._beside[place] = Path(beside)
        return Path(beside)

    def _check_places(self) -> None:
        names = [self._plan.table] if self._plan.table else [*self.tables]
        places = [self._place(name) for name in names]
        if self._plan.table is None:
            places.append(self._folder / DESCRIPTION)
        for place in places:
            paths.check_replaceable(place, force=self._plan.force)


class _Description(msgspec.Struct):
    """The part of an earlier export's description that is read."""

    tables: dict[str, msgspec.Raw]


def _description(header: Header, written: Iterator[Table]) -> bytes:
    """Return the header and the meanings of the tables' columns as JSON."""
    described = {
        "session": msgspec.to_builtins(header),
        "tables": {
            table.name: {"row": table.row, "columns": {each.name: each.meaning for each in table.columns}}
            for table in written
        },
    }
    return msgspec.json.format(msgspec.json.encode(described), indent=2) + b"\n"
