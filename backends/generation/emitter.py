"""Emitter of a run's events: numbered and timed tokens, and the events between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import UNSET, UnsetType

from moe_watch.backends.engine import Detokenizer, RouterOutputs, SampledToken
from moe_watch.backends.generation.injections import Injection
from moe_watch.backends.generation.observation import Evaluated, TokenFacts
from moe_watch.backends.generation.outbox import Outbox
from moe_watch.backends.protocol import Branch, MemoryCounters
from moe_watch.backends.text.dialogue import Dialogue
from moe_watch.routing.events import (
    Change,
    MaskRows,
    ModelMemory,
    Perturbation,
    Progress,
    RunState,
    RunWarning,
    Sampling,
    State,
    TokenSource,
)

MEMORY_SECONDS = 1.0
"""Least time between two reports of the engine's memory."""


class Emitter:
    """Emitter of one run's events.

    Args:
        outbox: receives the events.
        clock: seconds, monotonic.
        detokenizer: for the first context of the run.
        dialogue: receives the tokens of the context.
        memory: returns the counters of the engine's allocator, if it has any.
    """

    def __init__(
        self,
        outbox: Outbox,
        clock: Callable[[], float],
        detokenizer: Detokenizer,
        dialogue: Dialogue,
        memory: Callable[[], ModelMemory | None] = lambda: None,
    ) -> None:
        self.i = 0
        """Number of tokens so far."""
        self.dialogue = dialogue
        """Tokens of the present context."""
        self._detokenizer = detokenizer
        self.note: str | None = None
        """Name of other slow work during prefill."""
        self._outbox = outbox
        self._clock = clock
        self._began = clock()
        self._memory = memory
        self._memory_due = 0.0

    def now(self) -> float:
        """Return the seconds since the run began."""
        return round(self._clock() - self._began, 3)

    def tokens(
        self, ids: Sequence[int], source: TokenSource, routing: RouterOutputs, sampled: SampledToken | None = None
    ) -> None:
        """Emit tokens that were evaluated together."""
        t = self.now()
        facts = [
            TokenFacts(i, t, source, token, self._detokenizer.add(token), sampled)
            for i, token in enumerate(ids, start=self.i)
        ]
        self.i += len(facts)
        self.dialogue.add([(fact.id, fact.text) for fact in facts], source)
        self._outbox.put_tokens(Evaluated(facts, routing))
        if t >= self._memory_due:
            self._memory_due = t + MEMORY_SECONDS
            if (memory := self._memory()) is not None:
                self._outbox.put(MemoryCounters(memory=memory))

    def fresh_context(self, detokenizer: Detokenizer) -> None:
        """Begin an empty context after the present one was filled."""
        self.state("fresh_context", why="context")
        self._detokenizer = detokenizer
        self.dialogue.begin()

    def rewind(self, detokenizer: Detokenizer, length: int) -> None:
        """Remove all tokens of the context after the first `length` ones.

        Args:
            detokenizer: for an empty context.
            length: number of tokens that remain.
        """
        self._detokenizer = detokenizer
        self.dialogue.rewind(length)
        for token in self.dialogue.ids:
            detokenizer.add(token)

    def prefill(self, done: int, total: int) -> None:
        """Report the progress of prefill."""
        self._outbox.put(Progress(stage="prefill", done=done, total=total, unit="tokens", note=self.note))
        self._outbox.flush()

    def state(self, state: RunState, *, why: str | None = None, message: str | None = None) -> None:
        """Emit a state of the run."""
        self._outbox.put(State(state=state, i=self.i, t=self.now(), why=why, message=message))
        self._outbox.flush()

    def warn(self, text: str) -> None:
        """Emit a warning about the run's numbers, after all earlier events."""
        self._outbox.put(RunWarning(i=self.i, t=self.now(), text=text))
        self._outbox.flush()

    def change(
        self,
        *,
        tap: bool | None = None,
        sampling: Sampling | None = None,
        multistep: bool | None = None,
        rate: float | None = None,
        mask: MaskRows | UnsetType = UNSET,
        experts_per_token: int | UnsetType = UNSET,
    ) -> None:
        """Emit a change of settings that applies from the next token on."""
        self._outbox.put(
            Change(
                i=self.i,
                t=self.now(),
                tap=tap,
                sampling=sampling,
                multistep=multistep,
                rate=rate,
                mask=mask,
                experts_per_token=experts_per_token,
            )
        )
        self._outbox.flush()

    def perturbation(self, injection: Injection) -> None:
        """Emit an injection; its tokens follow."""
        perturb, turn = injection.perturb, injection.turn
        self.dialogue.inject(perturb.text, injection.form)
        self._outbox.put(
            Perturbation(
                i=self.i,
                t=self.now(),
                text=perturb.text,
                ids=injection.ids,
                form=injection.form,
                source=perturb.source,
                at_once=perturb.at_once,
                kept=None if turn is None else turn.kept,
                cut=0 if turn is None else turn.cut,
                again=0 if turn is None else turn.again,
            )
        )

    def branch(self, branch: Branch) -> None:
        """Emit one continuation of a fork."""
        self._outbox.put(branch)
        self._outbox.flush()

    def send(self) -> None:
        """Send all events so far, while the model continues."""
        self._outbox.send()

    def flush(self) -> None:
        """Send all events so far, and wait until they are sent."""
        self._outbox.flush()
