"""AR(1) noise with white noise on top of it, made white: each value is compared with what those before it say.

A Kalman filter per kind of noise. What it leaves are n independent numbers of variance 1, so x'Σ⁻¹y of two columns, Σ
the noise's correlations, is the sum of the products of what it leaves of them.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from moe_watch.routing.arrays import Floats


class Whitening:
    """The filters of K kinds of noise of standard deviation 1, for series of `n` values.

    Args:
        kinds: `[2, K]`: φ of the persistent part, and its share of the variance; the rest is white.
        n: values per series.
    """

    def __init__(self, kinds: Floats, n: int) -> None:
        self.phi, share = kinds
        self._gain: Floats = np.empty((n, len(share), 1))
        """Which part of an error goes on to the next value."""
        self._spread: Floats = np.empty((n, len(share)))
        """Standard deviation of the errors."""
        unknown = share
        for at in range(n):
            variance = unknown + 1 - share
            self._gain[at, :, 0], self._spread[at] = self.phi * unknown / variance, np.sqrt(variance)
            unknown = self.phi**2 * unknown * (1 - unknown / variance) + share * (1 - self.phi**2)

    @cached_property
    def log_det(self) -> Floats:
        """`[K]`: ln|Σ|."""
        total: Floats = 2 * np.log(self._spread).sum(axis=0)
        return total

    def __call__(self, columns: Floats) -> Floats:
        """What is left of each of the columns `[n, m]`, as `[n, K, m]`."""
        errors: Floats = np.empty((*self._spread.shape, columns.shape[1]))
        expected, phi = np.zeros(errors.shape[1:]), self.phi[:, None]
        for at, row in enumerate(columns):
            error = np.subtract(row, expected, out=errors[at])
            expected *= phi
            expected += self._gain[at] * error
        errors /= self._spread[:, :, None]
        return errors

    def steps(self, left: Floats) -> Floats:
        """x'Σ⁻¹y of every step x, which is 0 before a place and 1 from there on, `[n, K, m]` by place.

        The errors of a step are 1 − what is expected, which begins at 0; so from the last value to the first one, what
        is to come is a linear function of what is expected.

        Args:
            left: of the columns y, `[n, K, m]`.
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
        """x'Σ⁻¹x of every such step with itself, `[n, K]` by place: what is to come is a quadratic function."""
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
        """`[n, K, 1]`: which part of what is expected goes on to the next value."""
        part: Floats = self.phi[:, None] - self._gain
        return part
