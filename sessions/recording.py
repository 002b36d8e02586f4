"""Where a live run is recorded: one file per run, and a new one each time recording is switched on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Literal

from routing.errors import UserError
from routing.events import Event, Header, Keyframe
from sessions import paths
from sessions.recorder import Recorder
from sessions.source import RecordingStatus


class Recording:
    """Switches recording on and off, and says how it is.

    Args:
        wanted: whether runs are recorded.
        output: the first file; later ones are numbered after it. None makes names in `folder`.
        force: replace `output` if it exists.
        folder: where files without a given name go.
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
    ) -> None:
        self.wanted = wanted
        self._output = output
        self._output_used = False
        self._force = force
        self._folder = folder
        self._clock = clock
        self._today = today
        self._recorder: Recorder | None = None
        self._last_kept: Recorder | None = None
        """The file before, which is told of while there is none of the present run."""
        self._problem = ""

    @property
    def active(self) -> bool:
        """Whether events are being written now."""
        return self._recorder is not None and self._recorder.writing

    @property
    def status(self) -> RecordingStatus:
        if self._problem:
            return RecordingStatus("failed", problem=self._problem)
        recorder = self._recorder or self._last_kept
        if recorder is None:
            return RecordingStatus("off")
        name, problem = recorder.name, recorder.problem
        path = str(recorder.path) if recorder.writing or recorder.in_place else ""
        mode: Literal["recording", "failed", "off"] = (
            "recording" if recorder.writing else "failed" if problem else "off"
        )
        return RecordingStatus(mode, name, path, recorder.bytes, problem)

    def check(self) -> None:
        """Refuse an output file that could not be begun later.

        Raises:
            UserError: it exists and may not be replaced, or it cannot exist.
        """
        if self.wanted and self._output is not None and paths.is_taken(self._output) and not self._force:
            raise paths.exists_already(self._output)

    def begin(self, header: Header, keyframe: Keyframe | None = None) -> UserError | None:
        """Begin a file, if recording is wanted; `keyframe` if the run has begun already.

        Returns:
            Why it cannot be begun, if it cannot; `status` says so too.
        """
        self.end()
        self._last_kept = self._recorder or self._last_kept
        self._recorder, self._problem = None, ""
        if not self.wanted:
            return None
        try:
            self._recorder = self._open(header)
        except UserError as error:
            self._problem = str(error)
            return error
        if keyframe is not None:
            self.append(keyframe)
        return None

    def append(self, event: Event) -> None:
        """Record one event, if there is a file."""
        if self._recorder is not None:
            self._recorder.append(event)

    def end(self) -> None:
        """Close the file, if there is one. A file that holds no token replaces none."""
        if self._recorder is None:
            return
        self._recorder.close()
        if not (self._recorder.in_place or self._recorder.problem):
            self._forget()

    def discard(self) -> None:
        """Remove the run's file: nothing came into being. What it was to replace stays, and so does any other run's."""
        if self._recorder is not None:
            self._recorder.discard()
            self._forget()

    def _forget(self) -> None:
        """There is no file of the present run; its name is free for another one."""
        if self._last_kept is None:
            self._output_used = False
        self._recorder = None

    def _open(self, header: Header) -> Recorder:
        if self._output is None:
            stem = paths.session_stem(header.model.name, self._today())
            return Recorder.numbered(self._folder, stem, header, clock=self._clock)
        if self._output_used:
            stem = paths.stem_of(self._output)
            return Recorder.numbered(self._output.parent, stem, header, first=2, clock=self._clock)
        recorder = Recorder.create(self._output, header, force=self._force, clock=self._clock)
        self._output_used = True
        return recorder
