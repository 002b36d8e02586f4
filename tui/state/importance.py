"""Importance of the experts of the model on the screen, from files."""

from __future__ import annotations

from collections.abc import Sequence

from moe_watch.routing.errors import UserError
from moe_watch.routing.header import Header
from moe_watch.sessions.experts.importance import Importance, ImportanceFile, importance_of
from moe_watch.sessions.experts.stored_importance import stored_importance


class ImportanceOfRun:
    """Importance for each run's model: from the named files, or else from the model's files in the data directory.

    Args:
        files: files that the user named, with their names.
    """

    def __init__(self, files: Sequence[tuple[str, ImportanceFile]] = ()) -> None:
        self.problems: list[str] = []
        """Reason why the named files cannot be used for the present model; empty if they can."""
        self._files = files
        self._header: Header | None = None
        self._found: Importance | None = None

    def of(self, header: Header | None) -> Importance | None:
        """Return the importance for the model of a run; None if nothing is known."""
        if header is not self._header:
            self._header = header
            self._found, self.problems = None, []
            if header is not None and not header.is_dense:
                self._read(header)
        return self._found

    def _read(self, header: Header) -> None:
        try:
            found = importance_of(self._files, header.model) if self._files else stored_importance(header.model)
        except UserError as error:
            self.problems = [str(error)]
            return
        self._found = found if found.known else None
