"""Scores of fits to series with a planted half-life, for tests and for the benchmark."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import inf, isfinite

import numpy as np

from moe_watch.routing.half_life.chronomoe import reference_shape
from moe_watch.routing.half_life.fit import Fit, fit_half_life
from moe_watch.routing.half_life.shapes import TRENDS
from tests.routing.planted import (
    CHUNKS,
    OtherNoise,
    Planted,
    Series,
    plant,
    plant_with,
)


@dataclass(frozen=True)
class Found:
    """Scores of one planted curve at one φ, over all seeds. Shares are 0..1; None without a case."""

    name: str
    shape: str
    phi: float
    half_life: float | None
    """Planted half-life; None if half is never reached or differs between seeds."""
    verdicts: dict[str, float]
    right: float
    """Share of series with the planted verdict."""
    covered: float | None
    """Planted half-life within the 95 % interval; a series without an interval does not count as covered."""
    covered_given_right: float | None
    """Coverage among the series with the right verdict."""
    blocks_covered: float | None
    width: float | None
    """Median width of the 95 % intervals in chunks; infinite if most are open."""
    located: float | None
    """Cliffs: right verdict, and a breakpoint at most one chunk from the planted one."""
    error: float | None
    """Median of |half-life − planted| / planted over series with a half-life."""
    missing: float | None
    """Series without a half-life although one was planted within the run."""
    reference_right: float
    reference_located: float | None
    reference_error: float | None
    reference_missing: float | None


def judge(planted: Planted, phi: float, seeds: range) -> Found:
    """Fit every seed's series of one curve."""
    series = list(plant(planted, phi, seeds))
    fits = [fit_half_life(each.mid) for each in series]
    pairs = list(zip(fits, series, strict=True))
    right = [fit.verdict == planted.shape for fit in fits]
    has_half = planted.shape not in ("stable", "rising") and isfinite(series[0].half_life)
    in_run = has_half and series[0].half_life <= CHUNKS
    covers = [_covers(fit.interval, each.half_life) for fit, each in pairs]
    is_cliff = planted.shape == "cliff"
    rule = [reference_shape(fit.reference) for fit in fits]
    return Found(
        name=planted.name,
        shape=planted.shape,
        phi=phi,
        half_life=planted.half_life if has_half and not is_cliff else None,
        verdicts={name: count / len(fits) for name, count in Counter(fit.verdict for fit in fits).most_common()},
        right=_share(right),
        covered=_share(covers) if has_half else None,
        covered_given_right=_share([cover for cover, good in zip(covers, right, strict=True) if good])
        if has_half and any(right)
        else None,
        blocks_covered=_share([_covers(fit.block_interval, each.half_life) for fit, each in pairs])
        if has_half
        else None,
        width=_median_width(fits) if has_half else None,
        located=_share([_is_located(fit, each) for fit, each in pairs]) if is_cliff else None,
        error=_median_error([(fit.half_life, each.half_life) for fit, each in pairs]) if in_run else None,
        missing=_share([fit.half_life is None for fit in fits]) if in_run else None,
        reference_right=_share([name == planted.shape for name in rule]),
        reference_located=_share(
            [
                name == "cliff" and _near(fit.reference.max_drop_at_chunk + 1, each)
                for name, (fit, each) in zip(rule, pairs, strict=True)
            ]
        )
        if is_cliff
        else None,
        reference_error=_median_error([(fit.crossing, each.half_life) for fit, each in pairs]) if in_run else None,
        reference_missing=_share([fit.crossing is None for fit in fits]) if in_run else None,
    )


@dataclass(frozen=True)
class FoundOtherwise:
    """Scores of one planted curve with noise that is not AR(1), over all seeds."""

    name: str
    noise: str
    called_stable: float
    covered: float | None
    """Planted half-life within the 95 % interval; None if half is never reached."""
    covered_if_found: float | None
    """Coverage among the series with a falling verdict."""
    width: float | None
    """Median width of the 95 % intervals in chunks; infinite if most are open."""


def judge_otherwise(planted: Planted, noise: OtherNoise, seeds: range) -> FoundOtherwise:
    """Fit every seed's series of one curve with such noise."""
    return judge_series(planted, noise.name, list(plant_with(planted, noise, seeds)))


def judge_series(planted: Planted, noise: str, series: list[Series]) -> FoundOtherwise:
    """Fit every series of one curve with noise of that name."""
    fits = [fit_half_life(each.mid) for each in series]
    covers = [_covers(fit.interval, each.half_life) for fit, each in zip(fits, series, strict=True)]
    has_half = isfinite(planted.half_life)
    return FoundOtherwise(
        planted.name,
        noise,
        called_stable=_share([fit.verdict == "stable" for fit in fits]),
        covered=_share(covers) if has_half else None,
        covered_if_found=_share([cover for cover, fit in zip(covers, fits, strict=True) if fit.verdict in TRENDS])
        if has_half
        else None,
        width=_median_width(fits) if has_half else None,
    )


def _median_width(fits: list[Fit]) -> float | None:
    widths = [fit.interval[1] - fit.interval[0] for fit in fits if fit.interval is not None]
    return float(np.median(widths)) if widths else None


def _covers(interval: tuple[float, float] | None, half_life: float) -> bool:
    return interval is not None and interval[0] <= half_life <= interval[1]


def _is_located(fit: Fit, series: Series) -> bool:
    return fit.verdict == "cliff" and _near(fit.chosen.parameters["at"], series)


def _near(change: float, series: Series) -> bool:
    return series.change is not None and abs(change - series.change) <= 1


def _share(values: list[bool]) -> float:
    return sum(values) / len(values)


def _median_error(pairs: list[tuple[float | None, float]]) -> float | None:
    errors = [abs(found - planted) / planted for found, planted in pairs if found is not None and planted < inf]
    return float(np.median(errors)) if errors else None
