"""Faults of a session, collected by kind: one line per kind, however often it occurs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Issue:
    """Faults of one kind."""

    check: str
    """Fixed name of the check."""
    line: int | None
    """Line of the first fault, 1-based; None for a fault of the whole file."""
    text: str
    """Description of the first fault."""
    count: int
    """Number of faults."""


class IssueCollector:
    """Collector of faults: the first of each kind in words, and their number."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[int | None, str]] = {}
        self._counts: dict[str, int] = {}

    def add(self, check: str, text: str, line: int | None = None, count: int = 1) -> None:
        """Add `count` faults, the first of them on this line."""
        self._first.setdefault(check, (line, text))
        self._counts[check] = self._counts.get(check, 0) + count

    def all(self) -> list[Issue]:
        """Return all kinds of faults: faults with a line in the order of lines, then faults of the whole file."""
        found = [Issue(check, *first, self._counts[check]) for check, first in self._first.items()]
        return sorted(found, key=lambda each: (each.line is None, each.line or 0))
