"""Sums of a window's routing: selections, router weights, norms of the experts' outputs, router entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from moe_watch.backends.engine import Floats as AnyFloats
from moe_watch.backends.engine import Ints as AnyInts
from moe_watch.backends.engine import RouterOutputs, ScoredBatch
from moe_watch.backends.scoring_messages import UsageSums
from moe_watch.backends.tap_rows import ScoredRouting
from moe_watch.routing.arrays import Floats, Ints
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import ModelInfo
from moe_watch.routing.router.gates import Gate, parse, probabilities, scores, weights
from moe_watch.routing.router.observe import normalised_entropy

AnyArray = TypeVar("AnyArray", AnyFloats, AnyInts)


class UsageSum:
    """Running sums of the routing of one window.

    Args:
        model: the model.
        saliency: sum the norms too.
    """

    def __init__(self, model: ModelInfo, *, saliency: bool) -> None:
        shape = len(model.layers), model.experts
        self._layers = model.layers
        self._gate = parse(model.gate)
        self._rows = np.zeros(shape[0], np.int64)
        self._counts = np.zeros(shape, np.int64)
        self._weights = None if self._gate is None else np.zeros(shape)
        self._entropy = None if self._gate is None else np.zeros(shape[0])
        self._norms = np.zeros(shape) if saliency else None

    def add(self, batch: ScoredBatch) -> None:
        """Add the tokens of a batch.

        Raises:
            RuntimeError: the engine did not compute every row, or did not read what was requested.
            UserError: a router outputs NaN.
        """
        experts = _all_read(batch.routing.experts, "experts")
        if not experts:
            return
        cells = self._cells(experts)
        self._rows += [len(selected) for selected in experts]
        self._counts += np.bincount(cells, minlength=self._counts.size).reshape(self._counts.shape)
        if self._gate is not None:
            self._add_weights(self._gate, batch.routing, experts, cells)
        if self._norms is not None:
            self._norms += self._summed(cells, _all_read(batch.norms or [None] * len(experts), "norms"))

    def result(self) -> UsageSums:
        """Return the sums so far."""
        return UsageSums(
            rows=self._rows.tolist(),
            counts=self._counts.tolist(),
            weights=None if self._weights is None else self._weights.tolist(),
            norms=None if self._norms is None else self._norms.tolist(),
            entropy=None if self._entropy is None or self._counts.shape[1] == 1 else self._entropy.tolist(),
        )

    def _add_weights(self, gate: Gate, routing: RouterOutputs, experts: Sequence[AnyInts], cells: Ints) -> None:
        """Add the weights and the entropy; there are none from here on if a layer has no scores."""
        is_scored = isinstance(routing, ScoredRouting)
        given = routing.scores if isinstance(routing, ScoredRouting) else routing.logits
        weighed = [values for values in routing.weights if values is not None]
        for layer, rows in enumerate(given):
            if rows is None or self._entropy is None:
                self._entropy = self._weights = None
                return
            scored = rows.astype(np.float64) if is_scored else scores(gate, rows)
            if np.isnan(scored).any():
                raise UserError(
                    f"the router of layer {self._layers[layer]} outputs NaN: damaged weights, or an overflow in their "
                    "precision",
                    advice="try another file of the model, or another precision",
                )
            self._entropy[layer] += float(normalised_entropy(probabilities(scored)).sum())
            if not routing.weights and gate.scale is not None:
                weighed.append(_weights(gate, rows, scored, experts[layer].astype(np.int64)))
        if self._weights is not None:
            self._weights = self._weights + self._summed(cells, weighed) if len(weighed) == len(experts) else None

    def _cells(self, experts: Sequence[AnyInts]) -> Ints:
        """Return the position of each selection in the flattened table [L·E], layer by layer."""
        count = self._counts.shape[1]
        if min(selected.min() for selected in experts) < 0 or max(selected.max() for selected in experts) >= count:
            raise RuntimeError("the engine did not compute every row of the routing")
        return np.concatenate([(selected + np.int64(layer * count)).ravel() for layer, selected in enumerate(experts)])

    def _summed(self, cells: Ints, values: Sequence[AnyFloats]) -> Floats:
        """Return the sums [L, E] of one value per selection, given per layer [T, k]."""
        every = np.concatenate([layer.ravel() for layer in values])
        return np.bincount(cells, every, self._counts.size).astype(np.float64, copy=False).reshape(self._counts.shape)


def _weights(gate: Gate, given: AnyFloats, scored: Floats, selected: Ints) -> AnyFloats:
    """Return the weights [T, k] of a gate with one scale.

    Args:
        gate: the gate.
        given: logits [T, E], or the scores again; only a sparsemixer's weights need logits, and no engine gives its
            scores.
        scored: scores [T, E].
        selected: [T, k]; ordered here by logit, because a sparsemixer's weights depend on the order.
    """
    order = np.argsort(-np.take_along_axis(given.astype(np.float64), selected, 1), 1, kind="stable")
    ordered = weights(gate, given, scored, np.take_along_axis(selected, order, 1))
    if ordered is None:
        raise ValueError(f"the weights of {gate} do not follow from logits")
    found = np.empty_like(ordered)
    np.put_along_axis(found, order, ordered, 1)
    return found


def _all_read(values: Sequence[AnyArray | None], name: str) -> list[AnyArray]:
    """Return the values of all layers.

    Raises:
        RuntimeError: a layer has none.
    """
    found = [layer for layer in values if layer is not None]
    if len(found) < len(values):
        raise RuntimeError(f"the engine did not read the {name} of every layer")
    return found
