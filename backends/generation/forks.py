"""Forks of a run: continuations of one context with other seeds, and with or without a text.

docs/measurements.md, "Perturbation".
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import get_args

import msgspec
import numpy as np

from moe_watch.backends.engine import Engine
from moe_watch.backends.generation.observation import Evaluated, TokenFacts
from moe_watch.backends.protocol import Branch
from moe_watch.backends.run_spec import ForkPlan
from moe_watch.backends.text.common_prefix import common_prefix
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import ForkArm, Sampling, Token

ARMS: tuple[ForkArm, ...] = get_args(ForkArm)


@dataclass(frozen=True, slots=True)
class Arm:
    """Arm of a fork: the text that its continuations begin with, empty for `none`."""

    name: ForkArm
    text: str
    ids: list[int]


@dataclass(frozen=True, slots=True)
class ForkPoint:
    """Chunk boundary at which a run is forked."""

    i: int
    """Number of tokens so far."""
    chunks: int
    """Number of complete chunks so far."""
    sampling: Sampling
    """Sampler of the run."""


def branch_seed(seed: int, chunks: int, arm: ForkArm, replicate: int) -> int:
    """Return the seed of one continuation, below 2³¹: independent of all others and of the run's seed.

    First word of `numpy.random.SeedSequence(seed, spawn_key=(chunks, number of the arm, replicate))`, halved; `chunks`
    is the number of complete chunks before the boundary, arms are numbered none 0, neutral 1, text 2.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(chunks, ARMS.index(arm), replicate))
    return int(sequence.generate_state(1)[0]) >> 1


class Forking:
    """Generator of continuations at the boundaries of a fork plan.

    Args:
        engine: the engine of the run.
        plan: a checked plan.
        chunk_size: tokens per continuation.
        observed: converts evaluated tokens to events.
        now: seconds since the run began.
    """

    def __init__(
        self,
        engine: Engine,
        plan: ForkPlan,
        chunk_size: int,
        *,
        observed: Callable[[Sequence[Evaluated]], list[Token]],
        now: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._plan = plan
        self._chunk_size = chunk_size
        self._observed = observed
        self._now = now

    def is_due(self, chunks: int) -> bool:
        """Return whether to fork at the boundary after this number of complete chunks."""
        return chunks >= self._plan.first and (chunks - self._plan.first) % self._plan.every == 0

    def hindrance(self) -> str | None:
        """Return why the run cannot be forked here, or None. Every arm needs room for a whole chunk."""
        needed = max(len(arm.ids) for arm in self._arms()) + self._chunk_size
        if self._engine.position + needed <= self._engine.context_length:
            return None
        return f"nothing was forked: the context has no room for the {needed:,} tokens of a text and a chunk"

    def branches(self, at: ForkPoint) -> Generator[Branch, None, None]:
        """Yield all continuations; the run's context is restored when this ends or is closed."""
        arms = self._arms()
        with self._engine.fork() as rewind:
            for arm in arms:
                for replicate in range(self._plan.replicates):
                    rewind()
                    yield self._branch(at, arm, replicate)

    def _branch(self, at: ForkPoint, arm: Arm, replicate: int) -> Branch:
        seed = branch_seed(at.sampling.seed, at.chunks, arm.name, replicate)
        self._engine.configure(msgspec.structs.replace(at.sampling, seed=seed, stop="never"), reseed=True)
        steps = list(self._steps(at.i, arm.ids))
        return Branch(
            t=self._now(),
            arm=arm.name,
            replicate=replicate,
            seed=seed,
            text=arm.text,
            tokens=self._observed(steps),
        )

    def _steps(self, i: int, ids: list[int]) -> Iterator[Evaluated]:
        detokenizer = self._engine.detokenizer()
        done = 0
        for routing in self._engine.prefill(ids, lambda _: None) if ids else ():
            step = ids[done : done + routing.tokens]
            facts = [
                TokenFacts(i + done + n, self._now(), "injected", token, detokenizer.add(token))
                for n, token in enumerate(step)
            ]
            done += len(step)
            yield Evaluated(facts, routing)
        for number in range(self._chunk_size):
            sampled = self._engine.draw(last=number == self._chunk_size - 1)
            text = detokenizer.add(sampled.id)
            yield Evaluated(
                [TokenFacts(i + done + number, self._now(), "generated", sampled.id, text, sampled)], sampled.routing
            )

    # -- texts

    def _arms(self) -> list[Arm]:
        text = self._encode(self._plan.text)
        neutral = self._of_equal_length(text)
        detokenizer = self._engine.detokenizer()
        return [
            Arm("none", "", []),
            Arm("neutral", "".join(map(detokenizer.add, neutral)), neutral),
            Arm("text", self._plan.text, text),
        ]

    @property
    def _is_turn(self) -> bool:
        return self._plan.form == "turn" and self._engine.has_chat_template

    def _encode(self, text: str) -> list[int]:
        return self._engine.encode(text, turn=self._is_turn, first=False)

    def _of_equal_length(self, text: list[int]) -> list[int]:
        """Return the neutral text, repeated or cut to the length of `text`, within the same template."""
        content = self._engine.encode(self._plan.neutral, turn=False, first=False)
        before, after = self._frame(text) if self._is_turn else ([], [])
        return [*before, *islice(cycle(content), len(text) - len(before) - len(after)), *after]

    def _frame(self, text: list[int]) -> tuple[list[int], list[int]]:
        """Return the template's tokens before and after a turn; `text` shares them with another turn."""
        other = self._encode(self._plan.neutral)
        before = common_prefix(text, other)
        after = common_prefix(text[before:][::-1], other[before:][::-1])
        return text[:before], text[len(text) - after :]


def check_plan(plan: ForkPlan, engine: Engine) -> None:
    """Refuse a plan that cannot be executed.

    Raises:
        UserError: a text has no tokens, or a number is out of range.
    """
    for name, text in (("text", plan.text), ("neutral text", plan.neutral)):
        if not engine.encode(text, turn=False, first=False):
            raise UserError(f"the {name} of a fork is empty", advice="give some text")
    if plan.replicates < 1 or plan.every < 1 or plan.first < 0:
        raise UserError(
            f"cannot fork {plan.replicates} continuations every {plan.every} chunks from chunk {plan.first} on",
            advice="give 1 or more continuations, 1 or more chunks, and a first one of 0 or more",
        )
