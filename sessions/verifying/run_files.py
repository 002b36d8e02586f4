"""Whether the files of a run that goes on in further ones fit together. `moe-watch verify`, after each file alone."""

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
    differing_fields,
    goes_on_with,
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
    """What the files of one run were found to be together."""

    file: str
    """The first one, or the only one that there is."""
    parts: list[str]
    """Those that go on with it, in order."""
    tokens: int
    """Recorded in all of them."""
    findings: list[Issue]
    """What is wrong; `line` is None throughout."""
    remarks: list[str]
    """What is not wrong, and good to know; one line each."""

    @property
    def fine(self) -> bool:
        """Nothing is wrong."""
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
    """Return these files, each followed by those that continue it, none twice.

    A file that more files say they continue than a run can have is returned alone.
    """
    return list(dict.fromkeys(each for path in paths for each in (path, *_continuations(path))))


def _continuations(path: Path) -> list[Path]:
    with suppress(UserError):
        return [part.path for part in _parts(path)[0]]
    return []


def verify_runs(paths: Sequence[Path]) -> list[RunReport]:
    """Judge how files fit together: one report for each run of several files that one of these begins.

    There is one, too, for a file that goes on with another one that is not there. What is wrong within a file is not
    said here: `moe_watch.sessions.verifying.file`.
    """
    files = filter(None, map(_read, paths))
    reports = [_judge_alone(file) if file.header.continues else _judge(file) for file in files]
    return [report for report in reports if report is not None]


def _read(path: Path) -> _RunFile | None:
    """A file that has a header."""
    with suppress(UserError), closing(open_whole(path)) as store:
        opening = read_opening(store)
        return None if opening.header is None else _RunFile(path, opening.header, opening)
    return None


def _parts(path: Path) -> tuple[list[_RunFile], list[_RunFile]]:
    """Return the files that continue a run's first one, and those that continue an earlier run of its name.

    Raises:
        UserError: more files say that they continue it than a run can have.
    """
    first = _read(path)
    if first is None or first.header.continues is not None:
        return [], []
    named = [
        file
        for file in filter(None, map(_read, numbered_beside(path)))
        if file.header.continues is not None and file.header.continues.file == path.name
    ]
    ours = [file for file in named if goes_on_with(file.header, path.name, first.header)]
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
        f"{each.name} goes on with another run of this name, begun {shown(each.header.created)}" for each in others
    ]
    if not parts and not remarks:
        return None
    join = _Join(first)
    for part in parts:
        join.add(part)
    return RunReport(str(first.path), [str(part.path) for part in parts], join.tokens, join.findings.all(), remarks)


def _judge_alone(part: _RunFile) -> RunReport | None:
    """A part whose first file is not there; None if it is, for then the run is judged with it."""
    before = part.header.continues
    assert before is not None
    first = _read(part.path.parent / before.file) if Path(before.file).name == before.file else None
    if first is not None and goes_on_with(part.header, before.file, first.header):
        return None
    findings = IssueCollector()
    findings.add("missing file", f"{shown(before.file)}, which it goes on with at token {before.i}, is not there")
    return RunReport(str(part.path), [], 0, findings.all(), [])


class _Join:
    """Reads the files of a run one after another, and compares how one ends with how the next begins.

    Args:
        first: the run's first file.
    """

    def __init__(self, first: _RunFile) -> None:
        self.findings = IssueCollector()
        self.tokens = 0
        self._first = first
        self._next = 0
        """Index behind that of the last token."""
        self._recomputed = Recomputed(first.header, set())
        self._read(first)

    def add(self, part: _RunFile) -> None:
        """Take in the next file, if it can be one of this run."""
        fields = differing_fields(self._first.header, part.header)
        if fields:
            self.findings.add("other header", f"{part.name} differs from {self._first.name} in {', '.join(fields)}")
        if not set(THE_RUN) & set(fields) and self._goes_on(part):
            self._read(part)

    def _goes_on(self, part: _RunFile) -> bool:
        """Whether a part begins where the files before it end, or later."""
        frame, header = part.opening.keyframe, part.header
        if frame is None:
            self.findings.add("keyframes", f"{part.name} does not begin with a keyframe")
            return False
        if header.continues is not None and header.continues.i != frame.i:
            text = f"{part.name}: after {header.continues.i} tokens by its header, after {frame.i} by its keyframe"
            self.findings.add("keyframes", text)
        if frame.i < self._next:
            text = f"{part.name} begins after {frame.i} tokens, where {self._next} are there before it"
            self.findings.add("repeated tokens", text, count=self._next - frame.i)
            return False
        if frame.i > self._next:
            text = f"{self._next} to {frame.i - 1} are missing before {part.name}"
            self.findings.add("missing tokens", text, count=frame.i - self._next)
        elif not (part.opening.dropped or agree(frame, self._recomputed.state())):
            self.findings.add("keyframes", f"{part.name} begins with one that the files before it do not lead to")
        return True

    def _read(self, file: _RunFile) -> None:
        """Compute on with what can be read of a file."""
        with suppress(UserError), closing(PlausibleReader(file.path)) as reader:
            for examined in reader.examine():
                if examined.event is not None:
                    self._recomputed.take(examined.event)
                if isinstance(examined.event, Token):
                    self.tokens, self._next = self.tokens + 1, examined.event.i + 1
