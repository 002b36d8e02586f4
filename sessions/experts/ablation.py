"""Ablation: every expert is switched off alone, over the same given tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
from msgspec import UNSET

from moe_watch.backends.protocol import Ready
from moe_watch.backends.scoring_messages import Score, Scored
from moe_watch.routing.arrays import Floats, Ints, packed
from moe_watch.routing.errors import UserError
from moe_watch.routing.experts.ablation import spread_over_ranks
from moe_watch.routing.router.masks import ExpertMask, check_mask
from moe_watch.routing.stats.token_blocks import block_sums
from moe_watch.sessions.experts.ablation_records import AblationPlan, AblationRecords, WholeWindow, masked_window
from moe_watch.sessions.experts.given_tokens import GivenTokens
from moe_watch.sessions.live.shared_worker import KeptWorker

DENSE = "a dense model has no experts to switch off"
MOE_ONLY = "give a Mixture-of-Experts model"

Expert = tuple[int, int]
"""Model layer index and number of an expert."""


class AblationWatcher(Protocol):
    """Observer of an ablation's progress."""

    def counted(self, windows: int, total: int) -> None:
        """Report windows that are evaluated with all experts on."""

    def planned(self, evaluations: int, measured: int) -> None:
        """Report the number of evaluations with an expert off, and how many an earlier attempt has measured."""

    def begun(self) -> None:
        """Report that a window was evaluated as the baseline of the next evaluations."""

    def evaluated(self) -> None:
        """Report an evaluation with one expert off."""


def plan_of(
    ready: Ready, tokens: GivenTokens, layers: Sequence[int] | None, experts: int | None, *, saliency: bool
) -> AblationPlan:
    """Return the plan of an ablation, checked against the model.

    Args:
        ready: the loaded model and its engine.
        tokens: the tokens to evaluate.
        layers: model layer indices of the layers to measure; None for all.
        experts: number of experts to measure of each layer; None for all.
        saliency: measure saliency too.

    Raises:
        UserError: the model is dense, has no such layer, or too few experts.
    """
    model = ready.model
    if model.is_dense:
        raise UserError(f"{model.name}: {DENSE}", advice=MOE_ONLY)
    chosen = sorted(set(model.layers if layers is None else layers))
    for layer in chosen:
        check_mask(ExpertMask.of([(layer, 0)]), model, None)
    if experts is not None and not 1 <= experts <= model.experts:
        what = f"--experts is {experts}, and a layer of {model.name} has {model.experts}"
        raise UserError(what, advice=f"use 1 to {model.experts}, or all")
    if model.trained_length is not None and tokens.length > model.trained_length:
        raise UserError(
            f"--window is {tokens.length:,}, and {model.name} was trained on {model.trained_length:,} tokens",
            advice="use a smaller --window",
        )
    return AblationPlan(
        model=model,
        backend=msgspec.structs.replace(ready.backend, buffers=UNSET),
        tokens=tokens.sha256,
        window=tokens.length,
        layers=chosen,
        experts=experts,
        saliency=saliency,
    )


def measure(
    worker: KeptWorker, plan: AblationPlan, tokens: GivenTokens, records: AblationRecords, watcher: AblationWatcher
) -> list[Expert]:
    """Evaluate all windows that are not in the records yet; returns the measured experts, by layer and number.

    Each window is evaluated with all experts on, then with each expert off. If only some experts are measured, all
    windows are evaluated with all experts on first: the choice depends on the counts.

    Raises:
        UserError: an expert cannot be switched off, an evaluation failed, or the records cannot be written.
        KeyboardInterrupt: interrupted; the records have all evaluations before.
    """
    scoring = _Scoring(worker, plan, tokens, records, watcher)
    if plan.experts is None:
        chosen = [(layer, expert) for layer in plan.layers for expert in range(plan.model.experts)]
    else:
        if not records.is_resumed:
            scoring.try_mask()
        scoring.count()
        chosen = chosen_experts(plan, summed_counts(records, len(tokens.windows)))
    missing = [
        [expert for expert in chosen if expert not in records.measured(window)] for window in range(len(tokens.windows))
    ]
    evaluations = len(chosen) * len(missing)
    watcher.planned(evaluations, evaluations - sum(map(len, missing)))
    for window, experts in enumerate(missing):
        if experts:
            scoring.ablate(window, experts)
    return chosen


def chosen_experts(plan: AblationPlan, counts: Ints) -> list[Expert]:
    """Return the experts to measure, by layer and number, spread over the ranks by tokens.

    Args:
        plan: the measurement.
        counts: tokens that select each expert of each MoE layer [L, E].
    """
    position = {layer: at for at, layer in enumerate(plan.model.layers)}
    number = plan.model.experts if plan.experts is None else plan.experts
    return [(layer, expert) for layer in plan.layers for expert in spread_over_ranks(counts[position[layer]], number)]


def summed_counts(records: AblationRecords, windows: int) -> Ints:
    """Return the tokens that select each expert of each MoE layer [L, E]."""
    found: Ints = np.sum([records.whole[at].usage.counts for at in range(windows)], axis=0, dtype=np.int64)
    return found


@dataclass(frozen=True, slots=True)
class _Scoring:
    """Evaluations of windows by the worker, with the same settings for all, and their records."""

    worker: KeptWorker
    plan: AblationPlan
    tokens: GivenTokens
    records: AblationRecords
    watcher: AblationWatcher

    def try_mask(self) -> None:
        """Switch an expert off in two tokens: a model that does not support it is refused before the first pass."""
        for _ in self._score(self.tokens.windows[0][:2], [(self.plan.layers[0], 0)]):
            pass

    def count(self) -> None:
        """Evaluate the windows with all experts on."""
        total = len(self.tokens.windows)
        self.watcher.counted(len(self.records.whole), total)
        for window, ids in enumerate(self.tokens.windows):
            if window not in self.records.whole:
                (found,) = self._score(ids, [])
                self._keep_whole(window, found)
                self.watcher.counted(len(self.records.whole), total)
        self.records.sync()

    def ablate(self, window: int, experts: Sequence[Expert]) -> None:
        """Evaluate a window with all experts on, then with each of these off, and store the damage."""
        answers = self._score(self.tokens.windows[window], experts)
        first = next(answers)
        whole = _values(first.surprisal)
        self._keep_whole(window, first)
        self.watcher.begun()
        for found in answers:
            self.records.add(masked_window(window, experts[found.mask], *_damage(found, whole)))
            self.watcher.evaluated()
        self.records.sync()

    def _score(self, ids: list[int], experts: Sequence[Expert]) -> Iterator[Scored]:
        masks = [ExpertMask.of([expert]).rows for expert in experts]
        return self.worker.score(
            Score(ids=ids, window=self.tokens.length, masks=masks, usage=True, saliency=self.plan.saliency)
        )

    def _keep_whole(self, window: int, found: Scored) -> None:
        if window in self.records.whole:
            return
        if found.usage is None:
            raise UserError("the model's process returned no usage")
        surprisal = packed(block_sums(_values(found.surprisal)))
        self.records.add(WholeWindow(window=window, surprisal=surprisal, usage=found.usage))


def _damage(found: Scored, whole: Floats) -> tuple[Floats, Floats]:
    """Return block sums of Δ surprisal and of KL; empty if no token selects the expert."""
    if found.unused:
        return np.empty(0), np.empty(0)
    return block_sums(_values(found.surprisal) - whole), block_sums(_values(found.divergence))


def _values(content: bytes) -> Floats:
    return np.frombuffer(content, "<f8").astype(np.float64)
