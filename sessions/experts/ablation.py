"""Ablation: every expert is switched off alone, over the same given tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np
from msgspec import UNSET

from moe_watch.backends.protocol import Ready
from moe_watch.backends.scoring_messages import Score, Scored
from moe_watch.routing.arrays import Floats, Ints, packed
from moe_watch.routing.errors import UserError
from moe_watch.routing.experts.ablation import block_sums, spread_over_ranks
from moe_watch.routing.pressure.missing_signals import DENSE
from moe_watch.routing.router.masks import ExpertMask, check_mask
from moe_watch.sessions.experts.ablation_records import AblationPlan, AblationRecords, WholeWindow, masked_window
from moe_watch.sessions.experts.given_tokens import GivenTokens
from moe_watch.sessions.live.shared_worker import KeptWorker

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
        raise UserError(f"{model.name}: {DENSE}", advice="give an MoE model")
    chosen = sorted(set(model.layers if layers is None else layers))
    for layer in chosen:
        check_mask(ExpertMask.of([(layer, 0)]), model, None)
    if experts is not None and not 1 <= experts <= model.experts:
        raise UserError(
            f"--experts is {experts}", advice=f"a layer of {model.name} has {model.experts}; use all, or fewer"
        )
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

    Each window is evaluated with all experts on, for counts, weight mass and saliency; then once more as the baseline,
    without reading saliency, and with each expert off.

    Raises:
        UserError: an expert cannot be switched off, an evaluation failed, or the records cannot be written.
        KeyboardInterrupt: interrupted; the records have all evaluations before.
    """
    if not records.is_resumed:
        _try_mask(worker, plan, tokens)
    _count(worker, plan, tokens, records, watcher)
    counts = summed_counts(records, len(tokens.windows))
    chosen = chosen_experts(plan, counts)
    missing = [
        [expert for expert in chosen if expert not in records.measured(window)] for window in range(len(tokens.windows))
    ]
    evaluations = len(chosen) * len(missing)
    watcher.planned(evaluations, evaluations - sum(map(len, missing)))
    for window, experts in enumerate(missing):
        if experts:
            _ablate(worker, tokens, window, experts, records, watcher)
            records.sync()
    return chosen


def chosen_experts(plan: AblationPlan, counts: Ints) -> list[Expert]:
    """Return the experts to measure, by layer and number.

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


def _try_mask(worker: KeptWorker, plan: AblationPlan, tokens: GivenTokens) -> None:
    """Switch an expert off in two tokens: a model that does not support it is refused before the first pass."""
    masks = [ExpertMask.of([(layer, 0)]).rows for layer in plan.layers]
    for _ in worker.score(Score(ids=tokens.windows[0][:2], window=tokens.length, masks=masks[:1])):
        pass


def _count(
    worker: KeptWorker, plan: AblationPlan, tokens: GivenTokens, records: AblationRecords, watcher: AblationWatcher
) -> None:
    """Evaluate the windows with all experts on, and store their usage."""
    total = len(tokens.windows)
    watcher.counted(len(records.whole), total)
    for window, ids in enumerate(tokens.windows):
        if window in records.whole:
            continue
        (found,) = worker.score(Score(ids=ids, window=tokens.length, usage=True, saliency=plan.saliency))
        if found.usage is None:
            raise UserError("the model's process returned no usage")
        surprisal = packed(block_sums(_values(found.surprisal)))
        records.add(WholeWindow(window=window, surprisal=surprisal, usage=found.usage))
        watcher.counted(len(records.whole), total)
    records.sync()


def _ablate(
    worker: KeptWorker,
    tokens: GivenTokens,
    window: int,
    experts: Sequence[Expert],
    records: AblationRecords,
    watcher: AblationWatcher,
) -> None:
    """Evaluate a window with each of these experts off, and store the damage."""
    masks = [ExpertMask.of([expert]).rows for expert in experts]
    answers = worker.score(Score(ids=tokens.windows[window], window=tokens.length, masks=masks))
    whole = _values(next(answers).surprisal)
    watcher.begun()
    for found in answers:
        expert = experts[found.mask]
        records.add(masked_window(window, expert, *_damage(found, whole)))
        watcher.evaluated()


def _damage(found: Scored, whole: Floats) -> tuple[Floats, Floats]:
    """Return block sums of Δ surprisal and of KL; empty if no token selects the expert."""
    if found.unused:
        return np.empty(0), np.empty(0)
    return block_sums(_values(found.surprisal) - whole), block_sums(_values(found.divergence))


def _values(content: bytes) -> Floats:
    return np.frombuffer(content, "<f8").astype(np.float64)
