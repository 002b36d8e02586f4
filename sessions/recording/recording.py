"""Recording of a live run.

Each run has one file, another one each time recording is switched on, and a continuation file if a file takes no more.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Literal

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Event, Header
from moe_watch.sessions.recording.options import RecordingOptions
from moe_watch.sessions.recording.recorder import Recorder
from moe_watch.sessions.recording.run_recording import Freeze, RunRecording, RunState, StateNow
from moe_watch.sessions.recording.session_files import SessionFiles
from moe_watch.sessions.source import RecordingStatus


class Recording:
    """Switch and status of the recording of successive runs.

    Args:
        options: whether runs are recorded, and to which file.
        folder: for files without a given name.
        clock: monotonic seconds.
        today: returns the date for names.
        stream: descriptor to record the first run to instead of a file; closed with it.
    """

    def __init__(
        self,
        options: RecordingOptions,
        *,
        folder: Path,
        clock: Callable[[], float],
        today: Callable[[], date],
        stream: int | None = None,
    ) -> None:
        self.wanted = options.record
        """Runs are to be recorded."""
        self._files = SessionFiles(options, folder=folder, stream=stream, clock=clock, today=today)
        self._clock = clock
        self._run: RunRecording | None = None
        """Files of the present run, if it is or was recorded."""
        self._last_kept: Recorder | None = None
        """File of an earlier run; `status` shows it while the present run has none."""

    @property
    def active(self) -> bool:
        """Events are written to a file."""
        return self._run is not None and self._run.active

    @property
    def waiting(self) -> bool:
        """Events are kept until there is a file for them."""
        return self._run is not None and self._run.waiting

    @property
    def broken_off(self) -> bool:
        """The reader of the stream has closed it: the rest of the run has no reader."""
        recorder = self._present
        return self._files.stream is not None and recorder is not None and bool(recorder.problem)

    @property
    def status(self) -> RecordingStatus:
        recorder = self._present or self._last_kept
        problem = self._problem(recorder)
        if recorder is None:
            return RecordingStatus("failed" if problem else "off", problem=problem)
        mode: Literal["recording", "failed", "off"] = "recording" if recorder.writing else "off"
        if recorder.problem or (self._run is not None and self._run.gap is not None):
            mode = "failed"
        path = str(recorder.path) if recorder.path and (recorder.writing or recorder.in_place) else ""
        return RecordingStatus(mode, recorder.name, path, recorder.bytes, problem)

    def _problem(self, recorder: Recorder | None) -> str:
        run = self._run
        if run is not None and run.gap is not None:
            return run.gap.problem + (", trying again" if run.running else "")
        return (recorder.problem if recorder is not None else "") or (run.missing if run is not None else "")

    @property
    def _present(self) -> Recorder | None:
        return None if self._run is None else self._run.recorder

    def check(self) -> None:
        """Refuse an output file that cannot be created later.

        Raises:
            UserError: it exists and may not be replaced, or it cannot exist.
        """
        if self.wanted:
            self._files.check()

    def begin(
        self, header: Header, state: StateNow, freeze: Freeze | None = None, *, under_way: bool = False
    ) -> UserError | None:
        """Begin a file, if recording is on.

        Args:
            header: header of the run.
            state: called if a file begins in the middle of the run.
            freeze: see `RunState`.
            under_way: the run has begun already.

        Returns:
            Why it cannot be created, or None; `status` shows it too, and it is tried again.
        """
        self.end()
        self._last_kept = self._present or self._last_kept
        self._run = None
        if not self.wanted:
            return None
        is_first = self._last_kept is None
        self._run = RunRecording(self._files, header, RunState(state, freeze), self._clock, is_first=is_first)
        return self._run.begin(state() if under_way else None)

    def append(self, event: Event) -> None:
        """Record one event, if recording is on. The run's state must not include it yet."""
        if self._run is not None:
            self._run.append(event)

    def take_back(self) -> None:
        """Remove the event that was recorded last."""
        if self._run is not None:
            self._run.take_back()

    def tick(self) -> None:
        """Do periodic work; to be called several times a second."""
        if self._run is not None:
            self._run.tick()

    def retry(self) -> None:
        """Try again to create a file, if events wait for one."""
        if self._run is not None:
            self._run.retry()

    def end(self) -> None:
        """Close the file, and write the events that wait for one. A file without a token replaces no other file."""
        if self._run is not None:
            self._run.end()

    def discard(self) -> None:
        """Remove the present run's file because it has no token. Files of other runs stay."""
        if self._run is not None:
            self._run.discard()
