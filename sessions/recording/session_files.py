"""Names and creation of the session files of a live run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import msgspec

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Continues, Header
from moe_watch.sessions import paths
from moe_watch.sessions.recording.options import RecordingOptions
from moe_watch.sessions.recording.recorder import Recorder


class SessionFiles:
    """Creates session files: the named one, later ones numbered after it, and continuation files.

    Args:
        options: with the name of the first file; without one, names are made in `folder`.
        folder: for files without a given name.
        stream: descriptor to record to instead of a file; closed with it.
        clock: monotonic seconds.
        today: returns the date for names.
    """

    def __init__(
        self,
        options: RecordingOptions,
        *,
        folder: Path,
        stream: int | None,
        clock: Callable[[], float],
        today: Callable[[], date],
    ) -> None:
        self.stream = stream
        self._options = options
        self._folder = folder
        self._clock = clock
        self._today = today
        self._is_output_used = False

    def check(self) -> None:
        """Refuse a named file that cannot be created later.

        Raises:
            UserError: it exists and may not be replaced, or it cannot exist.
        """
        output = self._options.output
        if output is not None and paths.is_taken(output) and not self._options.force:
            raise paths.exists_already(output)

    def release(self) -> None:
        """Make the given name free for another file."""
        self._is_output_used = False

    def create(self, header: Header) -> Recorder:
        """Create the first file of a run.

        Raises:
            UserError: it cannot be created.
        """
        output = self._options.output
        if self.stream is not None:
            return self._to_stream(self.stream, header)
        if output is None:
            stem = paths.session_stem(header.model.name, self._today())
            return Recorder.numbered(self._folder, stem, header, clock=self._clock)
        if self._is_output_used:
            stem, ending = paths.stem_of(output), paths.ending_of(output)
            return Recorder.numbered(output.parent, stem, header, first=2, ending=ending, clock=self._clock)
        recorder = Recorder.create(output, header, force=self._options.force, clock=self._clock)
        self._is_output_used = True
        return recorder

    def continuation(self, first: Path, header: Header, *, number: int, i: int) -> Recorder:
        """Create a continuation file.

        Args:
            first: first file of the run.
            header: of the run.
            number: number of the file, from 2 on.
            i: token index at which it begins.

        Raises:
            UserError: it cannot be created.
        """
        header = msgspec.structs.replace(header, continues=Continues(file=first.name, i=i))
        return Recorder.continuation(first, header, number=number, clock=self._clock)

    def _to_stream(self, descriptor: int, header: Header) -> Recorder:
        try:
            return Recorder.stream(descriptor, header, clock=self._clock)
        except OSError as error:
            raise UserError("standard output cannot be written", advice=error.strerror or str(error)) from error
