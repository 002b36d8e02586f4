"""Texts that wait to be put into the context, and those that come on a schedule."""

from __future__ import annotations

from dataclasses import dataclass

from moe_watch.backends.engine import Engine
from moe_watch.backends.protocol import Perturb, Start
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import PerturbationForm


@dataclass(frozen=True, slots=True)
class Injection:
    """A text that can be injected."""

    perturb: Perturb
    form: PerturbationForm
    ids: list[int]
    needs_fresh_context: bool = False


def prepare(perturb: Perturb, engine: Engine, *, fresh_room: int) -> Injection:
    """Make a text ready to be injected where the engine stands.

    Args:
        perturb: the text.
        engine: whose context it goes to.
        fresh_room: tokens that a fresh context would have room for; 0 if the run may not have one.

    Raises:
        UserError: it cannot be injected.
    """
    form: PerturbationForm = perturb.form if engine.has_chat_template else "raw"
    ids = engine.encode(perturb.text, turn=form == "turn", first=False)
    if not ids:
        raise UserError("the text is empty")
    room = engine.context_length - engine.position
    if len(ids) >= max(room, fresh_room):
        raise UserError(f"the text has {len(ids):,} tokens, and the context has room for {room:,}")
    return Injection(perturb, form, ids, needs_fresh_context=len(ids) >= room)


class Injections:
    """What is to be injected, and when.

    Args:
        start: names the text that comes every so many chunks, if any.
    """

    def __init__(self, start: Start) -> None:
        self._asked: list[Perturb] = []
        self._scheduled = Perturb(text=start.perturb, source="schedule") if start.perturb is not None else None
        self._every = start.perturb_every if self._scheduled else 0

    def ask(self, perturb: Perturb) -> None:
        """A person's wish; it waits for its moment."""
        self._asked.append(perturb)

    def any_due(self, *, completed: int | None) -> bool:
        """Something is to follow the next token; `completed`: how many whole chunks there are then, if it ends one."""
        at_once = any(perturb.at_once for perturb in self._asked)
        return at_once or (completed is not None and (bool(self._asked) or self._scheduled_after(completed)))

    def take_due(self, *, completed: int | None) -> list[Perturb]:
        """What follows the token just drawn; `completed`: how many whole chunks there are, if it ended one."""
        due = [perturb for perturb in self._asked if completed is not None or perturb.at_once]
        self._asked = [perturb for perturb in self._asked if perturb not in due]
        if completed is not None and self._scheduled and self._scheduled_after(completed):
            due.append(self._scheduled)
        return due

    def take_asked(self) -> Perturb | None:
        """The longest waiting wish, whatever moment it waited for."""
        return self._asked.pop(0) if self._asked else None

    def _scheduled_after(self, chunks: int) -> bool:
        return self._every > 0 and chunks % self._every == 0
