"""Candidate shapes of a trend, fitted by least squares to many series at once.

Every non-linear parameter is profiled on a grid, so a refit is a matrix product. Shapes: `n` chunks, `S` series, one
per column; `t` is the time since the first chunk, in chunks.

References: quandt-1960, golub-pereyra-1973.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

from moe_watch.routing.arrays import AnyInts, Floats

CurveShape = Literal["constant", "linear", "exponential", "cliff"]
SHAPES: tuple[CurveShape, ...] = ("constant", "linear", "exponential", "cliff")
TRENDS: tuple[CurveShape, ...] = ("linear", "exponential", "cliff")

PARAMETERS: dict[CurveShape, tuple[str, ...]] = {
    "constant": ("level",),
    "linear": ("start", "slope"),
    "exponential": ("start", "floor", "halving"),
    "cliff": ("start", "after", "at"),
}
"""Names of each shape's parameters. `halving`: chunks in which the distance to the floor halves. `at`: breakpoint, the
first chunk at the level `after`; it is fitted, and counts as a parameter."""

GRID = 64
"""Halving times of the grid."""
SHORTEST, LONGEST = 0.3, 10.0
"""Shortest halving time in chunks, longest one in lengths of the series: a shorter one is a cliff at the first chunk,
a longer one a line."""
ONE_THREAD = 1 << 18
"""Multiplications up to which BLAS uses a single thread: the other cores run the model."""
SHORT = 100
"""Chunks up to which an axis takes little memory, so that many are cached."""
ROUNDING = 1e-12
"""Spread below this share of the largest value is floating-point rounding, not a trend."""


@dataclass(frozen=True, slots=True)
class Curves:
    """Curves of one shape, one for each of `S` series."""

    shape: CurveShape
    parameters: Floats
    """`[p, S]`, in the order of `PARAMETERS`."""

    def values(self, t: Floats) -> Floats:
        """Return the values of the curves at times `t [m]`, as `[m, S]`."""
        return curve_values(self.shape, self.parameters, np.asarray(t, float)[:, None])

    def half_times(self) -> Floats:
        """Return the time at which each curve reaches half of its start, `[S]`; infinite for never."""
        start = self.parameters[0]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if self.shape == "linear":
                times = np.where(self.parameters[1] < 0, -start / (2 * self.parameters[1]), np.inf)
            elif self.shape == "exponential":
                _, floor, halving = self.parameters
                ratio = (start - floor) / (start / 2 - floor)
                times = np.where(floor < start / 2, halving * np.log2(ratio), np.inf)
            elif self.shape == "cliff":
                times = np.where(self.parameters[1] <= start / 2, self.parameters[2], np.inf)
            else:
                times = np.full(len(start), np.inf)
        return np.where(start > 0, times, np.inf)


def curve_values(shape: CurveShape, parameters: Floats, t: Floats) -> Floats:
    """Return the values of `shape` at times `t`; parameters and times are broadcast."""
    values: Floats
    if shape == "constant":
        values = parameters[0] + 0 * t
    elif shape == "linear":
        values = parameters[0] + parameters[1] * t
    elif shape == "exponential":
        start, floor, halving = parameters
        values = floor + (start - floor) * np.exp2(-t / halving)
    else:
        start, after, at = parameters
        values = np.where(t < at, start, after)
    return values


class TimeAxis:
    """Times of a series, with the cached quantities that do not depend on its values.

    Args:
        times: `[n]`, ascending from 0, in chunks.

    References: golub-pereyra-1973.
    """

    def __init__(self, times: tuple[float, ...]) -> None:
        self.t: Floats = np.array(times, float)
        self.n = len(times)

    @cached_property
    def halvings(self) -> Floats:
        """Halving times of the grid `[GRID]`, ascending by a constant factor."""
        return np.geomspace(SHORTEST, LONGEST * (self.t[-1] + 1), GRID)

    @cached_property
    def decays(self) -> Floats:
        """Exponential of each halving time `[GRID, n]`, centred and of length 1."""
        return np.ascontiguousarray(_unit(np.exp2(-self.t[:, None] / self.halvings)).T)

    @cached_property
    def line(self) -> Floats:
        """Line `[1, n]`, centred and of length 1."""
        return np.ascontiguousarray(_unit(self.t[:, None]).T)

    def explained(self, shape: CurveShape, centred: Floats) -> Floats:
        """Return the sums of squares that each trial of a shape explains beyond the mean, `[trials, S]`.

        Args:
            shape: one of `TRENDS`.
            centred: series minus their means, `[n, S]`.

        References: quandt-1960, golub-pereyra-1973.
        """
        if shape == "cliff":
            before = np.arange(1, self.n)[:, None]
            squares: Floats = np.cumsum(centred, axis=0)[:-1] ** 2
            return squares * (self.n / (before * (self.n - before)))
        trials = self.line if shape == "linear" else self.decays
        width = max(1, ONE_THREAD // trials.size)
        slices = [trials @ centred[:, at : at + width] for at in range(0, centred.shape[1], width)]
        return np.concatenate(slices, axis=1) ** 2

    def best_share(self, series: Floats) -> Floats:
        """Return the largest share of each series' variance that a trend explains, `[S]` in 0..1; 0 for a flat series.

        References: quandt-1960.
        """
        centred = centre(series)
        total = (centred**2).sum(axis=0)
        best = np.max([self.explained(shape, centred).max(axis=0) for shape in TRENDS], axis=0)
        share: Floats = np.divide(best, total, out=np.zeros_like(total), where=total > 0)
        return share

    def fit(self, shape: CurveShape, series: Floats, *, rounds: int = 0) -> Curves:
        """Fit a shape to each series by least squares.

        Args:
            shape: one of `SHAPES`.
            series: `[n, S]`.
            rounds: refinements of the halving time beyond the parabola through the grid.

        References: quandt-1960, golub-pereyra-1973.
        """
        mean, centred = series.mean(axis=0), centre(series)
        if shape == "constant":
            return Curves(shape, mean[None])
        if shape == "linear":
            slope = (self.t - self.t.mean()) @ centred / ((self.t - self.t.mean()) ** 2).sum()
            return Curves(shape, np.stack([mean - slope * self.t.mean(), slope]))
        best = self.explained(shape, centred)
        if shape == "cliff":
            return self._cliff(series, best.argmax(axis=0) + 1)
        return self._exponential(mean, centred, self._halving(best, centred, rounds))

    def _cliff(self, series: Floats, at: AnyInts) -> Curves:
        sums = np.cumsum(series, axis=0)
        before = sums[at - 1, np.arange(series.shape[1])]
        return Curves("cliff", np.stack([before / at, (sums[-1] - before) / (self.n - at), self.t[at]]))

    def _halving(self, explained: Floats, centred: Floats, rounds: int) -> Floats:
        """Return the best halving times `[S]`: parabola through the best grid point and its neighbours, refined."""
        log_halvings = np.log(self.halvings)
        step = log_halvings[1] - log_halvings[0]
        at = np.clip(explained.argmax(axis=0), 1, GRID - 2)
        columns = np.arange(len(at))
        best = log_halvings[at] + step * _vertex(*(explained[at + k, columns] for k in (-1, 0, 1)))
        for _ in range(rounds):
            step /= 4
            around = [self._explained_at(np.exp(best + k * step), centred) for k in (-1, 0, 1)]
            best = best + step * _vertex(*around)
        halving: Floats = np.exp(np.clip(best, log_halvings[0], log_halvings[-1]))
        return halving

    def _explained_at(self, halving: Floats, centred: Floats) -> Floats:
        explained: Floats = (_unit(np.exp2(-self.t[:, None] / halving)) * centred).sum(axis=0) ** 2
        return explained

    def _exponential(self, mean: Floats, centred: Floats, halving: Floats) -> Curves:
        decay = np.exp2(-self.t[:, None] / halving)
        around = decay - decay.mean(axis=0)
        amplitude = (around * centred).sum(axis=0) / (around**2).sum(axis=0)
        floor = mean - amplitude * decay.mean(axis=0)
        return Curves("exponential", np.stack([floor + amplitude, floor, halving]))


def time_axis(times: tuple[float, ...]) -> TimeAxis:
    """Return the axis of these times, cached for the next fit at the same length.

    Many short axes are cached, since every series is tested at the same lengths, but few long ones: an axis of 1,000
    chunks takes a megabyte, and a live run needs another one for every chunk.
    """
    return _short_axis(times) if len(times) <= SHORT else _long_axis(times)


_short_axis = lru_cache(maxsize=40)(TimeAxis)
_long_axis = lru_cache(maxsize=2)(TimeAxis)


def centre(series: Floats) -> Floats:
    """Return series `[n, S]` minus their means; series that vary only by rounding become 0."""
    centred: Floats = series - series.mean(axis=0)
    centred[:, np.abs(centred).max(axis=0) <= ROUNDING * np.abs(series).max(axis=0)] = 0
    return centred


def _unit(columns: Floats) -> Floats:
    """Return columns centred and of length 1."""
    around = columns - columns.mean(axis=0)
    unit: Floats = around / np.sqrt((around**2).sum(axis=0))
    return unit


def _vertex(left: Floats, middle: Floats, right: Floats) -> Floats:
    """Return the position of the maximum of a parabola through values at −1, 0 and 1, clipped to −1..1."""
    bend = left - 2 * middle + right
    with np.errstate(divide="ignore", invalid="ignore"):
        place = (left - right) / (2 * bend)
    uphill = np.where(right > left, 1.0, np.where(left > right, -1.0, 0.0))
    best: Floats = np.clip(np.where(bend < 0, place, uphill), -1.0, 1.0)
    return best
