"""A run in this process: the real engine and the real run loop, with commands that arrive at known positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from moe_watch.backends.engine import Engine
from moe_watch.backends.generation.observation import Observer
from moe_watch.backends.generation.outbox import Outbox
from moe_watch.backends.generation.run import GenerationRun
from moe_watch.backends.protocol import (
    Batch,
    BatchItem,
    Branch,
    Command,
    Failed,
    MemoryCounters,
    PromptShown,
    Start,
    Stop,
)
from moe_watch.routing.events import Change, Perturbation, Progress, RunWarning, Sampling, State, Token
from tests.run_specs import run_start

GREEDY = Sampling(temperature=0.0, seed=0, stop="never")


class ManualClock:
    """Clock that advances only when a test or an inbox advances it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class ScriptedInbox:
    """Inbox that returns each command at its context length in tokens, or at once if a run waits without a timeout."""

    def __init__(self, engine: Engine, clock: ManualClock, script: Sequence[tuple[int, Command]]) -> None:
        self._engine = engine
        self._clock = clock
        self._script = list(script)

    def pop(self, timeout: float | None) -> Command | None:
        if timeout is None:
            return self._script.pop(0)[1] if self._script else Stop()
        if self._script and self._engine.position >= self._script[0][0]:
            return self._script.pop(0)[1]
        self._clock.now += timeout
        return None


class Session:
    """Batches and refusals that a run sent to its parent."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.clock = ManualClock()
        self.batches: list[Batch] = []
        self.refusals: list[str] = []
        self.refused: list[str] = []
        """The refused command of each."""
        self.previews: list[PromptShown] = []
        self.following: Start | None = None

    def run(self, start: Start, *script: tuple[int, Command]) -> Session:
        outbox = Outbox(self.batches.append, Observer(self.engine.model), self.clock)
        inbox = ScriptedInbox(self.engine, self.clock, script)

        def refuse(failed: Failed | PromptShown) -> None:
            if isinstance(failed, PromptShown):
                self.previews.append(failed)
                return
            self.refusals.append(failed.message)
            self.refused.append(failed.command)

        run = GenerationRun(self.engine, start, inbox=inbox, outbox=outbox, refuse=refuse, clock=self.clock)
        self.following = run.run()
        return self

    @property
    def items(self) -> list[BatchItem]:
        return [item for batch in self.batches for item in batch.items]

    @property
    def events(self) -> list[Token | Perturbation | State | RunWarning | Change | Branch]:
        return [item for item in self.items if not isinstance(item, Progress | MemoryCounters)]

    @property
    def tokens(self) -> list[Token]:
        return [item for item in self.items if isinstance(item, Token)]

    @property
    def generated(self) -> list[int]:
        return [token.id for token in self.tokens if token.source == "generated"]

    @property
    def warnings(self) -> list[str]:
        return [item.text for item in self.items if isinstance(item, RunWarning)]

    @property
    def states(self) -> list[tuple[str, str | None, int]]:
        return [(item.state, item.why, item.i) for item in self.items if isinstance(item, State)]

    @property
    def perturbations(self) -> list[Perturbation]:
        return [item for item in self.items if isinstance(item, Perturbation)]


def start(prompt: str = "def f(x):", sampling: Sampling = GREEDY, **options: Any) -> Start:
    return run_start(prompt, sampling, **options)


def first_difference(ours: Sequence[Any], theirs: Sequence[Any]) -> int | None:
    return next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), None)


Sessions = Callable[..., Session]
