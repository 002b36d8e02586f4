"""Agreement of rankings of experts with the measured damage: Spearman's ρ, pooled and within layers.

Pooled over layers, ρ is mostly about the difference between layers; within layers it judges the choice that pruning
makes. The intervals resample the tokens that the damage was measured on, in blocks; the ranking and the experts are
fixed. Noise of the damage lowers ρ, and a resample has more noise than the measurement: so an interval spans the
percentile interval and the basic one, its reflection at the measured ρ. Their simulated coverage of ρ with the true
damage: `python -m benchmarks.experts.ablation_intervals`.

References: spearman-1904, efron-1979, carlstein-1986.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from moe_watch.routing.arrays import Floats, Ints
from moe_watch.routing.router.agreement import rank_correlation
from moe_watch.routing.stats.token_blocks import VALUES, Blocks, resamples

DRAWS = 1_000
FEWEST_EXPERTS = 3
"""Least number of experts in a ranking: with two, ρ is 1 or −1."""
PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class RankCorrelation:
    """Spearman's ρ of one ranking with the damage; NaN where it is undefined."""

    pooled: float
    within: float
    """Mean over layers."""
    pooled_draws: Floats
    """[draws] the same of each resample of tokens."""
    within_draws: Floats

    @property
    def pooled_interval(self) -> tuple[float, float] | None:
        """95 % interval of `pooled`."""
        return rho_interval(self.pooled, self.pooled_draws)

    @property
    def within_interval(self) -> tuple[float, float] | None:
        """95 % interval of `within`."""
        return rho_interval(self.within, self.within_draws)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Difference of two rankings' ρ within layers."""

    better: str
    worse: str
    difference: float
    interval: tuple[float, float]


def rho_interval(value: float, draws: Floats, largest: float = 1.0) -> tuple[float, float] | None:
    """Return the interval that spans the 95 % percentile interval of draws and its reflection at the measured value.

    Args:
        value: the measured ρ, or difference of ρ.
        draws: the same of each resample.
        largest: bound of the absolute value.

    Returns:
        None if the value is undefined, or that of a resample.
    """
    if np.isnan(value) or np.isnan(draws).any():
        return None
    low, high = (float(each) for each in np.percentile(draws, PERCENTILES))
    return max(-largest, min(low, 2 * value - high)), min(largest, max(high, 2 * value - low))


def predict(rankings: Mapping[str, Floats], damage: Blocks, layer: Ints) -> dict[str, RankCorrelation]:
    """Return ρ of each ranking with the damage.

    Args:
        rankings: by name, one value per expert [N].
        damage: sums of the damage of each expert.
        layer: layer of each expert [N], ascending.

    References: spearman-1904, efron-1979, carlstein-1986.
    """
    if not rankings:
        return {}
    values = np.stack(list(rankings.values()))
    measured = _both(values, damage.means[None, :], layer)
    drawn = [np.empty((len(values), DRAWS)) for _ in range(2)]
    done = 0
    for weights in resamples(len(damage.tokens), DRAWS):
        means = (weights @ damage.sums.T) / (weights @ damage.tokens)[:, None]
        step = max(1, VALUES // damage.sums.shape[0])
        for start in range(0, len(means), step):
            part = means[start : start + step]
            for kind, found in enumerate(_both(values, part, layer)):
                drawn[kind][:, done : done + len(part)] = found
            done += len(part)
    return {
        name: RankCorrelation(float(measured[0][at, 0]), float(measured[1][at, 0]), drawn[0][at], drawn[1][at])
        for at, name in enumerate(rankings)
    }


def split_half(first: Floats, second: Floats, layer: Ints) -> tuple[float, float]:
    """Return ρ of the damage on two halves of the tokens [N], pooled and within layers; NaN where it is undefined."""
    pooled, within = _both(first[None, :], second[None, :], layer)
    return float(pooled[0, 0]), float(within[0, 0])


def differences(found: Mapping[str, RankCorrelation]) -> list[PairedDifference]:
    """Return the difference of every two rankings' ρ within layers, the largest first; only where it is defined."""
    order = sorted((name for name in found if not np.isnan(found[name].within)), key=lambda name: -found[name].within)
    pairs = []
    for at, better in enumerate(order):
        for worse in order[at + 1 :]:
            apart = found[better].within - found[worse].within
            interval = rho_interval(apart, found[better].within_draws - found[worse].within_draws, 2.0)
            if interval is not None:
                pairs.append(PairedDifference(better, worse, apart, interval))
    return sorted(pairs, key=lambda pair: -pair.difference)


def _both(rankings: Floats, damage: Floats, layer: Ints) -> tuple[Floats, Floats]:
    """Return ρ pooled and within layers `[R, D]`, of rankings [R, N] with damages [D, N].

    Layers with fewer than `FEWEST_EXPERTS`, and layers in which all values are equal, are left out of the mean.
    """
    pooled = _correlation(rankings, damage)
    starts = np.flatnonzero(np.diff(layer, prepend=layer[0] - 1))
    ends = [*starts[1:].tolist(), len(layer)]
    by_layer = np.stack(
        [
            _correlation(rankings[:, start:end], damage[:, start:end])
            for start, end in zip(starts.tolist(), ends, strict=True)
        ]
    )
    present = ~np.isnan(by_layer)
    number = present.sum(0)
    within = np.where(present, by_layer, 0.0).sum(0) / np.where(number, number, np.nan)
    return pooled, within


def _correlation(rankings: Floats, damage: Floats) -> Floats:
    if rankings.shape[1] < FEWEST_EXPERTS:
        return np.full((len(rankings), len(damage)), np.nan)
    return np.stack([rank_correlation(ranking[None, :], damage) for ranking in rankings])
