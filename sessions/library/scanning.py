"""Scan of one session file: its condition and facts, in one quick pass from start to end.

The scan takes chunks as recorded, and counts tokens without reading them. `moe_watch.sessions.reading.reader` checks
every line.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Literal

import msgspec

from moe_watch.routing.events import SCHEMA_MINOR, Chunk, Event, Header, Keyframe, State, Token, from_json
from moe_watch.routing.half_life.fit import in_words
from moe_watch.routing.half_life.series import MidSeries
from moe_watch.routing.pressure.missing_signals import lacking_signals
from moe_watch.routing.results import MaskResult
from moe_watch.routing.summary import MaskTotals
from moe_watch.sessions.reading.line_grammar import KEYFRAME_HEAD, TOKEN_HEAD, VITALS_HEAD, position_of
from moe_watch.sessions.reading.line_reader import Line, Lines, LineTooLongError
from moe_watch.sessions.reading.reader import SessionReader
from moe_watch.sessions.reading.store import open_whole

Condition = Literal["whole", "failed", "unfinished", "torn", "unreadable"]
"""State of a file. `whole`: the run's end is recorded. `failed`: the run ended with an error, which is recorded.
`unfinished`: no end is recorded; still recording, or killed. `torn`: the last line is cut off, as after a power cut.
`unreadable`: not a session, or damaged."""


class HalfLife(msgspec.Struct, frozen=True, kw_only=True):
    """Fit of the recorded chunks' P_mid."""

    verdict: str | None = None
    """None if nothing can be fitted."""
    half_life: float | None = None
    """In chunks."""
    words: str
    """The verdict in words, or the reason why there is none; one line."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of a session file, from its header and one scan."""

    model: str
    quantization: str | None
    backend: str
    created: str
    """UTC, ISO 8601."""
    layers: list[int]
    """Index of each MoE layer in the model."""
    experts: int
    experts_per_token: int | list[int]
    continues: str | None
    """Name of the session's first file, if this one is a continuation file."""
    tokens: int = 0
    """Number of tokens in the file."""
    end: int = 0
    """Number of tokens of the run up to the end of the file."""
    chunks: int = 0
    ended: str | None = None
    """Finish reason of the run, or the message of its error."""
    masks: list[MaskResult] = []
    half_life: HalfLife


class ScanResult(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a scan: the file's condition, and the facts of its readable part."""

    condition: Condition
    problem: str = ""
    """Fault of the file, one line; empty if there is none."""
    facts: Facts


def scan(path: Path) -> ScanResult:
    """Scan a session file in one quick pass.

    Raises:
        UserError: the file or its header cannot be read.
    """
    store = open_whole(path)
    with closing(SessionReader(store)) as reader:
        found, lines = _Scanner(reader.header), Lines(store)
        try:
            _skip_header(lines)
            while not found.problem and (line := lines.next()) is not None:
                found.feed(line, last=lines.at_end)
        except LineTooLongError as error:
            found.break_off(lines.number, str(error))
    return found.result()


def _skip_header(lines: Lines) -> None:
    while (line := lines.next()) is not None and not line.content.strip():
        pass


class _Scanner:
    """Scanner of a file's lines. Most are tokens, which it identifies by their first bytes."""

    def __init__(self, header: Header) -> None:
        self.problem = ""
        self._header = header
        self._condition: Condition = "unfinished"
        self._series = MidSeries(header.pressure)
        self._tokens = self._chunks = self._end = 0
        self._last_token = b""
        """Line of the last token, if it was not decoded."""
        self._ended: str | None = None
        self._masks = MaskTotals(header)

    def feed(self, line: Line, *, last: bool) -> None:
        """Scan a line; only the last one can be torn."""
        content = line.content
        if not content.strip() or (not last and self._is_passed_over(content)):
            return
        try:
            self._add(from_json(content))
        except msgspec.ValidationError as error:
            if self._header.schema_minor <= SCHEMA_MINOR:
                self.break_off(line.number, f"not an event: {error}")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if last:
                self._condition, self.problem = "torn", f"line {line.number} is cut off"
            else:
                self.break_off(line.number, "not JSON")

    def break_off(self, line: int, reason: str) -> None:
        """Stop at a line that cannot be read."""
        self._condition, self.problem = "unreadable", f"line {line}: {reason}"

    def result(self) -> ScanResult:
        """Return the result for the lines so far."""
        return ScanResult(condition=self._condition, problem=self.problem, facts=self._facts())

    def _facts(self) -> Facts:
        model, continues = self._header.model, self._header.continues
        return Facts(
            model=model.name,
            quantization=model.quantization,
            backend=self._header.backend.name,
            created=self._header.created,
            layers=model.layers,
            experts=model.experts,
            experts_per_token=model.experts_per_token,
            continues=None if continues is None else continues.file,
            tokens=self._tokens,
            end=self._end_of_run(),
            chunks=self._chunks,
            ended=self._ended,
            masks=self._masks.changes,
            half_life=self._half_life(),
        )

    def _is_passed_over(self, content: bytes) -> bool:
        """Return whether the line is skipped: a token, which is counted, vitals, or a keyframe after a token."""
        if content.startswith(TOKEN_HEAD):
            self._tokens += 1
            self._last_token = content
            return True
        return content.startswith(VITALS_HEAD) or (self._tokens > 0 and content.startswith(KEYFRAME_HEAD))

    def _add(self, event: Event) -> None:
        if isinstance(event, Token):
            self._tokens, self._end, self._last_token = self._tokens + 1, event.i + 1, b""
        elif isinstance(event, Chunk):
            self._chunks += 1
        elif isinstance(event, State) and event.state in ("finished", "error"):
            self._condition = "whole" if event.state == "finished" else "failed"
            self._ended = event.message or event.why or event.state
        elif isinstance(event, Keyframe) and not self._tokens:
            self._end = event.i
        if not (isinstance(event, Keyframe) and self._tokens):
            self._series.feed(event)
            self._masks.feed(event)

    def _end_of_run(self) -> int:
        last = position_of(self._last_token)
        return self._end if last is None else last.i + 1

    def _half_life(self) -> HalfLife:
        fit = self._series.fit()
        if fit is None:
            lacking = "" if self._series.mid else lacking_signals(self._header, self._header.pressure)
            return HalfLife(words=lacking or self._series.unavailable)
        return HalfLife(verdict=fit.verdict, half_life=fit.half_life, words=in_words(fit))
