"""Running averages of expert usage, and the coherence of the experts' phases.

References: chronomoe-2024, acebron-2005, kingma-ba-2015, oneill-2014, lin-1991, endres-schindelin-2003.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moe_watch.routing.arrays import Floats, Ints, Selections
from moe_watch.routing.usage.counts import jensen_shannon_distance

Waves = npt.NDArray[np.complex128]

MESO_HALF_LIFE = 50
"""Half-life of `meso` in rows of a layer (tokens that the layer computed)."""
MACRO_HALF_LIFE = 500


class UsageAverages:
    """Two exponential moving averages of usage per layer, started at zero and bias-corrected.

    A layer's average moves only with rows that the engine computed, so each layer has its own count of rows.

    References: chronomoe-2024, kingma-ba-2015.
    """

    def __init__(self, layers: int, experts: int) -> None:
        self.rows: Ints = np.zeros(layers, np.int64)
        """[L] rows that entered the averages."""
        self.meso: Floats = np.zeros((layers, experts))
        """[L, E], not yet corrected."""
        self.macro: Floats = np.zeros((layers, experts))
        """[L, E], not yet corrected."""

    def feed(self, chosen: Selections) -> None:
        """Move both averages towards the selections of successive tokens, in order."""
        for average, half_life in ((self.meso, MESO_HALF_LIFE), (self.macro, MACRO_HALF_LIFE)):
            if chosen.whole:
                _move(average, chosen, _keep(half_life))
            else:
                _move_computed(average, chosen, _keep(half_life))
        self.rows += chosen.rows()

    def copy(self) -> UsageAverages:
        """Return a copy that later tokens do not change."""
        other = UsageAverages(*self.meso.shape)
        other.rows, other.meso, other.macro = self.rows.copy(), self.meso.copy(), self.macro.copy()
        return other

    def corrected(self) -> tuple[Floats, Floats]:
        """Return (meso, macro) as distributions `[L, E]`, bias-corrected; NaN in layers without rows.

        References: kingma-ba-2015.
        """
        with np.errstate(invalid="ignore"):
            return tuple(  # type: ignore[return-value]
                average / (1 - _keep(half_life) ** self.rows)[:, None]
                for average, half_life in ((self.meso, MESO_HALF_LIFE), (self.macro, MACRO_HALF_LIFE))
            )

    def distances(self, usage: Floats) -> tuple[float, float, float]:
        """Return mean Jensen–Shannon distances over layers: usage to meso, usage to macro, meso to macro.

        Layers without rows on either side are left out; NaN if no layer remains.

        References: lin-1991, endres-schindelin-2003.
        """
        meso, macro = self.corrected()
        known = ~np.isnan(meso[:, 0] + usage[:, 0])
        if not known.any():
            return (np.nan, np.nan, np.nan)
        if not known.all():
            usage, meso, macro = usage[known], meso[known], macro[known]
        pairs = ((usage, meso), (usage, macro), (meso, macro))
        return tuple(float(jensen_shannon_distance(p, q).mean()) for p, q in pairs)  # type: ignore[return-value]


def _move(average: Floats, chosen: Selections, keep: float) -> None:
    """Move one average `[L, E]`, in place, by tokens that were computed in all layers."""
    cells = chosen.cells.reshape(len(chosen.cells), -1)
    steps = np.full(cells.shape[1], (1 - keep) / chosen.cells.shape[2])
    flat = average.reshape(-1)
    for selected in cells:
        np.multiply(flat, keep, out=flat)
        np.add.at(flat, selected, steps)


def _move_computed(average: Floats, chosen: Selections, keep: float) -> None:
    """Move one average `[L, E]`, in place, in the computed layers, by an equal share for each selected expert."""
    present = chosen.present
    steps = np.broadcast_to(((1 - keep) / np.asarray(chosen.experts_per_row()))[..., None], present.shape)
    flat = average.reshape(-1)
    for cells, computed, ids, step in zip(chosen.cells, chosen.computed, present, steps, strict=True):
        average *= np.where(computed, keep, 1.0)[:, None]
        flat[cells[ids]] += step[ids]


class Coherence:
    """Coherence of the experts' phases: R = |mean of exp(iφ)| over all layers and experts.

    A phase starts at random, seeded by the run, and moves by 0.1 × the expert's weight at every decode token.

    References: chronomoe-2024, acebron-2005, oneill-2014.
    """

    STEP = 0.1

    def __init__(self, layers: int, experts: int, seed: int) -> None:
        self.phases: Floats = np.random.default_rng(seed).uniform(0, 2 * np.pi, (layers, experts))
        """[L, E], radians."""
        self._known: Floats = np.full((layers, experts), np.nan)
        """Phases that `_waves` was computed from."""
        self._waves: Waves = np.zeros((layers, experts), np.complex128)

    def feed(self, chosen: Selections, weights: Floats) -> None:
        """Move the phases of the experts that successive tokens selected by their weights `[N, L, k]`, 0 if absent."""
        np.add.at(self.phases.reshape(-1), chosen.cells.ravel(), (self.STEP * weights).ravel())

    def value(self) -> float:
        """Return R, 0..1."""
        moved = np.flatnonzero(self.phases != self._known)  # often few of the experts; exponentials are slow
        self._waves.reshape(-1)[moved] = np.exp(1j * self.phases.reshape(-1)[moved])
        self._known = self.phases.copy()
        return float(abs(self._waves.mean()))


def _keep(half_life: int) -> float:
    """Return the factor by which an exponential average decays per token."""
    return float(2 ** (-1 / half_life))
