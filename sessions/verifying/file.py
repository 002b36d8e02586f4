"""Verification of a session file: complete, readable and consistent. `moe-watch verify`."""

from __future__ import annotations

from collections import deque
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from moe_watch.routing.events import Event, Header, Token, Unknown
from moe_watch.sessions.reading.reader import Examined
from moe_watch.sessions.reading.store import open_whole
from moe_watch.sessions.reading.token_arrays import TokenArrays, TokenBatches
from moe_watch.sessions.verifying.event_checks import DerivedChecks, EventChecks
from moe_watch.sessions.verifying.header_checks import check_facts, remarks
from moe_watch.sessions.verifying.index_outliers import PlausibleReader
from moe_watch.sessions.verifying.issues import Issue, IssueCollector
from moe_watch.sessions.verifying.mask_checks import MaskChecks
from moe_watch.sessions.verifying.run_checks import RoutingChecks


@dataclass(frozen=True, slots=True)
class Report:
    """Result of verifying a file."""

    file: str
    header: Header
    lines: int
    """Number of the last line."""
    tokens: int
    chunks: int
    """Number of recorded chunks."""
    unknown: int
    """Number of events of a newer version, which are not checked."""
    findings: list[Issue]
    """Faults, in the order of lines."""
    remarks: list[str]
    """Notes that are no faults, one line each."""

    @property
    def fine(self) -> bool:
        """True if there are no faults."""
        return not self.findings


def verify(path: Path) -> Report:
    """Read a session file to its end and check every event, in bounded memory.

    Raises:
        UserError: the file cannot be read, or its first line is not a header.
    """
    with closing(PlausibleReader(open_whole(path))) as reader:
        verification = _Verification(reader.header)
        for examined in reader.examine():
            verification.feed(examined)
        return verification.report(str(path), reader.line)


class _Verification:
    """Verification of one file."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._findings = IssueCollector()
        self._events = EventChecks(header, self._findings)
        self._derived = DerivedChecks(header, self._findings)
        self._masks = MaskChecks(header, self._findings)
        self._routing = RoutingChecks(header, self._findings)
        self._batches = TokenBatches(header)
        self._places: deque[tuple[int, bool | None]] = deque()
        """Line and state of the tap for each token that is in no batch yet."""
        self._tokens = self._unknown = 0
        check_facts(header, self._findings)

    def feed(self, examined: Examined) -> None:
        """Check the next line."""
        if examined.event is None:
            kind = "torn end" if examined.torn else "unreadable lines"
            text = "the last line is cut off" if examined.torn else examined.problem
            self._findings.add(kind, text, examined.line)
        elif isinstance(examined.event, Unknown):
            self._unknown += 1
        else:
            self._see(examined.event, examined.line)

    def _see(self, event: Event, line: int) -> None:
        self._events.feed(event, line)
        self._derived.feed(event, line)
        self._masks.feed(event, line)
        if isinstance(event, Token):
            self._tokens += 1
            self._places.append((line, self._events.tap))
        for batch in self._batches.feed(event):
            self._judge(batch)

    def _judge(self, batch: TokenArrays) -> None:
        places = [self._places.popleft() for _ in range(len(batch))]
        self._routing.feed(batch, [line for line, _ in places], [tap for _, tap in places])

    def report(self, file: str, lines: int) -> Report:
        """Return the report, after the last line."""
        for batch in self._batches.rest():
            self._judge(batch)
        self._routing.finish(forced=self._masks.forced)
        self._derived.finish(ended=self._events.ended)
        return Report(
            file=file,
            header=self._header,
            lines=lines,
            tokens=self._tokens,
            chunks=self._derived.chunks,
            unknown=self._unknown,
            findings=self._findings.all(),
            remarks=[*remarks(self._header), *self._remarks()],
        )

    def _remarks(self) -> list[str]:
        found = []
        if self._unknown:
            found.append(f"{self._unknown} events of a newer version are not checked")
        if self._tokens and not self._derived.chunks:
            found.append("no chunk is recorded; a replay computes them")
        if not self._events.ended:
            found.append("the recording ends before the run does")
        return found
