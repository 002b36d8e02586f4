"""What the comparison of two sources comes to: tests, how far usage lies apart, and agreement token by token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from moe_watch.routing.arrays import Floats, Ints
from moe_watch.routing.half_life.chronomoe import entropy_collapse
from moe_watch.routing.stats.permutation import (
    NoTest,
    Permutation,
    between_runs,
    half_lives_between_runs,
    holm,
    trend_of_difference,
)
from moe_watch.routing.usage.counts import jensen_shannon_distance, shares
from moe_watch.sessions.comparing.sources import ComparedRun, ComparedSource, read_source
from moe_watch.sessions.comparing.tokens import TokenComparison, compare_tokens


@dataclass(frozen=True, slots=True)
class Tested:
    """A test, and what was permuted in it."""

    outcome: Permutation | NoTest
    permuted: str
    corrected: float | None = None
    """p for as many tests of this kind as there are pairs, after Holm; None where there is no test."""


@dataclass(frozen=True, slots=True)
class UsageDistance:
    """How far apart two sources use their experts, decode tokens only."""

    distance: Floats
    """Jensen–Shannon distance `[L]`, 0 equal to 1 disjoint; NaN where one has no rows."""
    rows_a: Ints
    """Rows that usage was counted over `[L]`."""
    rows_b: Ints


@dataclass(frozen=True, slots=True)
class SourcePair:
    """The first source and one of the others."""

    a: ComparedSource
    b: ComparedSource
    half_life: Tested
    trend: Tested
    usage: UsageDistance | str
    """Or why there is none."""
    tokens: TokenComparison | str
    """Or why there is none."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Sources, and each of them against the first."""

    sources: list[ComparedSource]
    pairs: list[SourcePair]


def compare(paths: list[Path], mode: str | None = None) -> Comparison:
    """Compare the first of several sources with each of the others.

    Args:
        paths: sessions, folders of measurements, or files with series; two at least.
        mode: the pressure mode, see `read_source`.

    Raises:
        UserError: one of them cannot be compared with anything.
    """
    sources = [read_source(path, mode) for path in paths]
    pairs = [_pair(sources[0], other) for other in sources[1:]]
    half_lives = _corrected([pair.half_life for pair in pairs])
    trends = _corrected([pair.trend for pair in pairs])
    return Comparison(
        sources,
        [
            replace(pair, half_life=half_life, trend=trend)
            for pair, half_life, trend in zip(pairs, half_lives, trends, strict=True)
        ],
    )


def _corrected(tests: list[Tested]) -> list[Tested]:
    """Each test with its p corrected for all of them."""
    outcomes = [test.outcome for test in tests]
    corrected = iter(holm([each.p for each in outcomes if isinstance(each, Permutation)]))
    return [
        replace(test, corrected=next(corrected)) if isinstance(test.outcome, Permutation) else test for test in tests
    ]


def _pair(a: ComparedSource, b: ComparedSource) -> SourcePair:
    return SourcePair(a, b, _half_life(a, b), _trend(a, b), _usage_distance(a, b), _tokens(a, b))


# -- tests


def _half_life(a: ComparedSource, b: ComparedSource) -> Tested:
    permuted = "runs between the two"
    if why := _no_test(a, b):
        return Tested(NoTest(why), permuted)
    if len(a.runs) == len(b.runs) == 1:
        return Tested(NoTest("one run each: half-lives cannot be told from chance by a test, see intervals"), permuted)
    fits = a.fits + b.fits
    longest = min(fit.span for fit in fits)
    return Tested(
        half_lives_between_runs([run.half_life for run in a.runs], [run.half_life for run in b.runs], longest), permuted
    )


def _trend(a: ComparedSource, b: ComparedSource) -> Tested:
    """Whether mid-pressure goes another way over the run: of single runs chunk by chunk, of groups by their means."""
    if len(a.runs) == len(b.runs) == 1:
        return Tested(_trend_of_runs(a, b), "blocks of the difference, chunk by chunk, along the run")
    if why := _no_test(a, b):
        return Tested(NoTest(why), "runs between the two")
    return Tested(between_runs(_rises(a), _rises(b)), "runs between the two")


def _trend_of_runs(a: ComparedSource, b: ComparedSource) -> Permutation | NoTest:
    if why := _no_test(a, b):
        return NoTest(why)
    common = sorted(set(a.runs[0].positions) & set(b.runs[0].positions))
    return trend_of_difference(_at(a.runs[0], common), _at(b.runs[0], common))


def _at(run: ComparedRun, positions: list[int]) -> list[float]:
    values = dict(zip(run.positions, run.mid, strict=True))
    return [values[at] for at in positions]


def _rises(source: ComparedSource) -> list[float]:
    """By how much mid-pressure rises in each run: mean of the last 30 % of its chunks minus that of the first 30 %."""
    falls = [entropy_collapse(run.mid) for run in source.runs]
    return [-fall.early_late for fall in falls if fall is not None]


def _no_test(a: ComparedSource, b: ComparedSource) -> str:
    """Why mid-pressure of two sources cannot be tested against each other; empty if it can."""
    for source in (a, b):
        for run in source.runs:
            if run.unavailable:
                return f"{run.name}: {run.unavailable}"
    if a.mode != b.mode:
        return f"their pressures are not the same quantity: {a.mode or 'mode not named'}, {b.mode or 'mode not named'}"
    sizes = [source.header.chunk_size for source in (a, b) if source.header is not None]
    if len(set(sizes)) > 1:
        return f"their chunks have {sizes[0]} and {sizes[1]} tokens"
    return ""


# -- routing


def _usage_distance(a: ComparedSource, b: ComparedSource) -> UsageDistance | str:
    if a.header is None or b.header is None:
        return f"{(a if a.header is None else b).path.name} holds no routing"
    one, other = a.header.model, b.header.model
    if (one.layers, one.experts) != (other.layers, other.experts):
        return "the models have other layers, or another number of experts"
    usage_a, usage_b, rows_a, rows_b = a.usage, b.usage, a.rows, b.rows
    assert usage_a is not None
    assert usage_b is not None
    assert rows_a is not None
    assert rows_b is not None
    if not (rows_a * rows_b).any():
        return "in no layer both hold a generated token whose routing is known"
    return UsageDistance(jensen_shannon_distance(shares(usage_a), shares(usage_b)), rows_a, rows_b)


def _tokens(a: ComparedSource, b: ComparedSource) -> TokenComparison | str:
    for source in (a, b):
        if source.kind != "session":
            return f"{source.path.name} is no session; give one run of each to compare token by token"
    return compare_tokens(a.path, b.path)


def mean_distance(usage: UsageDistance) -> float:
    """Mean of the distance over layers where both have rows."""
    return float(np.nanmean(usage.distance))
