"""Texts that wait to be put into the context, and those that come on a schedule."""

from __future__ import annotations

from backends.protocol import Perturb, Start


class Injections:
    """What is to be injected, and when.

    Args:
        start: names the text that comes every so many chunks, if any.
    """

    def __init__(self, start: Start) -> None:
        self._asked: list[Perturb] = []
        self._scheduled = Perturb(text=start.perturb, source="schedule") if start.perturb is not None else None
        self._every = start.perturb_every if self._scheduled else 0
        self._chunks = 0

    def ask(self, perturb: Perturb) -> None:
        """A person's wish; it waits for its moment."""
        self._asked.append(perturb)

    def any_due(self, *, completes: bool) -> bool:
        """Something is to follow the next token; `completes`: that token completes its chunk."""
        at_once = any(perturb.at_once for perturb in self._asked)
        return at_once or (completes and (bool(self._asked) or self._scheduled_after(self._chunks + 1)))

    def take_due(self, *, completed: bool) -> list[Perturb]:
        """What follows the token just drawn; `completed`: it completed its chunk."""
        due = [perturb for perturb in self._asked if completed or perturb.at_once]
        self._asked = [perturb for perturb in self._asked if perturb not in due]
        self._chunks += completed
        if completed and self._scheduled and self._scheduled_after(self._chunks):
            due.append(self._scheduled)
        return due

    def take_asked(self) -> Perturb | None:
        """The longest waiting wish, whatever moment it waited for."""
        return self._asked.pop(0) if self._asked else None

    def _scheduled_after(self, chunks: int) -> bool:
        return self._every > 0 and chunks % self._every == 0
