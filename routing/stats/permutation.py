"""Whether runs differ by more than chance: permutation tests.

How often they see a difference where there is none, at p ≤ 0.05, was simulated. Runs between groups: 5 %, as the test
is exact. Blocks of a difference of two runs of 50 chunks: 5, 5, 7, 7 and 9 % with noise of φ = 0, 0.2, 0.3, 0.5, 0.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, permutations
from math import comb, inf

import numpy as np

from moe_watch.routing.arrays import Floats, Ints
from moe_watch.routing.router.agreement import mean_ranks

SIGNIFICANT = 0.05
MOST_EXACT = 20_000
"""So many ways to share runs out are all tried; of more, `DRAWS` random ones."""
DRAWS = 9_999
SEED = 0
"""Of the draws: the same values have the same p."""
BLOCKS = 7
"""Blocks that a series is cut into: 5,040 orders, all tried. With fewer, p cannot get small enough; with more, noise
that persists from chunk to chunk is torn apart and looks like a trend more often."""
SHORTEST_BLOCK = 5
"""Chunks. In shorter ones persistent noise is torn apart as well."""
FEWEST_CHUNKS = BLOCKS * SHORTEST_BLOCK


@dataclass(frozen=True, slots=True)
class Permutation:
    """The outcome of a two-sided permutation test."""

    difference: float
    """What was observed: second minus first."""
    p: float
    """Share of all ways to permute that give at least as large a difference, either way."""
    ways: int
    """Permutations that were tried; all there are if `exact`."""
    exact: bool


@dataclass(frozen=True, slots=True)
class NoTest:
    """Why a test says nothing here."""

    why: str


def between_runs(a: Sequence[float], b: Sequence[float]) -> Permutation | NoTest:
    """Test the difference of means of two groups of runs, one value per run: runs are permuted between the groups.

    Valid where runs are independent and, without a difference, any run could have been in either group.
    """
    smallest = smallest_p(len(a), len(b))
    if smallest > SIGNIFICANT:
        ways = f"{comb(len(a) + len(b), len(a))} ways to share {len(a)} and {len(b)} runs out"
        return NoTest(f"{ways}, so p cannot fall below {smallest:.2g}; 4 and 4 runs are enough")
    together = np.array([*a, *b], float)
    observed = float(np.mean(b) - np.mean(a))
    chosen, exact = _groups(len(together), len(b))
    sums = together[chosen].sum(-1)
    differences = sums / len(b) - (together.sum() - sums) / len(a)
    return _outcome(observed, differences, float(np.abs(together).max(initial=0.0)), exact)


def smallest_p(a: int, b: int) -> float:
    """The smallest p that groups of so many runs can give."""
    return (1 + (a == b)) / comb(a + b, a)


def half_lives_between_runs(a: Sequence[float], b: Sequence[float], longest: float) -> Permutation | NoTest:
    """Test whether half-lives of two groups of runs differ, by their mean ranks: runs are permuted between the groups.

    Args:
        a: half-lives in chunks, infinite where a run has none.
        b: the same of the other group.
        longest: chunks in the shortest run; a half-life beyond it counts as none, so that longer runs have no
            advantage.
    """
    values = np.array([*a, *b], float)
    values[values > longest] = inf
    if np.isinf(values).all():
        return NoTest(f"no run has a half-life within {longest:.0f} chunks")
    ranks = mean_ranks(values)
    return between_runs(ranks[: len(a)].tolist(), ranks[len(a) :].tolist())


def trend_of_difference(a: Sequence[float], b: Sequence[float]) -> Permutation | NoTest:
    """Test whether the difference of two runs, chunk by chunk, has a trend: blocks of it are permuted.

    What both runs have in common drops out, of whatever shape it is. Without a difference in trend, what is left is a
    constant with noise, and long enough blocks of it can stand in any order. `difference` is the slope per chunk.

    Args:
        a: P_mid of measured chunks `[n]`.
        b: the same of the other run, at the same chunks.
    """
    n = len(a)
    if n < FEWEST_CHUNKS:
        return NoTest(f"{n} chunks in common, and the test needs at least {FEWEST_CHUNKS}")
    differences = np.array(b, float) - np.array(a, float)
    t = np.arange(n) - (n - 1) / 2
    slopes = differences[_block_orders(n)] @ t / (t @ t)
    observed = float(differences @ t / (t @ t))
    return _outcome(observed, slopes, float(np.abs(differences).max()), exact=True)


def holm(ps: Sequence[float]) -> list[float]:
    """Correct p values for being several, after Holm; in the order they were given."""
    corrected, worst = [0.0] * len(ps), 0.0
    for rank, at in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        worst = max(worst, min(1.0, (len(ps) - rank) * ps[at]))
        corrected[at] = worst
    return corrected


def _groups(runs: int, size: int) -> tuple[Ints, bool]:
    """Which runs to take for the second group `[ways, size]`, and whether these are all ways."""
    if comb(runs, size) <= MOST_EXACT:
        return np.array(list(combinations(range(runs), size))), True
    draws = np.random.default_rng(SEED).random((DRAWS, runs))
    return np.argsort(draws, axis=-1)[:, :size], False


@lru_cache(maxsize=8)
def _block_orders(n: int) -> Ints:
    """Indices 0..n−1 with their blocks in every order `[ways, n]`."""
    blocks = np.array_split(np.arange(n), BLOCKS)
    return np.array([np.concatenate(order) for order in permutations(blocks)])


def _outcome(observed: float, found: Floats, scale: float, exact: bool) -> Permutation:
    """What was observed among what was found; among drawn permutations it counts as one of them."""
    beyond = int((np.abs(found) >= abs(observed) - 1e-12 * scale).sum())
    p = beyond / len(found) if exact else (1 + beyond) / (1 + len(found))
    return Permutation(observed, p, len(found), exact)
