"""Options of a recording."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordingOptions:
    """Switch and file of a live run's recording."""

    record: bool = True
    output: Path | None = None
    """File to record to; None chooses a name in the data directory."""
    force: bool = False
    """Replace `output` if it exists."""
    required: bool = False
    """Do not begin the first run without a file, even if `output` is None."""

    @property
    def is_required(self) -> bool:
        """The first run does not begin if its file cannot be created."""
        return self.required or self.output is not None
