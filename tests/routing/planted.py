"""Mid-pressure series with a planted half-life: a curve plus seeded noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import inf, log2
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

CHUNKS = 50
NOISE = 0.015
"""Standard deviation from chunk to chunk."""
REAL_NOISE = 0.03
"""Standard deviation in the embedded model."""
WARM_UP = 200
"""Chunks after which the start of heavy-tailed noise has no effect."""


@dataclass(frozen=True)
class Planted:
    """Curve `value(t)` over chunks, with the verdict and half-life that a fit should find."""

    name: str
    shape: Literal["stable", "rising", "linear", "exponential", "cliff"]
    half_life: float
    """Chunks; infinite if half is never reached."""
    start: float
    other: float
    """The floor, the level after the cliff, or the slope."""
    time: float = 1.0
    """The halving time, or the first chunk after the cliff; below 0 a cliff anywhere but in the outer five chunks."""

    def curve(self, at: float | None = None, chunks: int = CHUNKS) -> Floats:
        """Return the values without noise; `at` is the breakpoint of a cliff."""
        t = np.arange(chunks, dtype=float)
        if self.shape == "exponential":
            return self.other + (self.start - self.other) * 2.0 ** (-t / self.time)
        if self.shape == "cliff":
            return np.where(t < (self.time if at is None else at), self.start, self.other)
        return self.start + self.other * t


@dataclass(frozen=True)
class Series:
    """One noisy series of a planted curve."""

    mid: list[float]
    half_life: float
    change: int | None
    """First chunk after the cliff."""


def exponential(start: float, floor: float, halving: float) -> Planted:
    """Return a curve that falls towards a floor, half of the way every `halving` chunks."""
    half = halving * log2((start - floor) / (start / 2 - floor)) if floor < start / 2 else inf
    return Planted(f"exponential {start:g} → {floor:g}, T {halving:g}", "exponential", half, start, floor, halving)


def linear(start: float, slope: float) -> Planted:
    """Return a curve that falls by the same amount every chunk."""
    return Planted(f"linear {start:g}, {slope:+g} per chunk", "linear", -start / (2 * slope), start, slope)


def rising(start: float, slope: float) -> Planted:
    """Return a curve that rises by the same amount every chunk."""
    return Planted(f"rising {start:g}, {slope:+g} per chunk", "rising", inf, start, slope)


def constant(level: float) -> Planted:
    """Return a curve without a trend."""
    return Planted(f"constant {level:g}", "stable", inf, level, 0.0)


def cliff(start: float, after: float, at: int = -1) -> Planted:
    """Return a curve that falls once, at `at`; by default at a random chunk except the outer five."""
    half = at if after <= start / 2 else inf
    return Planted(f"cliff {start:g} → {after:g}", "cliff", half, start, after, at)


GRID = (
    constant(0.45),
    exponential(0.6, 0.0, 12.0),
    exponential(0.6, 0.1, 12.0),
    exponential(0.6, 0.0, 30.0),
    exponential(0.6, 0.15, 30.0),
    exponential(0.5, 0.3, 8.0),
    linear(0.6, -0.01),
    linear(0.6, -0.003),
    cliff(0.5, 0.44),
    cliff(0.5, 0.41),
    cliff(0.6, 0.25),
    rising(0.4, 0.003),
)
"""The known-answer grid. The cliffs are of 4, 6 and 23 standard deviations."""


def noise(random: np.random.Generator, phi: float, sd: float = NOISE, chunks: int = CHUNKS) -> Floats:
    """Return stationary AR(1) noise; white for φ = 0."""
    values = [random.standard_normal()]
    for shock in random.standard_normal(chunks - 1):
        values.append(phi * values[-1] + (1 - phi**2) ** 0.5 * shock)
    return sd * np.array(values)


@dataclass(frozen=True)
class OtherNoise:
    """Stationary noise of standard deviation 1 that is not AR(1)."""

    name: str
    make: Callable[[np.random.Generator, int], Floats]
    """Return noise for a number of chunks."""


def wander(phi: float, share: float) -> OtherNoise:
    """AR(1) noise with `share` of the variance, the rest is white."""

    def make(random: np.random.Generator, chunks: int) -> Floats:
        white = noise(random, 0.0, 1.0, chunks)
        values: Floats = share**0.5 * noise(random, phi, 1.0, chunks) + (1 - share) ** 0.5 * white
        return values

    return OtherNoise(f"φ {phi:g} with {100 * share:.0f} % of the variance, and white", make)


def long_memory(d: float) -> OtherNoise:
    """Fractionally integrated noise, whose correlations fall with a power of the distance: 2·d − 1."""

    def make(random: np.random.Generator, chunks: int) -> Floats:
        values: Floats = _long_memory_root(d, chunks) @ random.standard_normal(chunks)
        return values

    return OtherNoise(f"long memory, d = {d:g}", make)


def two_wanders(quick: float, slow: float) -> OtherNoise:
    """Two AR(1) noises, half of the variance each."""

    def make(random: np.random.Generator, chunks: int) -> Floats:
        values: Floats = 0.5**0.5 * (noise(random, quick, 1.0, chunks) + noise(random, slow, 1.0, chunks))
        return values

    return OtherNoise(f"φ {quick:g} and φ {slow:g}, half of the variance each", make)


def heavy_tails(phi: float, share: float, freedom: int = 4) -> OtherNoise:
    """Like `wander`, but the innovations have Student's t distribution."""

    def make(random: np.random.Generator, chunks: int) -> Floats:
        slow, quick = random.standard_t(freedom, (2, WARM_UP + chunks)) * ((freedom - 2) / freedom) ** 0.5
        slow *= (1 - phi**2) ** 0.5
        for at in range(1, len(slow)):
            slow[at] += phi * slow[at - 1]
        values: Floats = share**0.5 * slow[WARM_UP:] + (1 - share) ** 0.5 * quick[WARM_UP:]
        return values

    return OtherNoise(
        f"φ {phi:g} with {100 * share:.0f} % of the variance, and white, heavy tails (t, {freedom})", make
    )


@lru_cache
def _long_memory_root(d: float, chunks: int) -> Floats:
    """Return the Cholesky factor of the correlations, `[chunks, chunks]`."""
    k = np.arange(1, chunks)
    falls = np.cumprod([1.0, *((k - 1 + d) / (k - d))])
    root: Floats = np.linalg.cholesky(falls[np.abs(np.subtract.outer(np.arange(chunks), np.arange(chunks)))])
    return root


OTHER_NOISE = (wander(0.75, 0.55), wander(0.9, 0.3), wander(0.95, 0.3), long_memory(0.3), long_memory(0.4))
"""The first one is as in the embedded model."""
UNSEEN_NOISE = (two_wanders(0.5, 0.97), heavy_tails(0.75, 0.55))
"""Noise that was not used to choose anything in the fit."""


def plant_with(
    planted: Planted, other: OtherNoise, seeds: range, *, sd: float = REAL_NOISE, chunks: int = CHUNKS
) -> Iterator[Series]:
    """Return one series per seed, with noise that is not AR(1)."""
    for seed in seeds:
        random = np.random.default_rng([seed, 1000])
        yield _series(planted, random, lambda random: sd * other.make(random, chunks), chunks)


def plant_on(planted: Planted, noise: Floats) -> Iterator[Series]:
    """Return one series per row of `noise [series, chunks]`, of a curve without a cliff."""
    for each in noise:
        yield Series((planted.curve(chunks=len(each)) + each).tolist(), planted.half_life, None)


def plant(planted: Planted, phi: float, seeds: range, *, sd: float = NOISE, chunks: int = CHUNKS) -> Iterator[Series]:
    """Return one noisy series per seed."""
    for seed in seeds:
        random = np.random.default_rng([seed, round(100 * phi)])
        yield _series(planted, random, lambda random: noise(random, phi, sd, chunks), chunks)


def _series(
    planted: Planted, random: np.random.Generator, make: Callable[[np.random.Generator], Floats], chunks: int
) -> Series:
    change = _change(planted, random, chunks)
    values = planted.curve(change, chunks) + make(random)
    reached = change is not None and planted.other <= planted.start / 2
    return Series(values.tolist(), float(change) if reached and change else planted.half_life, change)


def _change(planted: Planted, random: np.random.Generator, chunks: int) -> int | None:
    if planted.shape != "cliff":
        return None
    return int(planted.time) if planted.time >= 0 else int(random.integers(5, chunks - 5))
