"""Whitening of AR(1) noise plus white noise by a Kalman filter: each value minus its prediction from the values before.

There is one filter per noise model. Its scaled prediction errors are n independent numbers of variance 1. So x'Σ⁻¹y of
two columns, with Σ the correlations of the noise, is the sum of the products of their prediction errors.

References: kalman-1960, schweppe-1965.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from moe_watch.routing.arrays import Floats


class Whitening:
    """Kalman filters of K noise models of standard deviation 1, for series of `n` values.

    Args:
        models: `[2, K]`: φ of the autocorrelated part, and its share of the variance; the rest is white.
        n: values per series.

    References: kalman-1960, schweppe-1965.
    """

    def __init__(self, models: Floats, n: int) -> None:
        self.phi, share = models
        self._gain: Floats = np.empty((n, len(share), 1))
        """Kalman gain: share of a prediction error that enters the next prediction."""
        self._spread: Floats = np.empty((n, len(share)))
        """Standard deviation of the prediction errors."""
        unknown = share
        for at in range(n):
            variance = unknown + 1 - share
            self._gain[at, :, 0], self._spread[at] = self.phi * unknown / variance, np.sqrt(variance)
            unknown = self.phi**2 * unknown * (1 - unknown / variance) + share * (1 - self.phi**2)

    @cached_property
    def log_det(self) -> Floats:
        """ln|Σ| of each noise model, `[K]`."""
        total: Floats = 2 * np.log(self._spread).sum(axis=0)
        return total

    def __call__(self, columns: Floats) -> Floats:
        """Return the scaled prediction errors of the columns `[n, m]`, as `[n, K, m]`."""
        errors: Floats = np.empty((*self._spread.shape, columns.shape[1]))
        expected, phi = np.zeros(errors.shape[1:]), self.phi[:, None]
        for at, row in enumerate(columns):
            error = np.subtract(row, expected, out=errors[at])
            expected *= phi
            expected += self._gain[at] * error
        errors /= self._spread[:, :, None]
        return errors

    def steps(self, left: Floats) -> Floats:
        """Return x'Σ⁻¹y of every step x, `[n, K, m]` by breakpoint; x is 0 before the breakpoint and 1 from there on.

        The prediction errors of a step are 1 − prediction, and the prediction starts at 0. So, from the last value
        back to the first one, the sum over the remaining values is a linear function of the prediction.

        Args:
            left: prediction errors of the columns y, `[n, K, m]`.
        """
        products = left / self._spread[:, :, None]
        slope = products[-1].copy()
        for at in range(len(products) - 2, -1, -1):
            here = products[at].copy()
            products[at] += products[at + 1] - slope * self._gain[at]
            slope *= self._keeps[at]
            slope += here
        return products

    @cached_property
    def step_squares(self) -> Floats:
        """x'Σ⁻¹x of every step x, `[n, K]` by breakpoint: here the remaining sum is a quadratic function."""
        squares = 1 / self._spread**2
        linear, quadratic = squares[-1].copy(), squares[-1].copy()
        for at in range(len(squares) - 2, -1, -1):
            here, gain, keeps = squares[at].copy(), self._gain[at, :, 0], self._keeps[at, :, 0]
            squares[at] += squares[at + 1] + gain * (gain * quadratic - 2 * linear)
            linear = here + keeps * (linear - gain * quadratic)
            quadratic = here + keeps**2 * quadratic
        return squares

    @cached_property
    def _keeps(self) -> Floats:
        """Share of a prediction that enters the next one, `[n, K, 1]`."""
        part: Floats = self.phi[:, None] - self._gain
        return part
