"""Rate of verdicts other than `stable` in a measurement: `python -m benchmarks.false_alarms RESULTS`.

Fits the runs as measured, the runs minus the straight line of their mean (a common trend), and their values in random
order, which have no trend: any trend found there is a false alarm of the noise alone.

Then curves with known half-life are planted on the noise of the same runs, the difference of each from the mean of all,
and the share of 95 % intervals that hold the half-life is counted.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.half_life import OTHERWISE, print_others
from moe_watch.routing.half_life.fit import fit_half_life
from tests.routing import planted
from tests.routing.planted_fits import FoundOtherwise, judge_series

TrialSeries = list[list[float]]

LAGS = (1, 2, 3, 5)


def main() -> None:
    """Print the tables."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="results.json of `moe-watch measure`")
    parser.add_argument("--shuffles", type=int, default=5, help="random orders of each run")
    options = parser.parse_args()
    found = json.loads(options.results.read_bytes())
    plain, late = (_series(found[name]) for name in ("runs", "late_runs"))
    print("| series | number | not `stable` | share, 95 % interval | verdicts |\n|---|---:|---:|---|---|")
    for name, series in (("runs", plain), ("late twins", late)):
        if series:
            _row(name, series, found["pressure"])
            _row(f"{name}, minus the line of their mean", _less_shared_line(series), found["pressure"])
    _row("runs, in random order", _shuffled(plain, options.shuffles), found["pressure"])
    _print_noise(plain)
    print()
    print_others(_planted_on([each for each in (plain, late) if each]))


def _series(runs: list[dict[str, dict[str, list[float]]]]) -> TrialSeries:
    return [run["trajectory"]["mid_pressures"] for run in runs]


def _less_shared_line(series: TrialSeries) -> TrialSeries:
    values = np.array(series)
    t = np.arange(values.shape[1]) - (values.shape[1] - 1) / 2
    line = (t @ values.mean(axis=0)) / (t @ t) * t
    less: TrialSeries = (values - line).tolist()
    return less


def _shuffled(series: TrialSeries, times: int) -> TrialSeries:
    rng = np.random.default_rng(0)
    return [rng.permutation(each).tolist() for each in series for _ in range(times)]


def _row(name: str, series: TrialSeries, mode: str) -> None:
    verdicts = Counter(fit_half_life(each, mode=mode).verdict for each in series)
    alarms = len(series) - verdicts["stable"]
    low, high = wilson(alarms, len(series))
    shown = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    share = f"{100 * alarms / len(series):.1f} % [{100 * low:.1f} %, {100 * high:.1f} %]"
    print(f"| {name} | {len(series)} | {alarms} | {share} | {shown} |")


def wilson(hits: int, number: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share."""
    z, p = 1.96, hits / number
    middle, around = p + z * z / (2 * number), z * (p * (1 - p) / number + (z / (2 * number)) ** 2) ** 0.5
    return max(0.0, middle - around) / (1 + z * z / number), min(1.0, middle + around) / (1 + z * z / number)


def _planted_on(groups: list[TrialSeries]) -> list[FoundOtherwise]:
    """Plant every curve with a half-life on the noise of every run, and judge the fits."""
    noise = np.concatenate([_noise(np.array(each)) for each in groups])
    return [
        judge_series(each, "of these runs", list(planted.plant_on(each, noise)))
        for each in OTHERWISE
        if np.isfinite(each.half_life)
    ]


def _noise(values: planted.Floats) -> planted.Floats:
    """Return each run minus the mean of all, `[runs, chunks]`, scaled to the variance around a known mean."""
    runs = len(values)
    around: planted.Floats = (values - values.mean(axis=0)) * (runs / (runs - 1)) ** 0.5
    return around


def _print_noise(series: TrialSeries) -> None:
    """Print the standard deviation and the correlations of the noise, each run around its mean."""
    values = np.array(series)
    around = values - values.mean(axis=1, keepdims=True)
    found = [float((around[:, lag:] * around[:, :-lag]).mean() / (around**2).mean()) for lag in LAGS]
    print(f"\nnoise: sd {around.std():.4f}; correlation of chunks {', '.join(map(str, LAGS))} apart:", end=" ")
    print(", ".join(f"{each:.2f}" for each in found), end="; AR(1) noise would have ")
    print(", ".join(f"{found[0] ** lag:.2f}" for lag in LAGS))


if __name__ == "__main__":
    main()
