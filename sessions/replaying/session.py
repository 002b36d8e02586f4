"""A session file opened for a replay: bytes, line index and, once the header is read, reader and positions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from moe_watch.sessions.reading.index import EventPosition, LineIndex
from moe_watch.sessions.reading.multipart import JoinedStore, open_run
from moe_watch.sessions.reading.reader import SessionReader
from moe_watch.sessions.reading.recompute import Recomputed
from moe_watch.sessions.reading.store import Store
from moe_watch.sessions.replaying.count_steps import StepPositions
from moe_watch.sessions.replaying.progress import PlaybackProgress
from moe_watch.sessions.replaying.seeking import Positions, TokenPositions
from moe_watch.sessions.source import Timeline


class IndexedFile:
    """Bytes of a session and the index of their lines, extended a little at a time.

    Args:
        source: the file, or the bytes of one.
        follow: read lines that are added to the file later.

    Raises:
        UserError: the file cannot be opened.
    """

    def __init__(self, source: Path | Store, *, follow: bool) -> None:
        self.name = source.name
        """File name without its folder, for messages."""
        self.store: Store = open_run(source, follow=follow) if isinstance(source, Path) else source
        self.index = LineIndex(self.store)
        self.has_header = False
        """The first line is whole, or the file is complete without one."""
        self._all_indexed = False
        """The index has every line that the file will ever have."""

    @property
    def notes(self) -> list[str]:
        """Notes on how the files of a multi-part session were joined, one line each."""
        return self.store.notes if isinstance(self.store, JoinedStore) else []

    def extend(self, stop: Callable[[], bool]) -> bool:
        """Index lines that were added, until `stop` returns True; return whether there are new ones.

        Raises:
            UserError: the store cannot be read.
        """
        if self._all_indexed:
            return False
        complete, lines = self.store.complete, self.index.lines
        self.index.extend(stop)
        self._all_indexed = complete and not self.index.behind
        self.has_header = complete or self.index.lines > 0
        return self.index.lines > lines


class ReplaySession:
    """A session whose header is read.

    Args:
        file: the indexed file; it `has_header`.

    Raises:
        UserError: the first line is no header of a session.
    """

    def __init__(self, file: IndexedFile) -> None:
        self.file = file
        self.index = file.index
        self.reader = SessionReader(file.store)
        self.header = self.reader.header
        self.positions: Positions = StepPositions(self.index) if self.header.counts_only else TokenPositions(self.index)
        self.extent: tuple[EventPosition, EventPosition] | None = self.positions.extent()
        """Positions of the first and the last token; None while there is none."""
        self._differing: set[tuple[type, int]] = set()
        """Recorded chunks and keyframes that differ from the recomputed ones."""

    @property
    def seekable(self) -> bool:
        """There are positions to seek to, or there may be some when more of the file is read."""
        return self.extent is not None or not self.header.counts_only

    @property
    def warnings(self) -> list[str]:
        """Warnings about the file, as far as it was played; one line each."""
        name, before = self.file.name, self.header.continues
        found = [*self.header.warnings, *([self.reader.torn] if self.reader.torn else []), *self.file.notes]
        if before is not None:
            found.append(f"{name}: continues {before.file} at token {before.i}; it is read alone")
        if self._differing:
            what = f"chunks or keyframes that differ from the tokens: {len(self._differing)}"
            found.append(f"{self.file.store.name}: {what}; the recomputed ones are shown")
        return found

    def measure(self) -> None:
        """Update `extent` after the index was extended."""
        self.extent = self.positions.extent()

    def instruments(self) -> Recomputed:
        """Return new instruments, which recompute chunks and keyframes from the tokens."""
        return Recomputed(self.header, self._differing)

    def read_from(self, line: int) -> None:
        """Continue reading at a line, counted from 0."""
        self.reader.go_to(line + 1, self.index.start_of(line))

    def timeline(self, progress: PlaybackProgress) -> Timeline | None:
        """Return the extent of the session and the position in it; None while there is no token."""
        if self.extent is None:
            return None
        first, last = self.extent
        return Timeline(
            first=first.i,
            tokens=last.i + 1,
            seconds=last.t,
            position=progress.position,
            time=progress.time,
            chunks=len(self.index.chunks),
            marks=self.index.marks,
            perturbations=self.index.perturbations,
            masks=self.index.masks,
        )
