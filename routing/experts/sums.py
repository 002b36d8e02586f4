"""Sums over tokens by layer and expert, and the rankings of experts that follow from them.

Shapes: `L` MoE layers, `E` experts.

References: reap-2025.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np

from moe_watch.routing.arrays import Floats, Ints
from moe_watch.routing.experts.rankings import Ranking


@dataclass(frozen=True, slots=True, eq=False)
class ExpertSums:
    """Sums over observed tokens."""

    rows: Ints
    """[L] observed tokens."""
    counts: Ints
    """[L, E] selections."""
    weights: Floats | None = None
    """[L, E] router weights, as the model applies them; None if unknown."""
    norms: Floats | None = None
    """[L, E] ‖weight · f(x)‖₂ of the tokens that select the expert; None if not measured."""
    entropy: Floats | None = None
    """[L] router entropy over ln E; None if unknown."""

    def __add__(self, other: ExpertSums) -> ExpertSums:
        """Return the sums over the tokens of both; a quantity that one lacks is absent."""
        return ExpertSums(
            self.rows + other.rows,
            self.counts + other.counts,
            _both(self.weights, other.weights),
            _both(self.norms, other.norms),
            _both(self.entropy, other.entropy),
        )

    @property
    def saliency(self) -> Floats | None:
        """[L, E] mean of ‖weight · f(x)‖₂ over the expert's own tokens; NaN without any. None if not measured.

        References: reap-2025.
        """
        return None if self.norms is None else mean_norm(self.norms, self.counts)

    @property
    def mean_entropy(self) -> Floats | None:
        """[L] mean router entropy over ln E; NaN without tokens. None if unknown."""
        if self.entropy is None:
            return None
        found: Floats = np.divide(self.entropy, self.rows, out=np.full(len(self.rows), np.nan), where=self.rows > 0)
        return found

    def ranking(self, by: Ranking) -> Floats | None:
        """Return a quantity `[L, E]` by which experts are ranked, NaN where an expert has none; None if unknown."""
        match by:
            case "count":
                return self.counts.astype(np.float64)
            case "weight_mass":
                return self.weights
            case "saliency":
                return self.saliency
            case "saliency_mass":
                return self.norms


def _both(a: Floats | None, b: Floats | None) -> Floats | None:
    return None if a is None or b is None else a + b


def mean_norm(norms: Floats, counts: Ints | Floats) -> Floats:
    """Return sums of norms divided by selections, of equal shapes; NaN where an expert has no selection."""
    found: Floats = np.divide(norms, counts, out=np.full(norms.shape, np.nan), where=counts > 0)
    return found


def total(sums: Iterable[ExpertSums]) -> ExpertSums:
    """Return the sum of at least one."""
    return reduce(ExpertSums.__add__, sums)


def ranked(values: Floats) -> Ints:
    """Return expert numbers over the last axis, highest first.

    NaN ranks below every number. Of equal values, the lower expert number is first.
    """
    found: Ints = np.argsort(-np.where(np.isnan(values), -np.inf, values), axis=-1, kind="stable")
    return found
