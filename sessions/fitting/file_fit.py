"""Half-life fit of a file: a session, with recomputed chunks, or a P_mid series."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Chunk, Keyframe, StreamItem, Unknown
from moe_watch.routing.half_life.chronomoe import EntropyCollapse, entropy_collapse
from moe_watch.routing.half_life.fit import Fit, fit_half_life
from moe_watch.routing.half_life.series import ContextSeries, MidSeries
from moe_watch.routing.pressure.formulas import MODES, MODES_OFFERED, WARM_UP_CHUNKS
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.routing.pressure.missing_signals import lacking_signals
from moe_watch.sessions.fitting.pressure_series import PressureSeries, parse_series, read_content
from moe_watch.sessions.reading.multipart import RunReader, shown
from moe_watch.sessions.reading.reader import SessionReader
from moe_watch.sessions.reading.recompute import Beginnings

SNIFFED = 4096
"""Number of first bytes by which a session is recognised."""


@dataclass(frozen=True, slots=True)
class FileFit:
    """Half-life fit of a file's series."""

    fit: Fit
    collapse: EntropyCollapse | None
    """Collapse of router entropy over the same chunks, if the file has it."""
    warnings: list[str] = field(default_factory=list)
    """Warnings about the file for the user, one line each."""
    context: int = 0
    """Number of the fitted context, from 0."""
    contexts: Sequence[ContextSeries] = ()
    """All contexts of a session; empty for a P_mid series."""


class RecordedSeries(MidSeries):
    """The mid-pressure series of a recording, with gaps where chunks are missing between its files.

    Args:
        mode: pressure mode of the chunks.
    """

    def __init__(self, mode: str) -> None:
        super().__init__(mode)
        self.gaps: list[tuple[int, int]] = []
        """First and last index of each stretch of chunks that is in no file."""
        self._beginnings = Beginnings()
        self._next: int | None = None
        """Index of the next chunk, if none is missing."""

    def feed(self, item: StreamItem) -> bool:
        """Add one item; return whether the series became longer."""
        if self._beginnings.feed(item) and not self.current.mid:
            self._begun = False  # no chunk is measured yet: this keyframe decides whether the start is known
        if isinstance(item, Chunk):
            if self._next is not None and item.index > self._next:
                self.gaps.append((self._next, item.index - 1))
            self._next = item.index + 1
        return super().feed(item)

    def warnings(self, path: Path, fit: Fit | None) -> list[str]:
        """Return warnings about a fit of this series, one line each."""
        if not self.gaps:
            return []
        gaps = ", ".join(_stretch(*gap) for gap in self.gaps)
        said = [
            f"{path}: chunks {gaps} are in no file: the curve is fitted around them; the noise model and the "
            "reference's counts treat the chunks on either side as successive"
        ]
        within = None if fit is None or fit.half_life is None else self._within(fit.first + fit.half_life)
        crossed = None if fit is None or fit.crossing is None else self._within(fit.crossing)
        if within is not None:
            said.append(f"{path}: half is reached between chunks {within[0] - 1} and {within[1] + 1}: not observed")
        if crossed is not None:
            said.append(f"{path}: the crossing may be any chunk from {crossed[0]} to {crossed[1] + 1}: not observed")
        return said

    def _within(self, position: float) -> tuple[int, int] | None:
        """Return the gap that contains a position, or that ends just before it."""
        return next((gap for gap in self.gaps if gap[0] - 1 < position <= gap[1] + 1), None)


def _stretch(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


def fit_file(path: Path, mode: str | None = None, context: int | None = None) -> FileFit:
    """Fit the series in a file.

    Args:
        path: a session, CSV, a JSON list, or JSON of ChronoMoE's measurement.
        mode: pressure mode: for a session, the mode to compute (by default the session's); for a series, its mode.
        context: number of the context to fit, from 0; by default the newest one that is long enough.

    Raises:
        UserError: the mode or the context is unknown, or the file holds no series that can be fitted.
    """
    if mode is not None and mode not in MODES:
        raise UserError(f"there is no pressure mode called {mode!r}", advice=f"use {MODES_OFFERED}")
    if is_session(read_content(path, SNIFFED)):
        return _fit_session(path, mode, context)
    if context is not None:
        raise UserError(f"{path}: a P_mid series has no contexts", advice="leave --context out")
    series = parse_series(read_content(path), str(path))
    try:
        return _fit_series(series, mode)
    except UserError as error:
        raise UserError(f"{path}: {error.what}", advice=error.advice) from error


def session_series(reader: SessionReader, mode: str | None = None) -> RecordedSeries:
    """Return the mid-pressure series of a session, computed from its tokens.

    Args:
        reader: reader at its beginning; it is read to its end.
        mode: pressure mode to compute; by default the session's.

    Raises:
        UserError: the file is damaged.
    """
    instruments, beginnings = Instruments(reader.header, mode, keyframes=False), Beginnings()
    series = RecordedSeries(instruments.mode)
    counted = 0  # chunks before this one cannot be recomputed, and are taken as recorded
    for event in reader:
        if beginnings.feed(event) and isinstance(event, Keyframe):
            counted = event.chunks if instruments.mode == reader.header.pressure else 0
            instruments = Instruments(reader.header, mode, keyframes=False)
        elif isinstance(event, Keyframe | Unknown) or (isinstance(event, Chunk) and event.index >= counted):
            continue
        for each in (event, *instruments.feed(event)):
            series.feed(each)
    return series


def is_session(beginning: bytes) -> bool:
    """Return whether a file begins as a session of moe-watch does, whole or damaged."""
    first = beginning.lstrip().split(b"\n", 1)[0]
    return first.startswith(b"{") and b'"event"' in first


def _fit_session(path: Path, mode: str | None, context: int | None) -> FileFit:
    with closing(RunReader(path)) as reader:
        series = session_series(reader, mode)
    chosen = chosen_context(series, context, path)
    fit = chosen.fit()
    if fit is None:
        lacking = lacking_signals(reader.header, series.mode)
        if lacking:
            advice = "record a run with moe-watch; imports and unknown routers lack these signals"
            if reader.header.is_dense:
                advice = "give a session of an MoE model"
            raise UserError(f"{path}: {lacking}", advice=advice)
        where = f", context {chosen.number}" if len(series.contexts) > 1 else ""
        raise UserError(f"{path}{where}: {chosen.unavailable}", advice=_advice(reader))
    warnings = [*reader.warnings, *series.warnings(path, fit)]
    return FileFit(fit, chosen.entropy_collapse(), warnings, chosen.number, series.contexts)


def chosen_context(series: MidSeries, context: int | None, path: Path) -> ContextSeries:
    """Return the series of a context, by default the newest one that is long enough for a fit.

    Raises:
        UserError: the recording has no such context.
    """
    if context is None:
        return series.judged
    chosen = series.context(context)
    if chosen is None:
        known = ", ".join(str(each.number) for each in series.contexts)
        advice = f"its contexts are {known}" if len(series.contexts) > 1 else f"its only context is {known}"
        raise UserError(f"{path}: no context {context}", advice=advice)
    return chosen


def _advice(reader: RunReader) -> str:
    """Return the advice for a file without a series to fit."""
    if reader.header.continues is not None:
        return f"fit {shown(reader.header.continues.file)}, which it continues"
    return f"record a longer run from its beginning; the first {WARM_UP_CHUNKS} chunks are warm-up"


def _fit_series(series: PressureSeries, mode: str | None) -> FileFit:
    fit = fit_half_life(series.mid, mode=mode or series.mode, positions=series.positions)
    return FileFit(fit, entropy_collapse(series.entropies) if series.entropies else None)
