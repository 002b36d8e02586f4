"""Permutation tests: do runs differ by more than chance?

Simulated false positive rate at p ≤ 0.05: 5 % for runs between groups, as the test is exact; for blocks of the
difference of two runs of 50 chunks 5, 5, 7, 7 and 9 % with noise of φ = 0, 0.2, 0.3, 0.5, 0.6.

References: oneill-2014, dwass-1957, phipson-smyth-2010, pitman-1937, good-2005, wilcoxon-1945, holm-1979.
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
"""Largest number of relabellings that are all tried; of more, `DRAWS` random ones are tried."""
DRAWS = 9_999
SEED = 0
"""Seed of the draws: the same values have the same p."""
BLOCKS = 7
"""Blocks of a series: 5,040 orders, all tried. With fewer, p cannot be small enough; with more, the blocks break the
autocorrelation of the noise, and it looks like a trend more often."""
SHORTEST_BLOCK = 5
"""Chunks. Shorter blocks break the autocorrelation as well."""
FEWEST_CHUNKS = BLOCKS * SHORTEST_BLOCK


@dataclass(frozen=True, slots=True)
class Permutation:
    """Result of a two-sided permutation test."""

    difference: float
    """Observed difference: second minus first."""
    p: float
    """Share of all permutations with at least as large an absolute difference."""
    ways: int
    """Permutations that were tried; all possible ones if `exact`."""
    exact: bool


@dataclass(frozen=True, slots=True)
class NoTest:
    """Reason why a test is not possible."""

    why: str


def between_runs(a: Sequence[float], b: Sequence[float]) -> Permutation | NoTest:
    """Test the difference of means of two groups of runs, one value per run: runs are permuted between the groups.

    The test is valid if runs are independent and, under the null hypothesis, exchangeable between the groups.

    References: pitman-1937, good-2005, dwass-1957, phipson-smyth-2010.
    """
    smallest = smallest_p(len(a), len(b))
    if smallest > SIGNIFICANT:
        ways = f"{comb(len(a) + len(b), len(a))} ways to divide runs into groups of {len(a)} and {len(b)}"
        return NoTest(f"{ways}, so p cannot fall below {smallest:.2g}; 4 and 4 runs are enough")
    together = np.array([*a, *b], float)
    observed = float(np.mean(b) - np.mean(a))
    chosen, exact = _groups(len(together), len(b))
    sums = together[chosen].sum(-1)
    differences = sums / len(b) - (together.sum() - sums) / len(a)
    return _outcome(observed, differences, float(np.abs(together).max(initial=0.0)), exact)


def smallest_p(a: int, b: int) -> float:
    """Return the smallest p that groups of `a` and `b` runs can give."""
    return (1 + (a == b)) / comb(a + b, a)


def half_lives_between_runs(a: Sequence[float], b: Sequence[float], longest: float) -> Permutation | NoTest:
    """Test whether half-lives of two groups of runs differ, by their mean ranks: runs are permuted between the groups.

    Args:
        a: half-lives in chunks, infinite where a run has none.
        b: the same of the other group.
        longest: chunks in the shortest run; a longer half-life counts as none, so that longer runs have no advantage.

    References: wilcoxon-1945.
    """
    values = np.array([*a, *b], float)
    values[values > longest] = inf
    if np.isinf(values).all():
        return NoTest(f"no run has a half-life within {longest:.0f} chunks")
    ranks = mean_ranks(values)
    return between_runs(ranks[: len(a)].tolist(), ranks[len(a) :].tolist())


def trend_of_difference(a: Sequence[float], b: Sequence[float]) -> Permutation | NoTest:
    """Test whether the difference of two runs, chunk by chunk, has a trend: its blocks are permuted.

    Trends of any shape that both runs share cancel. Under the null hypothesis of equal trends the difference is a
    constant with noise, and long enough blocks of it are exchangeable. `difference` is the slope per chunk.

    Args:
        a: P_mid of measured chunks `[n]`.
        b: the same of the other run, at the same chunks.

    References: good-2005.
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
    """Return p-values corrected for multiple comparisons by Holm's method, in the given order.

    References: holm-1979.
    """
    corrected, worst = [0.0] * len(ps), 0.0
    for rank, at in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        worst = max(worst, min(1.0, (len(ps) - rank) * ps[at]))
        corrected[at] = worst
    return corrected


def _groups(runs: int, size: int) -> tuple[Ints, bool]:
    """Return the indices of the second group `[ways, size]`, and True if these are all relabellings."""
    if comb(runs, size) <= MOST_EXACT:
        return np.array(list(combinations(range(runs), size))), True
    draws = np.random.default_rng(SEED).random((DRAWS, runs))
    return np.argsort(draws, axis=-1)[:, :size], False


@lru_cache(maxsize=8)
def _block_orders(n: int) -> Ints:
    """Return the indices 0..n−1 with their blocks in every order `[ways, n]`."""
    blocks = np.array_split(np.arange(n), BLOCKS)
    return np.array([np.concatenate(order) for order in permutations(blocks)])


def _outcome(observed: float, found: Floats, scale: float, exact: bool) -> Permutation:
    """Return the result of a test; among random permutations the observed statistic counts as one of the draws.

    References: dwass-1957, phipson-smyth-2010.
    """
    beyond = int((np.abs(found) >= abs(observed) - 1e-12 * scale).sum())
    p = beyond / len(found) if exact else (1 + beyond) / (1 + len(found))
    return Permutation(observed, p, len(found), exact)
