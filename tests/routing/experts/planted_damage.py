"""Damage and rankings with a known truth, and the coverage of their intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moe_watch.routing.arrays import Floats, Ints
from moe_watch.routing.experts.ablation import halves
from moe_watch.routing.experts.rank_prediction import predict, split_half
from moe_watch.routing.router.agreement import rank_correlation
from moe_watch.routing.stats.token_blocks import Blocks, block_means, block_sizes, block_sums

WINDOW = 511
"""Predicted tokens of a window."""
PHI = 0.5
"""Autocorrelation of successive tokens."""
LAYERS, EXPERTS = 6, 8

Series = Callable[[np.random.Generator, int, int], Floats]


def blocks_of(values: Floats) -> Blocks:
    """Return the block sums of series [N, tokens], cut into windows."""
    pieces = [values[:, start : start + WINDOW] for start in range(0, values.shape[1], WINDOW)]
    sizes = [size for piece in pieces for size in block_sizes(piece.shape[1])]
    return Blocks(np.array(sizes, np.float64), np.concatenate([block_sums(piece) for piece in pieces], axis=1))


def normal(random: np.random.Generator, number: int, tokens: int) -> Floats:
    """Return autocorrelated normal series with mean 0 `[number, tokens]`."""
    noise = random.standard_normal((number, tokens)) * (1 - PHI**2) ** 0.5
    noise[:, 0] /= (1 - PHI**2) ** 0.5
    for at in range(1, tokens):
        noise[:, at] += PHI * noise[:, at - 1]
    found: Floats = noise
    return found


def skewed(random: np.random.Generator, number: int, tokens: int) -> Floats:
    """Return autocorrelated log-normal series with mean 0."""
    return np.exp(normal(random, number, tokens)) - float(np.exp(0.5))


def affected(share: float) -> Series:
    """Return series in which a share of the tokens, in stretches of 2.5 tokens, has heavy-tailed values; mean 0."""

    def series(random: np.random.Generator, number: int, tokens: int) -> Floats:
        stays, begins = 0.6, share * 0.4 / (1 - share)
        on = np.empty((number, tokens), bool)
        state = random.random(number) < share
        for at in range(tokens):
            state = random.random(number) < np.where(state, stays, begins)
            on[:, at] = state
        shifted = random.standard_t(4, (number, tokens)) + 0.5
        return on * shifted - 0.5 * share + 0.01 * random.standard_normal((number, tokens))

    return series


KINDS: dict[str, Series] = {
    "normal, φ 0.5": normal,
    "skewed, φ 0.5": skewed,
    "5 % of the tokens": affected(0.05),
    "1 % of the tokens": affected(0.01),
}


def coverage(series: Series, tokens: int, repeats: int, seed: int = 0) -> tuple[float, float]:
    """Return the share of intervals that contain the true mean 0, and the share of p ≤ 0.05."""
    found = block_means(blocks_of(series(np.random.default_rng(seed), repeats, tokens)))
    return float((np.abs(found.mean) <= found.half_width).mean()), float((found.p <= 0.05).mean())


def rho_coverage(spread: float, noise: float, repeats: int, seed: int = 0) -> tuple[float, float, float]:
    """Return coverage of ρ pooled and within layers, and the mean split-half ρ within layers.

    Args:
        spread: standard deviation of the ranking around ln of the true damage.
        noise: scale of the noise of a token.
        repeats: simulated measurements, of 48 experts over some 4,000 tokens.
        seed: seed of the simulation.
    """
    random = np.random.default_rng(seed)
    layer: Ints = np.repeat(np.arange(LAYERS), EXPERTS)
    tokens = np.full(200, 20.0)
    hits, stability = np.zeros(2), 0.0
    for _ in range(repeats):
        true = 0.05 * np.exp(random.standard_normal(LAYERS * EXPERTS))
        ranking = np.log(true) + spread * random.standard_normal(len(true))
        own, shared = random.standard_normal((len(true), len(tokens))), random.standard_normal(len(tokens))
        error = noise * np.sqrt(true / 20)[:, None] * (0.8 * own + 0.6 * shared)
        damage = Blocks(tokens, 20 * (true[:, None] + error))
        found = predict({"ranking": ranking}, damage, layer)["ranking"]
        shape = (LAYERS, EXPERTS)
        truths = (
            float(rank_correlation(ranking[None], true[None])[0]),
            float(rank_correlation(ranking.reshape(shape), true.reshape(shape)).mean()),
        )
        for at, (truth, interval) in enumerate(
            zip(truths, (found.pooled_interval, found.within_interval), strict=True)
        ):
            hits[at] += interval is not None and interval[0] - 1e-9 <= truth <= interval[1] + 1e-9
        stability += split_half(*halves(damage), layer)[1]
    return float(hits[0]) / repeats, float(hits[1]) / repeats, stability / repeats
