"""Recording of one run: its file, continuation files, and events that wait for a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Event, Header, Keyframe
from moe_watch.sessions.recording.pending import Gap
from moe_watch.sessions.recording.recorder import Recorder
from moe_watch.sessions.recording.session_files import SessionFiles

StateNow = Callable[[], Keyframe]
"""Returns the full state after the events that were recorded so far."""
Freeze = Callable[[], StateNow]
"""Returns a function that gives the state of this moment later. It must be cheap: its result is seldom used."""


@dataclass(frozen=True, slots=True)
class RunState:
    """Source of a run's full state, for files that begin in the middle of the run."""

    now: StateNow
    freeze: Freeze | None = None
    """Called several times a second while a file is compressed. Without it, the lines that a compressor holds when the
    disk is full are lost."""


class RunRecording:
    """Files of one run.

    Args:
        files: creates files.
        header: header of the run.
        state: full state of the run.
        clock: monotonic seconds.
        is_first: no earlier run has a file; the given name is free again if this run gets none.
    """

    def __init__(
        self, files: SessionFiles, header: Header, state: RunState, clock: Callable[[], float], *, is_first: bool
    ) -> None:
        self.recorder: Recorder | None = None
        self.gap: Gap | None = None
        self.running = True
        """More events may come."""
        self.missing = ""
        """Events that are in no file although they were to be recorded."""
        self._files = files
        self._header = header
        self._state = state
        self._clock = clock
        self._is_first = is_first
        self._first_file: Path | None = None
        """First file, once it is in its place."""
        self._file_count = 0
        self._flushed_state: StateNow | None = None
        """State after all events of a compressed file that the system has; None for other files."""

    @property
    def active(self) -> bool:
        """Events are written to a file."""
        return self.recorder is not None and self.recorder.writing

    @property
    def waiting(self) -> bool:
        """Events are kept until there is a file for them."""
        return self.gap is not None and self.running

    def begin(self, start: Keyframe | None) -> UserError | None:
        """Create the first file.

        Args:
            start: full state of a run that has begun already.

        Returns:
            Why it cannot be created, or None. It is tried again.
        """
        try:
            self.recorder = self._files.create(self._header)
        except UserError as error:
            self.gap = Gap(str(error), start, now=self._clock())
            return error
        self._file_count = 1
        self._note_place(self.recorder)
        if start is not None:
            self.append(start)
        return None

    def append(self, event: Event) -> None:
        """Record one event. The run's state must not include it yet."""
        if not self.running:
            return
        recorder = self.recorder
        if self.gap is None and recorder is not None:
            self._keep_flushed_state(recorder)
            taken = recorder.append(event)
            self._note_failure()
            if taken:
                self._note_place(recorder)
                return
        if self.gap is not None:
            self.gap.keep(event, self._state.now)

    def take_back(self) -> None:
        """Remove the event that was recorded last."""
        if self.gap is not None:
            self.gap.take_back()
        elif self.recorder is not None:
            self.recorder.take_back()

    def tick(self) -> None:
        """Do periodic work; to be called several times a second."""
        if self.gap is not None and self.gap.is_due(self._clock()):
            self.retry()
        elif self.recorder is not None:
            self.recorder.tick()
            self._note_failure()

    def retry(self) -> None:
        """Try again to create a file for the events in the gap, if there is one."""
        gap = self.gap
        if gap is None:
            return
        try:
            recorder = self._next_file(gap)
        except UserError:
            gap.put_off(self._clock())
            return
        if not (all(recorder.append(event) for event in gap.events()) and recorder.flush()):
            recorder.discard()
            gap.put_off(self._clock())
            return
        self.recorder, self.gap = recorder, None
        self._file_count = 1 if self._first_file is None else self._file_count + 1
        self._note_place(recorder)
        self._note_missing(gap)
        if not self.running:
            recorder.close()

    def end(self) -> None:
        """Close the file, and write the events that wait for one. A file without a token replaces no other file."""
        self.running = False
        if self.gap is None and self.recorder is not None:
            self.recorder.close()
            if self.recorder.unwritten:
                self._note_failure()
        if self.gap is not None:
            self._end_gap(self.gap)
        if self.recorder is None:
            return
        self.recorder.close()
        if not (self.recorder.in_place or self.recorder.problem):
            self._forget()

    def discard(self) -> None:
        """Remove the file of a run without a token. A file that it was to replace stays."""
        self.gap = None
        if self.recorder is not None:
            self.recorder.discard()
            self._forget()

    def _end_gap(self, gap: Gap) -> None:
        if gap.worth_a_file:
            self.retry()
        else:
            self.missing, self.gap = gap.problem, None

    def _forget(self) -> None:
        """Forget the file; its name is free for another one."""
        if self._is_first:
            self._files.release()
        self.recorder = None

    def _keep_flushed_state(self, recorder: Recorder) -> None:
        """Keep the state before the first event that a compressor holds back."""
        freeze = self._state.freeze
        if recorder.holds_back and recorder.is_flushed and freeze is not None:
            self._flushed_state = freeze()

    def _note_failure(self) -> None:
        """Open a gap if the file takes no more events.

        The gap includes the lines that a compressor held, if the state before them is known.
        """
        recorder = self.recorder
        if self.gap is not None or recorder is None or not recorder.problem or self._files.stream is not None:
            return
        state, lines, lost = self._state.now, recorder.unwritten, 0
        if lines and self._flushed_state is not None:
            state = self._flushed_state
        elif lines:
            lines, lost = (), len(lines)
        self.gap = Gap(recorder.problem, state(), lost=lost, now=self._clock(), lines=lines)
        self._flushed_state = None
        if not recorder.in_place:
            self._forget()

    def _note_place(self, recorder: Recorder) -> None:
        if self._first_file is None and recorder.in_place:
            self._first_file = recorder.path

    def _note_missing(self, gap: Gap) -> None:
        if gap.lost:
            self.missing = f"{gap.lost:,} events before token {gap.first_token:,} are in no file"

    def _next_file(self, gap: Gap) -> Recorder:
        if self._first_file is None:
            return self._files.create(self._header)
        return self._files.continuation(self._first_file, self._header, number=self._file_count + 1, i=gap.first_token)
