"""Stability of rankings of experts: resampled blocks of tokens, random halves, and groups of texts.

A resample differs from the whole as the whole differs from all texts of its sort. It is drawn from the whole, though:
where all experts are equal, it still keeps more of the same experts than chance. Halves share no token: where all
experts are equal, they agree by chance.

Shapes: `B` blocks, `L` MoE layers, `E` experts, `N` numbers of kept experts.

References: efron-1979, spearman-1904.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from moe_watch.routing.arrays import Floats, Ints
from moe_watch.routing.experts.rankings import Ranking
from moe_watch.routing.experts.sums import ExpertSums, mean_norm, ranked, total
from moe_watch.routing.router.agreement import rank_correlation

FEWEST_BLOCKS = 8
"""Least number of blocks: with fewer, resampling does not estimate how much a ranking varies."""
MOST_BLOCKS = 256
"""Blocks that are kept; beyond it, neighbours are joined. The precision of the estimates hardly depends on it."""
RESAMPLES = 200
SPLITS = 100
SEED = 0
"""Seed of the draws: the same blocks have the same stability."""
TOGETHER = 1 << 22
"""Numbers of one product of draws and blocks, so that memory does not grow with the draws."""


class SumsByBlock:
    """Collector of the sums of successive blocks of tokens, of a bounded number.

    Args:
        most: largest number of blocks. When it is reached, each two neighbours become one block.
    """

    def __init__(self, most: int = MOST_BLOCKS) -> None:
        self._most = most
        self._blocks: list[ExpertSums] = []
        self._open: ExpertSums | None = None
        """Block that is not full yet, of `_parts` parts."""
        self._parts = 0
        self._size = 1
        """Parts of a block."""

    @property
    def joined(self) -> int:
        """Number of added parts that make one block."""
        return self._size

    def add(self, part: ExpertSums) -> None:
        """Add the sums of the next tokens; they are one block while there are few."""
        self._open = part if self._open is None else self._open + part
        self._parts += 1
        if self._parts == self._size:
            self._blocks.append(self._open)
            self._open, self._parts = None, 0
        if len(self._blocks) == self._most:
            self._blocks = [total(self._blocks[at : at + 2]) for at in range(0, self._most, 2)]
            self._size *= 2

    def blocks(self) -> list[ExpertSums]:
        """Return the blocks; the last one may have fewer tokens."""
        return self._blocks if self._open is None else [*self._blocks, self._open]


@dataclass(frozen=True, slots=True, eq=False)
class RankStability:
    """Stability of one ranking."""

    same_set: Floats
    """[L, N] share of resamples that keep exactly the same experts."""
    overlap: Floats
    """[L, N] share of the kept experts that a resample keeps too, mean over resamples."""
    half_overlap: Floats
    """[L, N] share of the kept experts that two random halves agree on, mean over splits."""
    half_correlation: Floats
    """[L] Spearman's ρ of random halves, mean over splits; NaN where a half has equal values only."""


def rank_stability(
    blocks: Sequence[ExpertSums],
    by: Ranking,
    keeps: Sequence[int],
    *,
    resamples: int = RESAMPLES,
    splits: int = SPLITS,
) -> RankStability | None:
    """Return the stability of one ranking under resampling of blocks with replacement, and between random halves.

    Args:
        blocks: sums of the blocks.
        by: the ranking.
        keeps: numbers of kept experts, 1 to E.
        resamples: number of bootstrap resamples.
        splits: number of random splits.

    Returns:
        None if the blocks lack the quantity, or are fewer than `FEWEST_BLOCKS`.

    References: efron-1979, spearman-1904.
    """
    table = _table(blocks, by)
    if table is None or len(blocks) < FEWEST_BLOCKS:
        return None
    rng, number = np.random.default_rng(SEED), len(blocks)
    whole = _values(table, np.ones((1, number)))[0]
    overlaps, same = [], []
    for values in _drawn(table, _resamples(rng, resamples, number)):
        found = kept_overlap(whole, values, keeps)
        overlaps.append(found)
        same.append(found == 1)
    halves, correlations = [], []
    first = _halves(rng, splits, number)
    for a, b in zip(_drawn(table, first), _drawn(table, 1 - first), strict=True):
        halves.append(kept_overlap(a, b, keeps))
        correlations.append(ranking_correlation(a, b))
    return RankStability(
        same_set=np.mean(same, axis=0),
        overlap=np.mean(overlaps, axis=0),
        half_overlap=np.mean(halves, axis=0),
        half_correlation=np.mean(correlations, axis=0),
    )


def kept_overlap(a: Floats, b: Floats, keeps: Sequence[int]) -> Floats:
    """Return the share of the experts kept by one ranking that another keeps too `[L, N]`.

    Args:
        a: quantity of the first ranking `[L, E]`, higher is kept, NaN last.
        b: of the second.
        keeps: numbers of kept experts, 1 to E.
    """
    layers, experts = a.shape
    later = np.maximum(_places(a), _places(b))  # an expert is in both sets from this place on
    cells = np.bincount((later + np.arange(layers)[:, None] * experts).ravel(), minlength=layers * experts)
    sizes = np.asarray(keeps, np.int64)
    shared: Floats = cells.reshape(layers, experts).cumsum(-1)[:, sizes - 1] / sizes
    return shared


def ranking_correlation(a: Floats, b: Floats) -> Floats:
    """Return Spearman's ρ of two rankings per layer `[L]`, NaN last; NaN where one has equal values only.

    References: spearman-1904.
    """
    return rank_correlation(np.where(np.isnan(a), -np.inf, a), np.where(np.isnan(b), -np.inf, b))


def _places(values: Floats) -> Ints:
    """Return the place of each expert over the last axis, from 0 for the highest."""
    order = ranked(values)
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.broadcast_to(np.arange(order.shape[-1]), order.shape), -1)
    return places


def _table(blocks: Sequence[ExpertSums], by: Ranking) -> list[Floats] | None:
    """Return the sums `[B, L·E, …]` that a ranking follows from: a quantity, and for a mean its denominator."""
    shape = blocks[0].counts.shape if blocks else (0, 0)
    if by == "saliency":
        above = [each.norms for each in blocks if each.norms is not None]
        below = [each.counts.astype(np.float64) for each in blocks]
        return [np.stack(above), np.stack(below)] if len(above) == len(blocks) and shape[0] else None
    found = [values for each in blocks if (values := each.ranking(by)) is not None]
    return [np.stack(found)] if len(found) == len(blocks) and shape[0] else None


def _values(table: Sequence[Floats], drawn: Floats) -> Floats:
    """Return the quantity `[R, L, E]` of draws `[R, B]`: how often each block is in each."""
    number, *shape = table[0].shape
    sums = [(drawn @ each.reshape(number, -1)).reshape(len(drawn), *shape) for each in table]
    return sums[0] if len(sums) == 1 else mean_norm(sums[0], sums[1])


def _drawn(table: Sequence[Floats], draws: Floats) -> Iterator[Floats]:
    """Yield the quantity `[L, E]` of each draw."""
    together = max(1, TOGETHER // table[0][0].size)
    for at in range(0, len(draws), together):
        yield from _values(table, draws[at : at + together])


def _resamples(rng: np.random.Generator, resamples: int, blocks: int) -> Floats:
    """Return how often each block is in each resample `[R, B]`."""
    return rng.multinomial(blocks, np.full(blocks, 1 / blocks), resamples).astype(np.float64)


def _halves(rng: np.random.Generator, splits: int, blocks: int) -> Floats:
    """Return which blocks are in the first half of each split `[S, B]`, as 0 and 1."""
    places = rng.permuted(np.broadcast_to(np.arange(blocks), (splits, blocks)), axis=1)
    return (places < blocks // 2).astype(np.float64)
