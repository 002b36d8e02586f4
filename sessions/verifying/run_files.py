"""Verification of a multi-part session: its files fit together. `moe-watch verify` checks each file before."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Header, Token
from moe_watch.sessions.reading.multipart import (
    MAX_PARTS,
    THE_RUN,
    Opening,
    continues_run,
    differing_fields,
    first_of,
    numbered_beside,
    read_opening,
    shown,
    too_many_parts,
)
from moe_watch.sessions.reading.recompute import Recomputed, agree
from moe_watch.sessions.reading.store import open_whole
from moe_watch.sessions.verifying.index_outliers import PlausibleReader
from moe_watch.sessions.verifying.issues import Issue, IssueCollector


@dataclass(frozen=True, slots=True)
class RunReport:
    """Result of verifying the files of one run together."""

    file: str
    """The run's first file, or a continuation file without one."""
    parts: list[str]
    """Its continuation files, in order."""
    tokens: int
    """Number of tokens recorded in all files."""
    findings: list[Issue]
    """Faults; `line` is always None."""
    remarks: list[str]
    """Notes that are no faults, one line each."""

    @property
    def fine(self) -> bool:
        """True if there are no faults."""
        return not self.findings


@dataclass(frozen=True, slots=True)
class _RunFile:
    path: Path
    header: Header
    opening: Opening

    @property
    def name(self) -> str:
        return shown(self.path.name)


def with_parts(paths: Sequence[Path]) -> list[Path]:
    """Return these files, each followed by its continuation files, without repetition.

    A file with more continuation files than a run can have is returned alone.
    """
    return list(dict.fromkeys(each for path in paths for each in (path, *_continuations(path))))


def _continuations(path: Path) -> list[Path]:
    with suppress(UserError):
        return [part.path for part in _parts(path)[0]]
    return []


def verify_runs(paths: Sequence[Path]) -> list[RunReport]:
    """Check that files fit together: return one report per multi-part session whose first file is given.

    A continuation file without its first file has a report, too. `moe_watch.sessions.verifying.file` reports the faults
    within a file.
    """
    files = filter(None, map(_read, paths))
    reports = [_judge_alone(file) if file.header.continues else _judge(file) for file in files]
    return [report for report in reports if report is not None]


def _read(path: Path) -> _RunFile | None:
    """Read the first lines of a file, None if it has no header."""
    with suppress(UserError), closing(open_whole(path)) as store:
        opening = read_opening(store)
        return None if opening.header is None else _RunFile(path, opening.header, opening)
    return None


def _parts(path: Path) -> tuple[list[_RunFile], list[_RunFile]]:
    """Return the continuation files of a run's first file, and the ones of an earlier run of the same name.

    Raises:
        UserError: the file has more continuation files than a run can have.
    """
    first = _read(path)
    if first is None or first.header.continues is not None:
        return [], []
    named = [
        file
        for file in filter(None, map(_read, numbered_beside(path)))
        if file.header.continues is not None and file.header.continues.file == path.name
    ]
    ours = [file for file in named if continues_run(file.header, path.name, first.header)]
    if len(ours) > MAX_PARTS:
        raise too_many_parts(path)
    names = {file.path for file in ours}
    return ours, [file for file in named if file.path not in names]


def _judge(first: _RunFile) -> RunReport | None:
    try:
        parts, others = _parts(first.path)
    except UserError as error:
        findings = IssueCollector()
        findings.add("too many files", str(error))
        return RunReport(str(first.path), [], 0, findings.all(), [])
    remarks = [
        f"{each.name} continues another run of this name, created {shown(each.header.created)}" for each in others
    ]
    if not parts and not remarks:
        return None
    join = _Join(first)
    for part in parts:
        join.add(part)
    return RunReport(str(first.path), [str(part.path) for part in parts], join.tokens, join.findings.all(), remarks)


def _judge_alone(part: _RunFile) -> RunReport | None:
    """Report a continuation file without its first file; None if that is there: its report includes this file."""
    before = part.header.continues
    if before is None or first_of(part.path, part.header) is not None:
        return None
    findings = IssueCollector()
    findings.add("missing file", f"{shown(before.file)}, which it continues from token {before.i}, is missing")
    return RunReport(str(part.path), [], 0, findings.all(), [])


class _Join:
    """Comparison of the end of each file of a run with the start of the next.

    Args:
        first: the run's first file.
    """

    def __init__(self, first: _RunFile) -> None:
        self.findings = IssueCollector()
        self.tokens = 0
        self._first = first
        self._next = 0
        """Index of the next token if none is missing."""
        self._recomputed = Recomputed(first.header, set())
        self._read(first)

    def add(self, part: _RunFile) -> None:
        """Compare the next file, and read it if it can be part of this run."""
        fields = differing_fields(self._first.header, part.header)
        if fields:
            self.findings.add("other header", f"{part.name} differs from {self._first.name} in {', '.join(fields)}")
        if not set(THE_RUN) & set(fields) and self._continues(part):
            self._read(part)

    def _continues(self, part: _RunFile) -> bool:
        """Return whether a file starts at the end of the files before it, or later."""
        frame, header = part.opening.keyframe, part.header
        if frame is None:
            self.findings.add("keyframes", f"{part.name} does not start with a keyframe")
            return False
        if header.continues is not None and header.continues.i != frame.i:
            text = f"{part.name} starts at token {header.continues.i} by its header, at token {frame.i} by its keyframe"
            self.findings.add("keyframes", text)
        if frame.i < self._next:
            text = f"{part.name} repeats tokens {frame.i} to {self._next - 1} of the files before it"
            self.findings.add("repeated tokens", text, count=self._next - frame.i)
            return False
        if frame.i > self._next:
            text = f"tokens {self._next} to {frame.i - 1} are missing before {part.name}"
            self.findings.add("missing tokens", text, count=frame.i - self._next)
        elif not (part.opening.dropped or agree(frame, self._recomputed.state())):
            self.findings.add(
                "keyframes", f"the keyframe of {part.name} differs from the state after the files before it"
            )
        return True

    def _read(self, file: _RunFile) -> None:
        """Continue the computation with the readable part of a file."""
        with suppress(UserError), closing(PlausibleReader(file.path)) as reader:
            for examined in reader.examine():
                if examined.event is not None:
                    self._recomputed.feed(examined.event)
                if isinstance(examined.event, Token):
                    self.tokens, self._next = self.tokens + 1, examined.event.i + 1
