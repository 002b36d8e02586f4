"""Where a live run is recorded.

One file per run, another one each time recording is switched on, and a continuation where a file can take no more.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Literal

import msgspec

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Continues, Event, Header, Keyframe
from moe_watch.sessions import paths
from moe_watch.sessions.recording.pending import Gap
from moe_watch.sessions.recording.recorder import Recorder
from moe_watch.sessions.source import RecordingStatus

StateNow = Callable[[], Keyframe]
"""All that later events need, after those that were recorded so far."""
Freeze = Callable[[], StateNow]
"""Gives what tells the state of this moment later; cheap, for it is seldom asked."""


class Recording:
    """Switches recording on and off, and says how it is.

    Args:
        wanted: whether runs are recorded.
        output: the first file; later ones are numbered after it. None makes names in `folder`.
        force: replace `output` if it exists.
        folder: where files without a given name go.
        stream: a descriptor that the first run is written to instead of a file; closed with it.
        clock: monotonic seconds.
        today: the date for names.
    """

    def __init__(
        self,
        *,
        wanted: bool,
        output: Path | None,
        force: bool,
        folder: Path,
        clock: Callable[[], float],
        today: Callable[[], date],
        stream: int | None = None,
    ) -> None:
        self.wanted = wanted
        self._output = output
        self._output_used = False
        self._force = force
        self._folder = folder
        self._stream = stream
        self._clock = clock
        self._today = today
        self._recorder: Recorder | None = None
        self._last_kept: Recorder | None = None
        """The file before, which is told of while there is none of the present run."""
        self._first: Path | None = None
        """The present run's first file, once it has taken its place."""
        self._parts = 0
        """Files of the present run."""
        self._header: Header | None = None
        self._state: StateNow | None = None
        self._freeze: Freeze | None = None
        self._flushed_state: StateNow | None = None
        """The state after all that the system has of a compressed file; None of one that holds nothing back."""
        self._gap: Gap | None = None
        self._running = False
        """More events of the present run may come."""
        self._missing = ""
        """What no file holds although it was to be recorded."""

    @property
    def active(self) -> bool:
        """Whether events are being written now."""
        return self._recorder is not None and self._recorder.writing

    @property
    def waiting(self) -> bool:
        """Whether events are kept until there is a file to write them to."""
        return self._gap is not None and self._running

    @property
    def broken_off(self) -> bool:
        """The reader of the stream has gone: nobody waits for what the run may still give."""
        return self._stream is not None and self._recorder is not None and bool(self._recorder.problem)

    @property
    def status(self) -> RecordingStatus:
        recorder = self._recorder or self._last_kept
        problem = self._problem(recorder)
        if recorder is None:
            return RecordingStatus("failed" if problem else "off", problem=problem)
        mode: Literal["recording", "failed", "off"] = "recording" if recorder.writing else "off"
        if self._gap is not None or recorder.problem:
            mode = "failed"
        path = str(recorder.path) if recorder.path and (recorder.writing or recorder.in_place) else ""
        return RecordingStatus(mode, recorder.name, path, recorder.bytes, problem)

    def _problem(self, recorder: Recorder | None) -> str:
        if self._gap is not None:
            return self._gap.problem + (", trying again" if self._running else "")
        return (recorder.problem if recorder is not None else "") or self._missing

    def check(self) -> None:
        """Refuse an output file that could not be begun later.

        Raises:
            UserError: it exists and may not be replaced, or it cannot exist.
        """
        if self.wanted and self._output is not None and paths.is_taken(self._output) and not self._force:
            raise paths.exists_already(self._output)

    def begin(
        self, header: Header, state: StateNow, freeze: Freeze | None = None, *, under_way: bool = False
    ) -> UserError | None:
        """Begin a file, if recording is wanted.

        Args:
            header: of the run.
            state: asked where a file begins after the run did.
            freeze: asked several times a second while a file is compressed; without it, what a compressor holds when
                the disk is full is lost.
            under_way: the run has begun already.

        Returns:
            Why it cannot be begun, if it cannot; `status` says so too, and it is tried again.
        """
        self.end()
        self._last_kept = self._recorder or self._last_kept
        self._recorder, self._gap, self._first, self._missing = None, None, None, ""
        self._parts = 0
        self._header, self._state, self._freeze = header, state, freeze
        if not self.wanted:
            return None
        self._running = True
        start = state() if under_way else None
        try:
            self._recorder = self._begin_file(header)
        except UserError as error:
            self._gap = Gap(str(error), start, now=self._clock())
            return error
        self._parts = 1
        self._note_place()
        if start is not None:
            self.append(start)
        return None

    def append(self, event: Event) -> None:
        """Record one event, if recording is on; to be called before `state` knows of it."""
        if not self._running:
            return
        if self._gap is None and self._recorder is not None:
            self._keep_flushed_state(self._recorder)
            taken = self._recorder.append(event)
            self._note_failure()
            if taken:
                self._note_place()
                return
        if self._gap is not None:
            assert self._state is not None
            self._gap.keep(event, self._state)

    def take_back(self) -> None:
        """Remove the event that was recorded last."""
        if self._gap is not None:
            self._gap.take_back()
        elif self._recorder is not None:
            self._recorder.take_back()

    def tick(self) -> None:
        """Do what is due; to be called several times a second."""
        if self._gap is not None and self._gap.is_due(self._clock()):
            self.retry()
        elif self._recorder is not None:
            self._recorder.tick()
            self._note_failure()

    def retry(self) -> None:
        """Try to record again, if that is what recording waits for."""
        gap, header = self._gap, self._header
        if gap is None or header is None:
            return
        try:
            recorder = self._next_file(header, gap)
        except UserError:
            gap.put_off(self._clock())
            return
        if not (all(recorder.append(event) for event in gap.events()) and recorder.flush()):
            recorder.discard()
            gap.put_off(self._clock())
            return
        self._recorder, self._gap = recorder, None
        self._parts = 1 if self._first is None else self._parts + 1
        self._note_place()
        self._note_missing(gap)
        if not self._running:
            recorder.close()

    def end(self) -> None:
        """Close the file, if there is one, and what is kept for one. A file that holds no token replaces none."""
        self._running = False
        if self._gap is None and self._recorder is not None:
            self._recorder.close()
            if self._recorder.unwritten:
                self._note_failure()
        if self._gap is not None:
            self._end_gap(self._gap)
        if self._recorder is None:
            return
        self._recorder.close()
        if not (self._recorder.in_place or self._recorder.problem):
            self._forget()

    def discard(self) -> None:
        """Remove the run's file: nothing came into being. What it was to replace stays, and so does any other run's."""
        self._gap = None
        if self._recorder is not None:
            self._recorder.discard()
            self._forget()

    def _end_gap(self, gap: Gap) -> None:
        if gap.worth_a_file:
            self.retry()
        else:
            self._missing, self._gap = gap.problem, None

    def _forget(self) -> None:
        """There is no file of the present run; its name is free for another one."""
        if self._last_kept is None:
            self._output_used = False
        self._recorder = None

    def _keep_flushed_state(self, recorder: Recorder) -> None:
        """Note the state before the first event that a compressor keeps for itself."""
        if recorder.holds_back and recorder.is_flushed and self._freeze is not None:
            self._flushed_state = self._freeze()

    def _note_failure(self) -> None:
        """If the file can take no more, keep what comes, and what a compressor held if the state before it is known."""
        recorder = self._recorder
        if self._gap is not None or recorder is None or not recorder.problem or self._stream is not None:
            return
        assert self._state is not None
        state, lines, lost = self._state, recorder.unwritten, 0
        if lines and self._flushed_state is not None:
            state = self._flushed_state
        elif lines:
            lines, lost = (), len(lines)
        self._gap = Gap(recorder.problem, state(), lost=lost, now=self._clock(), lines=lines)
        self._flushed_state = None
        if not recorder.in_place:
            self._forget()

    def _note_place(self) -> None:
        if self._first is None and self._recorder is not None and self._recorder.in_place:
            self._first = self._recorder.path

    def _note_missing(self, gap: Gap) -> None:
        if gap.lost:
            token = 0 if gap.start is None else gap.start.i
            self._missing = f"{gap.lost:,} events before token {token:,} are in no file"

    def _next_file(self, header: Header, gap: Gap) -> Recorder:
        if self._first is None:
            return self._begin_file(header)
        continues = Continues(file=self._first.name, i=0 if gap.start is None else gap.start.i)
        header = msgspec.structs.replace(header, continues=continues)
        return Recorder.continuation(self._first, header, number=self._parts + 1, clock=self._clock)

    def _begin_file(self, header: Header) -> Recorder:
        if self._stream is not None:
            return self._begin_stream(self._stream, header)
        if self._output is None:
            stem = paths.session_stem(header.model.name, self._today())
            return Recorder.numbered(self._folder, stem, header, clock=self._clock)
        if self._output_used:
            stem, ending = paths.stem_of(self._output), paths.ending_of(self._output)
            return Recorder.numbered(self._output.parent, stem, header, first=2, ending=ending, clock=self._clock)
        recorder = Recorder.create(self._output, header, force=self._force, clock=self._clock)
        self._output_used = True
        return recorder

    def _begin_stream(self, descriptor: int, header: Header) -> Recorder:
        try:
            return Recorder.stream(descriptor, header, clock=self._clock)
        except OSError as error:
            raise UserError("standard output cannot be written", advice=error.strerror or str(error)) from error
