"""What a run tells as it goes on: tokens in order, numbered and timed, and what happened between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from moe_watch.backends.engine import Detokenizer, RouterOutputs, SampledToken
from moe_watch.backends.generation.observation import Evaluated, TokenFacts
from moe_watch.backends.generation.outbox import Outbox
from moe_watch.backends.protocol import Branch, Perturb
from moe_watch.routing.events import (
    Change,
    Perturbation,
    PerturbationForm,
    Progress,
    RunState,
    RunWarning,
    Sampling,
    State,
    TokenSource,
)


class Narration:
    """One run's events on their way out.

    Args:
        outbox: where they go.
        clock: seconds, monotonic.
        detokenizer: for the context that the run begins in.
    """

    def __init__(self, outbox: Outbox, clock: Callable[[], float], detokenizer: Detokenizer) -> None:
        self.i = 0
        """Tokens so far."""
        self.detokenizer = detokenizer
        """Of the context that the next tokens stand in."""
        self.note: str | None = None
        """Words for other work that takes time while given tokens are evaluated."""
        self._outbox = outbox
        self._clock = clock
        self._began = clock()

    def now(self) -> float:
        """Seconds since the run began."""
        return round(self._clock() - self._began, 3)

    def tokens(
        self, ids: Sequence[int], source: TokenSource, routing: RouterOutputs, drawn: SampledToken | None = None
    ) -> None:
        """Tokens that were evaluated together."""
        t = self.now()
        facts = [
            TokenFacts(i, t, source, token, self.detokenizer.add(token), drawn)
            for i, token in enumerate(ids, start=self.i)
        ]
        self.i += len(facts)
        self._outbox.put_tokens(Evaluated(facts, routing))

    def prefill(self, done: int, total: int) -> None:
        """How far given tokens are evaluated."""
        self._outbox.put(Progress(stage="prefill", done=done, total=total, unit="tokens", note=self.note))
        self._outbox.flush()

    def state(self, state: RunState, *, why: str | None = None, message: str | None = None) -> None:
        """What became of the run."""
        self._outbox.put(State(state=state, i=self.i, t=self.now(), why=why, message=message))
        self._outbox.flush()

    def warn(self, text: str) -> None:
        """Tell what was found out about the run's numbers, after everything that happened before it."""
        self._outbox.put(RunWarning(i=self.i, t=self.now(), text=text))
        self._outbox.flush()

    def change(
        self, *, tap: bool | None = None, sampling: Sampling | None = None, multistep: bool | None = None
    ) -> None:
        """What is different from the next token on."""
        self._outbox.put(Change(i=self.i, t=self.now(), tap=tap, sampling=sampling, multistep=multistep))
        self._outbox.flush()

    def perturbation(self, perturb: Perturb, ids: list[int], form: PerturbationForm) -> None:
        """A text whose tokens follow."""
        self._outbox.put(
            Perturbation(
                i=self.i,
                t=self.now(),
                text=perturb.text,
                ids=ids,
                form=form,
                source=perturb.source,
                at_once=perturb.at_once,
            )
        )

    def branch(self, branch: Branch) -> None:
        """What the run could have gone on with."""
        self._outbox.put(branch)
        self._outbox.flush()

    def send(self) -> None:
        """Have everything sent that was told so far, while the model goes on."""
        self._outbox.send()

    def flush(self) -> None:
        """Have everything sent that was told so far, and wait for that."""
        self._outbox.flush()
