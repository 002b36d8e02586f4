"""What is found wrong with a session, one line for each kind of fault however often it occurs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Issue:
    """A fault of one kind."""

    check: str
    """What was checked, a fixed name."""
    line: int | None
    """Where it was found first, 1-based; None if it is about the file as a whole."""
    text: str
    """What is wrong there."""
    count: int
    """How often it was found."""


class IssueCollector:
    """Collects faults: of each kind the first one in words, and how many."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[int | None, str]] = {}
        self._counts: dict[str, int] = {}

    def add(self, check: str, text: str, line: int | None = None, count: int = 1) -> None:
        """Note `count` faults, the first of them on this line."""
        self._first.setdefault(check, (line, text))
        self._counts[check] = self._counts.get(check, 0) + count

    def all(self) -> list[Issue]:
        """Every kind of fault, those of certain lines first and in their order."""
        found = [Issue(check, *first, self._counts[check]) for check, first in self._first.items()]
        return sorted(found, key=lambda each: (each.line is None, each.line or 0))
