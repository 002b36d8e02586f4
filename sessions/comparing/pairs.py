"""Comparison of two sources: tests, distance of expert usage, and agreement token by token."""

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
from moe_watch.sessions.comparing.sources import ComparedRun, ComparedSource, letter, read_source
from moe_watch.sessions.comparing.tokens import TokenComparison, compare_tokens


@dataclass(frozen=True, slots=True)
class Tested:
    """A test, and the objects that it permuted."""

    outcome: Permutation | NoTest
    permuted: str
    corrected: float | None = None
    """p corrected by Holm's method for the tests of this kind over all pairs; None if there is no test."""


@dataclass(frozen=True, slots=True)
class UsageDistance:
    """Distance of two sources' expert usage, decode tokens only."""

    distance: Floats
    """Jensen–Shannon distance `[L]`, from 0 (equal) to 1 (disjoint); NaN where one has no rows."""
    rows_a: Ints
    """Number of rows behind the usage `[L]`."""
    rows_b: Ints


@dataclass(frozen=True, slots=True)
class SourcePair:
    """Comparison of the first source with one of the others."""

    a: ComparedSource
    b: ComparedSource
    half_life: Tested
    trend: Tested
    usage: UsageDistance | str
    """The distance, or the reason that there is none."""
    tokens: TokenComparison | str
    """The comparison, or the reason that there is none."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Sources, and each of them compared with the first."""

    sources: list[ComparedSource]
    pairs: list[SourcePair]


def compare(paths: list[Path], mode: str | None = None) -> Comparison:
    """Compare the first of several sources with each of the others.

    Args:
        paths: sessions, folders of measurements, or files with series; at least two.
        mode: the pressure mode, see `read_source`.

    Raises:
        UserError: one of them cannot be compared.
    """
    sources = [read_source(path, mode) for path in paths]
    for at, other in enumerate(sources[1:], 1):
        other.warnings.extend(_differing_masks(sources[0], other, letter(at)))
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


def _differing_masks(a: ComparedSource, b: ComparedSource, name: str) -> list[str]:
    """Return a warning if other experts were off in the two sources."""
    if a.header is None or b.header is None or a.masks == b.masks:
        return []
    said = [f"{each_name} has {each.masks or 'none'}" for each_name, each in (("A", a), (name, b))]
    return [f"{b.path}: other experts were switched off: {said[0]}, {said[1]}"]


def _corrected(tests: list[Tested]) -> list[Tested]:
    """Return the tests with p corrected for all of them."""
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
        return Tested(NoTest("one run each: no test can separate half-lives from chance, see intervals"), permuted)
    fits = a.fits + b.fits
    longest = min(fit.span for fit in fits)
    return Tested(
        half_lives_between_runs([run.half_life for run in a.runs], [run.half_life for run in b.runs], longest), permuted
    )


def _trend(a: ComparedSource, b: ComparedSource) -> Tested:
    """Test whether the trends of mid-pressure differ: of single runs chunk by chunk, of groups by their means."""
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
    """Return the rise of mid-pressure in each run: mean of the last 30 % of chunks minus mean of the first 30 %."""
    falls = [entropy_collapse(run.mid) for run in source.runs]
    return [-fall.early_late for fall in falls if fall is not None]


def _no_test(a: ComparedSource, b: ComparedSource) -> str:
    """Return the reason that mid-pressure of two sources cannot be tested; empty if it can."""
    if why := dense_reason(a, b):
        return why
    for source in (a, b):
        for run in source.runs:
            if run.unavailable:
                return f"{run.name}: {run.unavailable}"
    if a.mode != b.mode:
        return f"their pressure modes differ: {a.mode or 'mode not named'}, {b.mode or 'mode not named'}"
    sizes = [source.header.chunk_size for source in (a, b) if source.header is not None]
    if len(set(sizes)) > 1:
        return f"their chunks have {sizes[0]} and {sizes[1]} tokens"
    return ""


# -- routing


def dense_reason(a: ComparedSource, b: ComparedSource) -> str:
    """Return the reason that two sources have no routing and no pressure in common; empty if neither is dense."""
    dense = [source for source in (a, b) if source.is_dense]
    if len(dense) == 2:
        return "both models are dense: no MoE layers, so no routing and no pressure"
    return f"{dense[0].path.name} is of a dense model: no MoE layers, so no routing and no pressure" if dense else ""


def _usage_distance(a: ComparedSource, b: ComparedSource) -> UsageDistance | str:
    usage_a, usage_b = a.usage, b.usage
    if a.header is None or usage_a is None:
        return f"{a.path.name} holds no routing"
    if b.header is None or usage_b is None:
        return f"{b.path.name} holds no routing"
    if why := dense_reason(a, b):
        return why
    one, other = a.header.model, b.header.model
    if (one.layers, one.experts) != (other.layers, other.experts):
        return "the models differ in layers or in the number of experts"
    if not (usage_a.rows * usage_b.rows).any():
        return "no layer has generated tokens with known routing in both"
    distance = jensen_shannon_distance(shares(usage_a.counts), shares(usage_b.counts))
    return UsageDistance(distance, usage_a.rows, usage_b.rows)


def _tokens(a: ComparedSource, b: ComparedSource) -> TokenComparison | str:
    for source in (a, b):
        if source.kind != "session":
            return f"{source.path.name} is not a session; give one run of each to compare token by token"
    return compare_tokens(a.path, b.path)


def mean_distance(usage: UsageDistance) -> float:
    """Return the mean distance over layers where both have rows."""
    return float(np.nanmean(usage.distance))
