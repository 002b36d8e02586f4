"""The half-life of what is in a file: a session, whose chunks are computed again, or a bare series."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from routing.errors import UserError
from routing.events import Chunk, Keyframe, Token, Unknown
from routing.half_life import Fit, fit_half_life
from routing.instruments import Instruments
from routing.mid_series import MidSeries
from routing.pressure import MODES, WARM_UP_CHUNKS
from routing.reference_numbers import EntropyCollapse, entropy_collapse
from sessions.reader import SessionReader, read_session
from sessions.series import Series, parse_series, read_content

SNIFFED = 4096
"""Bytes in which a session shows that it is one."""


@dataclass(frozen=True, slots=True)
class FileFit:
    """The half-life of a file's series."""

    fit: Fit
    collapse: EntropyCollapse | None
    """Of router entropy over the same chunks, where the file has it."""
    warning: str = ""
    """What a reader should know about the file, as one line."""


def fit_file(path: Path, mode: str | None = None) -> FileFit:
    """Fit the series in a file.

    Args:
        path: a session, CSV, a JSON list, or JSON of ChronoMoE's measurement.
        mode: the pressure mode: of a session, the one to compute (its own by default); of a series, the one it is in.

    Raises:
        UserError: the mode is unknown, or the file holds no series that can be fitted.
    """
    if mode is not None and mode not in MODES:
        raise UserError(f"there is no pressure mode called {mode!r}", advice=f"use {' or '.join(MODES)}")
    if is_session(read_content(path, SNIFFED)):
        return _fit_session(path, mode)
    series = parse_series(read_content(path), str(path))
    try:
        return _fit_series(series, mode)
    except UserError as error:
        raise UserError(f"{path}: {error.what}", advice=error.advice) from error


def session_series(reader: SessionReader, mode: str | None = None) -> MidSeries:
    """The mid-pressure series of a session, computed from its tokens.

    Args:
        reader: at its beginning; it is read to its end.
        mode: the pressure mode to compute, the session's own by default.

    Raises:
        UserError: the file is damaged.
    """
    instruments = Instruments(reader.header, mode, keyframes=False)
    series, begun = MidSeries(instruments.mode), False
    for event in reader:
        if isinstance(event, Chunk | Unknown) or (begun and isinstance(event, Keyframe)):
            continue
        begun |= isinstance(event, Token | Keyframe)
        for each in (event, *instruments.feed(event)):
            series.feed(each)
    return series


def is_session(beginning: bytes) -> bool:
    """Whether a file begins as one of moe-watch's own does, whole or damaged."""
    first = beginning.lstrip().split(b"\n", 1)[0]
    return first.startswith(b"{") and b'"event"' in first


def _fit_session(path: Path, mode: str | None) -> FileFit:
    reader = read_session(path)
    try:
        series = session_series(reader, mode)
    finally:
        reader.close()
    fit = series.fit()
    if fit is None:
        advice = f"record a longer run from its beginning; the first {WARM_UP_CHUNKS} chunks are warm-up"
        raise UserError(f"{path}: {series.unavailable}", advice=advice)
    return FileFit(fit, series.entropy_collapse(), reader.torn)


def _fit_series(series: Series, mode: str | None) -> FileFit:
    fit = fit_half_life(series.mid, mode=mode or series.mode, positions=series.positions)
    return FileFit(fit, entropy_collapse(series.entropies) if series.entropies else None)
