"""Scores of sequential looks at planted series, while the series grow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from moe_watch.routing.half_life.sequential_looks import Look, run_looks, sequential_result
from moe_watch.routing.half_life.trend_detection import MIN_CHANGE
from tests.routing.planted import REAL_NOISE, OtherNoise, Planted, Series, plant, plant_with

ONE_LOOK = 0.02
"""Limit of a single test, for comparison."""


@dataclass(frozen=True)
class FoundWatching:
    """Scores of one planted curve, from the looks at its growing series. Shares are 0..1."""

    name: str
    noise: str
    series: int
    ever: dict[int, float]
    """Share of series with another verdict than stable at any look, by number of chunks."""
    ever_uncorrected: dict[int, float]
    """The same if each look were a separate test at 0.02."""
    at_end: float
    """Share with another verdict than stable after the last chunk."""
    at_end_once: float
    """The same by a single look at 0.02 after the last chunk."""
    changes: float
    """Changes of verdict per series, between stable and any other."""
    delay: float | None
    """Median number of chunks until the first other verdict, over series that had one."""


def watch_planted(planted: Planted, noise: float | OtherNoise, seeds: range, chunks: tuple[int, ...]) -> FoundWatching:
    """Score the looks at one curve, with noise as large as the embedded model's.

    Args:
        planted: the curve.
        noise: φ of AR(1) noise, or another noise model.
        seeds: one series each.
        chunks: lengths to report, ascending; at each there is a look.
    """
    if isinstance(noise, OtherNoise):
        made: Iterable[Series] = plant_with(planted, noise, seeds, chunks=chunks[-1])
        name = noise.name
    else:
        made = plant(planted, noise, seeds, sd=REAL_NOISE, chunks=chunks[-1])
        name = f"φ {noise:g}"
    times = np.arange(chunks[-1], dtype=float)
    return watched_share(planted.name, name, [run_looks(np.array(each.mid), times) for each in made], chunks)


def watched_share(name: str, noise: str, all_looks: list[list[Look]], chunks: tuple[int, ...]) -> FoundWatching:
    """Summarize the looks at many series of one curve."""
    courses = [[sequential_result(looks[: at + 1]).found for at in range(len(looks))] for looks in all_looks]
    uncorrected = [[look.p <= ONE_LOOK and look.change >= MIN_CHANGE for look in looks] for looks in all_looks]
    counts = [look.chunks for look in all_looks[0]]
    first = [counts[course.index(True)] for course in courses if any(course)]
    changes = [sum(a != b for a, b in zip([False, *course], course, strict=False)) for course in courses]
    return FoundWatching(
        name=name,
        noise=noise,
        series=len(courses),
        ever={upto: _ever(courses, counts, upto) for upto in chunks},
        ever_uncorrected={upto: _ever(uncorrected, counts, upto) for upto in chunks},
        at_end=_share(course[-1] for course in courses),
        at_end_once=_share(course[-1] for course in uncorrected),
        changes=sum(changes) / len(changes),
        delay=float(np.median(first)) if first else None,
    )


def _ever(courses: list[list[bool]], counts: list[int], upto: int) -> float:
    return _share(any(found for found, at in zip(course, counts, strict=True) if at <= upto) for course in courses)


def _share(values: Iterable[bool]) -> float:
    found = list(values)
    return sum(found) / len(found)
