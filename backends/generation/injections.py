"""Queue of injections, and injections on a schedule."""

from __future__ import annotations

from dataclasses import dataclass

from moe_watch.backends.engine import Engine
from moe_watch.backends.protocol import Perturb
from moe_watch.backends.run_spec import InjectionSchedule
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import PerturbationForm


@dataclass(frozen=True, slots=True)
class Turn:
    """Turn of a conversation that was rendered as a whole."""

    whole: list[int]
    """Token ids of the whole conversation, up to the start of the model's answer."""
    kept: int
    """Number of tokens of the context that it begins with."""
    cut: int
    """Number of tokens that are removed from the end of the context."""
    said: int
    """Number of tokens of `whole` before the end of the last answer."""
    rewrites: bool
    """Text of the conversation is removed, and evaluated again as the template writes it now."""
    is_recorded: bool = False
    """The tokens come from a recorded session: exactly `new` is recorded, on every engine."""

    @property
    def new(self) -> list[int]:
        """Tokens to evaluate."""
        return self.whole[self.kept :]

    @property
    def again(self) -> int:
        """Number of tokens to evaluate that repeat the conversation so far."""
        return max(0, self.said - self.kept)


@dataclass(frozen=True, slots=True)
class Injection:
    """Injection with its token ids."""

    perturb: Perturb
    form: PerturbationForm
    ids: list[int]
    needs_fresh_context: bool = False
    turn: Turn | None = None
    """None if the text is appended to the context as it is."""


def prepare(perturb: Perturb, engine: Engine, *, fresh_room: int) -> Injection:
    """Tokenize an injection for the present context of an engine.

    Args:
        perturb: the injection.
        engine: the engine that evaluates it.
        fresh_room: tokens that fit into a fresh context; 0 if the run may not have one.

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
    """Queue of injections from the user, merged with a schedule.

    Args:
        schedule: text to inject at regular chunk boundaries.
    """

    def __init__(self, schedule: InjectionSchedule | None) -> None:
        self._asked: list[Perturb] = []
        self._scheduled = None if schedule is None else Perturb(text=schedule.text, source="schedule")
        self._every = 0 if schedule is None else schedule.every

    def ask(self, perturb: Perturb) -> None:
        """Queue an injection of the user."""
        self._asked.append(perturb)

    def any_due(self, *, completed: int | None) -> bool:
        """Return whether an injection follows the next token.

        Args:
            completed: number of whole chunks after that token, if it completes one.
        """
        at_once = any(perturb.at_once for perturb in self._asked)
        return at_once or (completed is not None and (bool(self._asked) or self._scheduled_after(completed)))

    def take_due(self, *, completed: int | None) -> list[Perturb]:
        """Remove and return the injections that follow the token just sampled.

        Args:
            completed: number of whole chunks, if the token completed one.
        """
        due = [perturb for perturb in self._asked if completed is not None or perturb.at_once]
        self._asked = [perturb for perturb in self._asked if perturb not in due]
        if completed is not None and self._scheduled and self._scheduled_after(completed):
            due.append(self._scheduled)
        return due

    def take_asked(self) -> Perturb | None:
        """Remove and return the oldest injection of the user, whether it is due or not."""
        return self._asked.pop(0) if self._asked else None

    def _scheduled_after(self, chunks: int) -> bool:
        return self._every > 0 and chunks % self._every == 0
