"""The known-answer benchmark of the half-life fit: curves with a planted half-life, and what is made of them.

    python -m benchmarks.half_life [--seeds 400] [--json build/half-life.json]

Prints every case, failures included, beside what the reference's own rule says about the same series.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import asdict, dataclass
from math import inf, isfinite
from pathlib import Path

import numpy as np

from routing.half_life import Fit, fit_half_life
from routing.reference_numbers import reference_shape
from routing.trend_shapes import TRENDS
from tests.routing.planted import (
    CHUNKS,
    GRID,
    NOISE,
    OTHER_NOISE,
    REAL_NOISE,
    UNSEEN_NOISE,
    OtherNoise,
    Planted,
    Series,
    cliff,
    constant,
    exponential,
    linear,
    plant,
    plant_with,
)

PHIS = (0.0, 0.3, 0.5, 0.6)
REQUIRED_PHI = {"coverage": 0.6, "called stable": 0.5, "found within one chunk": 0.5}
"""Noise more persistent than this is measured too, and nothing is required there."""
REQUIRED = 0.9
COST_CHUNKS = (50, 200, 500)
OTHERWISE = (
    constant(0.46),
    linear(0.46, -0.003),
    exponential(0.46, 0.2, 12.0),
    exponential(0.46, 0.1, 20.0),
    cliff(0.46, 0.34),
)
"""Curves that are planted with noise that is not AR(1), too."""


@dataclass(frozen=True)
class Found:
    """What became of one planted curve at one φ, over all seeds. Shares are 0..1; None where there is nothing."""

    name: str
    shape: str
    phi: float
    half_life: float | None
    """What was planted; None where half is never reached or differs from seed to seed."""
    verdicts: dict[str, float]
    right: float
    """Verdict as planted."""
    covered: float | None
    """Planted half-life within the 95 % interval; a series without an interval does not count as covered."""
    covered_given_right: float | None
    """The same among the series with the right verdict."""
    blocks_covered: float | None
    width: float | None
    """Median width of the 95 % intervals in chunks; infinite where most are open."""
    located: float | None
    """Cliffs: verdict right, and at most one chunk beside the planted one."""
    error: float | None
    """Median of |half-life − planted| / planted, where there is a half-life."""
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
    """What became of one planted curve with noise that is not AR(1), over all seeds."""

    name: str
    noise: str
    called_stable: float
    covered: float | None
    """Planted half-life within the 95 % interval; None where half is never reached."""
    covered_if_found: float | None
    """The same among the series that are called a fall."""
    width: float | None
    """Median width of the 95 % intervals in chunks; infinite where most are open."""


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


def shortfalls(found: list[Found], otherwise: list[FoundOtherwise]) -> list[str]:
    """Every share below 90 % of those that are required somewhere, one line each, and whether it is required there."""
    lines = []
    for each in found:
        shares = {
            "coverage": each.covered,
            "called stable": each.right if each.shape == "stable" else None,
            "found within one chunk": each.located,
        }
        for what, share in shares.items():
            if share is not None and share < REQUIRED:
                rule = "NOT MET" if each.phi <= REQUIRED_PHI[what] else "below 90 %, not required"
                lines.append(f"{rule}: {each.name}, φ {each.phi:g}: {what} {_percent(share)}")
    return lines + [
        f"NOT MET: {each.name}, {each.noise}: coverage {_percent(each.covered)}"
        for each in otherwise
        if each.covered is not None and each.covered < REQUIRED
    ]


def cost(chunks: int, repeats: int = 5) -> float:
    """Milliseconds of processor time that one fit of so many chunks takes, the axis known."""
    curve = 0.1 + 0.5 * 2.0 ** (-np.arange(chunks) / (chunks / 4))
    series = curve + NOISE * np.random.default_rng(0).standard_normal(chunks)
    fit_half_life(series.tolist())
    began = time.process_time()
    for _ in range(repeats):
        fit_half_life(series.tolist())
    return 1000 * (time.process_time() - began) / repeats


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


OTHERS = ("noise", "planted", "called stable", "covered", "if found", "width")
OURS = (
    *("planted", "φ", "half-life", "verdicts"),
    *("covered", "if right", "blocks", "width", "cliff ±1", "error", "no half-life"),
)
THEIRS = ("planted", "φ", "shape right", "cliff ±1", "error", "no half-life")


def our_row(found: Found) -> str:
    """What the fit makes of one case, as a line of the first table."""
    verdicts = ", ".join(f"{name} {_percent(share)}" for name, share in found.verdicts.items())
    half_life = "–" if found.half_life is None else f"{found.half_life:.1f}"
    covered = (found.covered, found.covered_given_right, found.blocks_covered)
    rest = (found.located, found.error, found.missing)
    cells = (*map(_percent, covered), _chunks(found.width), *map(_percent, rest))
    return _row(found.name, f"{found.phi:g}", half_life, verdicts, *cells)


def their_row(found: Found) -> str:
    """What the reference's rule makes of the same series, as a line of the second table."""
    shares = (found.reference_right, found.reference_located, found.reference_error, found.reference_missing)
    return _row(found.name, f"{found.phi:g}", *map(_percent, shares))


def other_row(found: FoundOtherwise) -> str:
    """What the fit makes of one curve with noise that is not AR(1), as a line of the third table."""
    shares = (found.called_stable, found.covered, found.covered_if_found)
    return _row(found.noise, found.name, *map(_percent, shares), _chunks(found.width))


def print_others(found: list[FoundOtherwise]) -> None:
    """The third table."""
    print(f"{_row(*OTHERS)}\n|{'---|' * len(OTHERS)}")
    print("\n".join(map(other_row, found)))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _percent(share: float | None) -> str:
    return "–" if share is None else "100 %" if share == 1 else f"{100 * share:.1f} %"


def _chunks(width: float | None) -> str:
    return "–" if width is None else "open" if width == inf else f"{width:.1f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=400)
    parser.add_argument("--json", type=Path, help="also write every number here")
    arguments = parser.parse_args()
    print(f"{arguments.seeds} seeds, {CHUNKS} chunks, noise {NOISE}\n\n{_row(*OURS)}\n|{'---|' * len(OURS)}")
    found = []
    for planted in GRID:
        for phi in PHIS:
            found.append(judge(planted, phi, range(arguments.seeds)))
            print(our_row(found[-1]), flush=True)
    print(f"\nThe reference's rule on the same series:\n\n{_row(*THEIRS)}\n|{'---|' * len(THEIRS)}")
    print("\n".join(map(their_row, found)))
    noises = (*OTHER_NOISE, *UNSEEN_NOISE)
    otherwise = [judge_otherwise(each, noise, range(arguments.seeds)) for noise in noises for each in OTHERWISE]
    print(f"\nNoise that is not AR(1), standard deviation {REAL_NOISE}:\n")
    print_others(otherwise)
    print("\n" + ("\n".join(shortfalls(found, otherwise)) or "nothing below 90 %") + "\n")
    for chunks in COST_CHUNKS:
        print(f"one fit of {chunks} chunks: {cost(chunks):.1f} ms of processor time")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        rows = {"cases": [asdict(each) for each in found], "other_noise": [asdict(each) for each in otherwise]}
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
