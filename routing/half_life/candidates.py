"""All shapes fitted to one series, and how well each of them does."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress
from math import exp, inf, isfinite, log

import numpy as np
import numpy.typing as npt

from moe_watch.routing.arrays import Floats
from moe_watch.routing.half_life.draws import Fitted
from moe_watch.routing.half_life.noise import WHITE, noise_evidence, odds
from moe_watch.routing.half_life.shapes import PARAMETERS, SHAPES, TRENDS, CurveShape, TimeAxis, curve_values

POINT_ROUNDS = 8
"""Rounds of narrowing for the curve itself: its halving time is then known to some six digits."""
INACCURACY = 1e-8
"""Share of the largest value by which such a curve may be off."""
SMALLEST = 1e-14
"""Residuals below this share of the variance count as this much: what is left is rounding."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One shape fitted to the series."""

    shape: CurveShape
    aicc: float
    """Corrected Akaike information criterion; infinite where the series is too short for the shape."""
    weight: float
    """Akaike weight among all candidates, 0..1."""
    parameters: dict[str, float]
    """By the names of `trend_shapes.PARAMETERS`; times in chunks since the first one of the series."""
    first: float
    """Position of the series' first chunk."""

    def values(self, t: npt.ArrayLike) -> Floats:
        """The curve at chunk positions `t`, in the shape of `t`."""
        since = np.asarray(t, float) - self.first
        return curve_values(self.shape, np.array(list(self.parameters.values())), since)

    def change(self, first: float, last: float) -> float:
        """Return the change from chunk position `first` to `last`, as a share of the value at `first`."""
        start, end = self.values([first, last])
        return float(abs(end - start) / abs(start)) if start else inf


class Candidates:
    """The candidates of a series.

    Args:
        axis: of the series.
        series: `[n]`.
        first: position of its first chunk.
    """

    def __init__(self, axis: TimeAxis, series: Floats, first: int) -> None:
        curves = {shape: axis.fit(shape, series[:, None], rounds=POINT_ROUNDS) for shape in SHAPES}
        left = {shape: series - curve.values(axis.t)[:, 0] for shape, curve in curves.items()}
        spread = float(left["constant"] @ left["constant"])
        aicc = {shape: _aicc(shape, residuals, SMALLEST * spread) for shape, residuals in left.items()}
        weights, among_trends = _weights(aicc), _weights({shape: aicc[shape] for shape in TRENDS})
        self.all = tuple(
            Candidate(shape, aicc[shape], weights[shape], _named(shape, curves[shape].parameters), float(first))
            for shape in SHAPES
        )
        self.constant = self.all[0]
        self._negligible = INACCURACY * float(np.abs(series).max())
        self._evidence = noise_evidence(axis, list(curves.values()), np.stack(list(left.values()), axis=1))
        self._fitted = {shape: Fitted(curves[shape], left[shape], among_trends.get(shape, 1.0)) for shape in SHAPES}

    @property
    def trend(self) -> Candidate:
        """The likeliest one besides the constant."""
        return min(self.all[1:], key=lambda each: each.aicc)

    @property
    def noise(self) -> Floats:
        """Odds of each kind of noise, `[K]`; white where a curve only leaves the fit's own inaccuracy."""
        possible = [isfinite(each.aicc) for each in self.all]
        left = [each.residuals for each in compress(self._fitted.values(), possible)]
        if any(np.abs(each).max() <= self._negligible for each in left):
            return WHITE
        return odds(compress(self._evidence, possible))

    def half_time(self, chosen: Candidate) -> float:
        """Chunks until the chosen curve is at half of its start; infinite for never."""
        return float(self._fitted[chosen.shape].curve.half_times()[0])

    def likely(self, chosen: Candidate) -> list[Fitted]:
        """What the truth may be: any trend that the series is long enough for; only the constant if that was chosen."""
        among = [chosen] if chosen.shape == "constant" else self.all[1:]
        return [self._fitted[each.shape] for each in among if isfinite(each.aicc)]


def _aicc(shape: CurveShape, residuals: Floats, smallest: float) -> float:
    """AICc of a least-squares fit; the noise's spread is a parameter too."""
    n, k = len(residuals), len(PARAMETERS[shape]) + 1
    if n - k - 1 <= 0:
        return inf
    squares = max(float(residuals @ residuals), smallest, 1e-300)
    return n * log(squares / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1)


def _weights(aicc: dict[CurveShape, float]) -> dict[CurveShape, float]:
    """Akaike weights, which sum to 1."""
    lowest = min(aicc.values())
    likelihoods = {shape: exp((lowest - value) / 2) for shape, value in aicc.items()}
    total = sum(likelihoods.values())
    return {shape: value / total for shape, value in likelihoods.items()}


def _named(shape: CurveShape, parameters: Floats) -> dict[str, float]:
    return dict(zip(PARAMETERS[shape], parameters[:, 0].tolist(), strict=True))
