"""Known-answer benchmark of the half-life fit: verdicts and intervals for curves with a planted half-life.

    python -m benchmarks.half_life [--seeds 400] [--json build/half-life.json]

Prints every case, failures included, and the verdicts of the reference's rule on the same series.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from math import inf
from pathlib import Path

import numpy as np

from moe_watch.routing.half_life.fit import fit_half_life
from tests.routing.planted import (
    CHUNKS,
    GRID,
    NOISE,
    OTHER_NOISE,
    REAL_NOISE,
    UNSEEN_NOISE,
    cliff,
    constant,
    exponential,
    linear,
)
from tests.routing.planted_fits import Found, FoundOtherwise, judge, judge_otherwise
from tests.routing.planted_looks import FoundWatching, watch_planted

PHIS = (0.0, 0.3, 0.5, 0.6)
REQUIRED_PHI = {"coverage": 0.6, "called stable": 0.5, "found within one chunk": 0.5}
"""Largest φ at which each share is required; noise with larger φ is measured, too."""
REQUIRED = 0.9
WATCHED_CHUNKS = (50, 100, 200, 500)
"""Lengths of flat series that are fitted while they grow, see `sequential_looks`."""
WATCHED_NOISE = (0.0, 0.3, 0.5, OTHER_NOISE[0])
WATCHED_TRENDS = (linear(0.46, -0.003), exponential(0.46, 0.2, 12.0), exponential(0.46, 0.1, 20.0), cliff(0.46, 0.34))
WATCHED_SEED = 20_000
"""First seed of growing series: the factor for sequential looks was chosen on lower ones, and on 50,000 to 50,199."""
ALARMS = 0.1
"""Largest share of flat series that may ever get a verdict other than `stable`."""
COST_CHUNKS = (50, 200, 500)
OTHERWISE = (
    constant(0.46),
    linear(0.46, -0.003),
    exponential(0.46, 0.2, 12.0),
    exponential(0.46, 0.1, 20.0),
    cliff(0.46, 0.34),
)
"""Curves that are also planted with noise other than AR(1)."""


def shortfalls(found: list[Found], otherwise: list[FoundOtherwise]) -> list[str]:
    """Return a line for every share below 90 % for which a bound exists, with the note whether it applies at that φ."""
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


def cost(chunks: int, repeats: int = 5) -> tuple[float, float]:
    """Measure the processor time of one fit in ms, after a first fit: of a new series, and with its looks cached."""
    curve = 0.1 + 0.5 * 2.0 ** (-np.arange(chunks) / (chunks / 4))
    random = np.random.default_rng(0)
    series = [(curve + NOISE * random.standard_normal(chunks)).tolist() for _ in range(repeats + 1)]
    fit_half_life(series[0])
    found = []
    for _ in ("new", "looks cached"):
        began = time.process_time()
        for each in series[1:]:
            fit_half_life(each)
        found.append(1000 * (time.process_time() - began) / repeats)
    return found[0], found[1]


OTHERS = ("noise", "planted", "called stable", "covered", "if found", "width")
OURS = (
    *("planted", "φ", "half-life", "verdicts"),
    *("covered", "if right", "blocks", "width", "cliff ±1", "error", "no half-life"),
)
THEIRS = ("planted", "φ", "shape right", "cliff ±1", "error", "no half-life")


def our_row(found: Found) -> str:
    """Return the fit's result of one case, as a line of the first table."""
    verdicts = ", ".join(f"{name} {_percent(share)}" for name, share in found.verdicts.items())
    half_life = "–" if found.half_life is None else f"{found.half_life:.1f}"
    covered = (found.covered, found.covered_given_right, found.blocks_covered)
    rest = (found.located, found.error, found.missing)
    cells = (*map(_percent, covered), _chunks(found.width), *map(_percent, rest))
    return _row(found.name, f"{found.phi:g}", half_life, verdicts, *cells)


def their_row(found: Found) -> str:
    """Return the result of the reference's rule on the same series, as a line of the second table."""
    shares = (found.reference_right, found.reference_located, found.reference_error, found.reference_missing)
    return _row(found.name, f"{found.phi:g}", *map(_percent, shares))


def other_row(found: FoundOtherwise) -> str:
    """Return the fit's result of one curve with noise other than AR(1), as a line of the third table."""
    shares = (found.called_stable, found.covered, found.covered_if_found)
    return _row(found.noise, found.name, *map(_percent, shares), _chunks(found.width))


def print_others(found: list[FoundOtherwise]) -> None:
    """Print the third table."""
    _heading(*OTHERS)
    print("\n".join(map(other_row, found)))


def print_watched(seeds: range) -> list[FoundWatching]:
    """Print the verdicts on series that are fitted while they grow: flat ones, and planted trends."""
    flat = [watch_planted(constant(0.46), noise, seeds, WATCHED_CHUNKS) for noise in WATCHED_NOISE]
    lengths = [f"ever in {chunks}" for chunks in WATCHED_CHUNKS]
    _heading("noise", *lengths, "at the end", "changes a run", *(f"{each}, each look at 0.02" for each in lengths))
    for each in flat:
        ever, once = (map(_percent, shares.values()) for shares in (each.ever, each.ever_uncorrected))
        print(_row(each.noise, *ever, _percent(each.at_end), f"{each.changes:.2f}", *once))
    print()
    trends = [watch_planted(each, noise, seeds, (CHUNKS,)) for noise in WATCHED_NOISE for each in WATCHED_TRENDS]
    _heading("noise", "planted", "found", "after, median", "one look at 0.02")
    for each in trends:
        shares = _percent(each.at_end), _chunks(each.delay), _percent(each.at_end_once)
        print(_row(each.noise, each.name, *shares), flush=True)
    print()
    for each in flat:
        for chunks, share in each.ever.items():
            if share > ALARMS:
                print(f"NOT MET: {each.noise}: {share:.1%} of flat series ever called a trend in {chunks}")
    return [*flat, *trends]


def _heading(*cells: str) -> None:
    print(f"{_row(*cells)}\n|{'---|' * len(cells)}")


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
    parser.add_argument("--watched-only", action="store_true", help="only the series that are fitted while they grow")
    parser.add_argument("--json", type=Path, help="also write every number here")
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    print(f"Fitted while they grow, {arguments.seeds} seeds, noise {REAL_NOISE}:\n")
    watched = print_watched(range(WATCHED_SEED, WATCHED_SEED + arguments.seeds))
    if arguments.watched_only:
        return
    print(f"{arguments.seeds} seeds, {CHUNKS} chunks, noise {NOISE}\n\n{_row(*OURS)}\n|{'---|' * len(OURS)}")
    found = []
    for planted in GRID:
        for phi in PHIS:
            found.append(judge(planted, phi, seeds))
            print(our_row(found[-1]), flush=True)
    print(f"\nThe reference's rule on the same series:\n\n{_row(*THEIRS)}\n|{'---|' * len(THEIRS)}")
    print("\n".join(map(their_row, found)))
    noises = (*OTHER_NOISE, *UNSEEN_NOISE)
    otherwise = [judge_otherwise(each, noise, seeds) for noise in noises for each in OTHERWISE]
    print(f"\nNoise other than AR(1), standard deviation {REAL_NOISE}:\n")
    print_others(otherwise)
    print("\n" + ("\n".join(shortfalls(found, otherwise)) or "nothing below 90 %") + "\n")
    for chunks in COST_CHUNKS:
        new, known = cost(chunks)
        print(f"one fit of {chunks} chunks: {new:.1f} ms of processor time, {known:.1f} with its looks cached")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        rows = {"cases": [asdict(each) for each in found], "other_noise": [asdict(each) for each in otherwise]}
        rows["watched"] = [asdict(each) for each in watched]
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
