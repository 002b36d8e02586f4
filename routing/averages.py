"""The slow memories of a run: averages of usage, and the coherence of the experts' phases."""

from __future__ import annotations

import numpy as np

from routing.arrays import ABSENT, Floats, Ints
from routing.usage import jensen_shannon_distance

MESO_HALF_LIFE = 50
"""Tokens."""
MACRO_HALF_LIFE = 500


class UsageAverages:
    """Two exponential averages of usage per layer, started at zero and bias-corrected.

    A layer's average moves only with rows that the engine computed, so each layer has its own count of them.
    """

    def __init__(self, layers: int, experts: int) -> None:
        self.rows: Ints = np.zeros(layers, np.int64)
        """[L] rows that entered."""
        self.meso: Floats = np.zeros((layers, experts))
        """[L, E], not yet corrected."""
        self.macro: Floats = np.zeros((layers, experts))

    def add(self, experts: Ints) -> None:
        """Move both averages towards one token's selections `[L, k]`."""
        computed = np.flatnonzero(experts[:, 0] != ABSENT)
        whole = len(computed) == len(experts)
        rows = np.arange(len(experts)) if whole else computed
        chosen = experts if whole else experts[computed]
        for average, half_life in ((self.meso, MESO_HALF_LIFE), (self.macro, MACRO_HALF_LIFE)):
            keep = _keep(half_life)
            if whole:
                average *= keep
            else:
                average[rows] *= keep
            average[rows[:, None], chosen] += (1 - keep) / experts.shape[1]
        self.rows[rows] += 1

    def copy(self) -> UsageAverages:
        """The averages as they are now, untouched by what comes."""
        other = UsageAverages(*self.meso.shape)
        other.rows, other.meso, other.macro = self.rows.copy(), self.meso.copy(), self.macro.copy()
        return other

    def corrected(self) -> tuple[Floats, Floats]:
        """(meso, macro) as distributions `[L, E]`; NaN in layers without rows."""
        with np.errstate(invalid="ignore"):
            return tuple(  # type: ignore[return-value]
                average / (1 - _keep(half_life) ** self.rows)[:, None]
                for average, half_life in ((self.meso, MESO_HALF_LIFE), (self.macro, MACRO_HALF_LIFE))
            )

    def distances(self, usage: Floats) -> tuple[float, float, float]:
        """Mean Jensen–Shannon distance over layers: usage to meso, usage to macro, meso to macro.

        Layers without rows on either side are left out; NaN if none is left.
        """
        meso, macro = self.corrected()
        known = ~np.isnan(meso[:, 0] + usage[:, 0])
        if not known.any():
            return (np.nan, np.nan, np.nan)
        usage, meso, macro = usage[known], meso[known], macro[known]
        pairs = ((usage, meso), (usage, macro), (meso, macro))
        return tuple(float(jensen_shannon_distance(p, q).mean()) for p, q in pairs)  # type: ignore[return-value]


class Coherence:
    """How much the experts' phases agree: R = |mean of exp(iφ)| over all layers and experts.

    A phase starts at random, seeded by the run, and moves by 0.1 × the expert's weight at every decode token.
    """

    STEP = 0.1

    def __init__(self, layers: int, experts: int, seed: int) -> None:
        self.phases: Floats = np.random.default_rng(seed).uniform(0, 2 * np.pi, (layers, experts))
        """[L, E], radians."""

    def add(self, experts: Ints, weights: Floats) -> None:
        """Move the phases of one token's experts `[L, k]` by their weights `[L, k]`; weight 0 where absent."""
        self.phases[np.arange(len(experts))[:, None], np.maximum(experts, 0)] += self.STEP * weights

    def value(self) -> float:
        """R, 0..1."""
        return float(abs(np.exp(1j * self.phases).mean()))


def _keep(half_life: int) -> float:
    """What is left of an exponential average's past after one token."""
    return float(2 ** (-1 / half_life))
