"""Candidate shapes fitted to one series, compared by AICc and Akaike weight.

References: akaike-1974, hurvich-tsai-1989, burnham-anderson-2002.
"""

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
"""Rounds of refinement for the fitted curve: they give its halving time to some six digits."""
INACCURACY = 1e-8
"""Error of such a curve, as a share of the largest value."""
SMALLEST = 1e-14
"""Least squared residuals, as a share of the squares about the mean: smaller ones are rounding."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One shape fitted to the series."""

    shape: CurveShape
    aicc: float
    """Corrected Akaike information criterion; infinite if the series is too short for the shape."""
    weight: float
    """Akaike weight among all candidates, 0..1."""
    parameters: dict[str, float]
    """By the names of `shapes.PARAMETERS`; times in chunks since the first chunk of the series."""
    first: float
    """Position of the series' first chunk."""

    def values(self, t: npt.ArrayLike) -> Floats:
        """Return the values of the curve at chunk positions `t`, in the shape of `t`."""
        since = np.asarray(t, float) - self.first
        return curve_values(self.shape, np.array(list(self.parameters.values())), since)

    def change(self, first: float, last: float) -> float:
        """Return the change from chunk position `first` to `last`, as a share of the value at `first`."""
        start, end = self.values([first, last])
        return float(abs(end - start) / abs(start)) if start else inf


class Candidates:
    """Candidates of a series.

    Args:
        axis: times of the series.
        series: `[n]`.
        first: position of its first chunk.

    References: akaike-1974, hurvich-tsai-1989, burnham-anderson-2002.
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
        """The candidate with the lowest AICc, the constant excluded."""
        return min(self.all[1:], key=lambda each: each.aicc)

    @property
    def noise(self) -> Floats:
        """Odds of the noise models, `[K]`; white noise if the residuals of a curve are only the error of its fit."""
        possible = [isfinite(each.aicc) for each in self.all]
        left = [each.residuals for each in compress(self._fitted.values(), possible)]
        if any(np.abs(each).max() <= self._negligible for each in left):
            return WHITE
        return odds(compress(self._evidence, possible))

    def half_time(self, chosen: Candidate) -> float:
        """Return the chunks until the chosen curve is at half of its start; infinite for never."""
        return float(self._fitted[chosen.shape].curve.half_times()[0])

    def likely(self, chosen: Candidate) -> list[Fitted]:
        """Return the shapes that the truth may have: all trends that the series is long enough for, or the constant.

        The constant alone is returned if it was chosen.
        """
        among = [chosen] if chosen.shape == "constant" else self.all[1:]
        return [self._fitted[each.shape] for each in among if isfinite(each.aicc)]


def _aicc(shape: CurveShape, residuals: Floats, smallest: float) -> float:
    """Return the AICc of a least-squares fit; the noise variance counts as a parameter.

    References: akaike-1974, hurvich-tsai-1989.
    """
    n, k = len(residuals), len(PARAMETERS[shape]) + 1
    if n - k - 1 <= 0:
        return inf
    squares = max(float(residuals @ residuals), smallest, 1e-300)
    return n * log(squares / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1)


def _weights(aicc: dict[CurveShape, float]) -> dict[CurveShape, float]:
    """Return Akaike weights, which sum to 1.

    References: burnham-anderson-2002.
    """
    lowest = min(aicc.values())
    likelihoods = {shape: exp((lowest - value) / 2) for shape, value in aicc.items()}
    total = sum(likelihoods.values())
    return {shape: value / total for shape, value in likelihoods.items()}


def _named(shape: CurveShape, parameters: Floats) -> dict[str, float]:
    return dict(zip(PARAMETERS[shape], parameters[:, 0].tolist(), strict=True))
