"""Sums of a window's routing: selections, router weights, norms of the experts' outputs, router entropy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moe_watch.backends.engine import Floats as AnyFloats
from moe_watch.backends.engine import ScoredBatch
from moe_watch.backends.scoring_messages import UsageSums
from moe_watch.routing.arrays import Floats, Ints
from moe_watch.routing.events import ModelInfo
from moe_watch.routing.router.gates import Gate, parse, probabilities, scores, weights
from moe_watch.routing.router.observe import normalised_entropy


class UsageSum:
    """Running sums of the routing of one window.

    Args:
        model: the model.
        saliency: sum the norms too.
    """

    def __init__(self, model: ModelInfo, *, saliency: bool) -> None:
        shape = len(model.layers), model.experts
        self._gate = parse(model.gate)
        self._rows = np.zeros(shape[0], np.int64)
        self._counts = np.zeros(shape, np.int64)
        self._weights = np.zeros(shape)
        self._norms = np.zeros(shape) if saliency else None
        self._entropy = np.zeros(shape[0])
        self._weighs = self._gate is not None

    def add(self, batch: ScoredBatch) -> None:
        """Add the tokens of a batch.

        Raises:
            RuntimeError: the engine did not compute every row.
        """
        routing = batch.routing
        for layer, (chosen, logits) in enumerate(zip(routing.experts, routing.logits, strict=True)):
            if chosen is None or (chosen < 0).any():
                raise RuntimeError("the engine did not compute every row of the routing")
            selected = chosen.astype(np.int64)
            self._rows[layer] += len(selected)
            self._count(self._counts[layer], selected, np.ones(selected.shape))
            applied = routing.weights[layer] if routing.weights else None
            self._weigh(layer, selected, logits, applied)
            if self._norms is not None:
                self._count(self._norms[layer], selected, _required(batch.norms, layer))

    def result(self) -> UsageSums:
        """Return the sums so far."""
        return UsageSums(
            rows=self._rows.tolist(),
            counts=self._counts.tolist(),
            weights=self._weights.tolist() if self._weighs else None,
            norms=None if self._norms is None else self._norms.tolist(),
            entropy=None if self._gate is None else self._entropy.tolist(),
        )

    def _weigh(self, layer: int, selected: Ints, logits: AnyFloats | None, applied: AnyFloats | None) -> None:
        if self._gate is None or logits is None:
            self._weighs = False
            return
        scored = scores(self._gate, logits)
        self._entropy[layer] += float(normalised_entropy(probabilities(scored)).sum())
        weighed: AnyFloats | None = _weights(self._gate, selected, logits, scored) if applied is None else applied
        if weighed is None:
            self._weighs = False
        else:
            self._count(self._weights[layer], selected, weighed)

    @staticmethod
    def _count(sums: Floats | Ints, selected: Ints, values: AnyFloats) -> None:
        """Add one value per selected expert [T, k] to the sums [E]."""
        sums += np.bincount(selected.ravel(), values.ravel().astype(np.float64), len(sums)).astype(sums.dtype)


def _weights(gate: Gate, selected: Ints, logits: AnyFloats, scored: Floats) -> Floats | None:
    """Return the weights [T, k]; a sparsemixer's follow from experts in the order of their logits."""
    order = np.argsort(-np.take_along_axis(logits.astype(np.float64), selected, 1), 1, kind="stable")
    ordered = weights(gate, logits, scored, np.take_along_axis(selected, order, 1))
    if ordered is None:
        return None
    found = np.empty_like(ordered)
    np.put_along_axis(found, order, ordered, 1)
    return found


def _required(norms: Sequence[AnyFloats | None], layer: int) -> AnyFloats:
    found = norms[layer] if norms else None
    if found is None:
        raise RuntimeError("the engine did not read the norms of the experts' outputs")
    return found
