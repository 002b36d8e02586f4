"""Rates measured in rounds, compared as ratios with intervals."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Rates = dict[str, list[float]]


def interleave(variants: Mapping[str, Callable[[], float]], rounds: int, *, seed: int = 0) -> Rates:
    """Measure every variant once per round, in a new order each round, so that drift hits all alike."""
    order = random.Random(seed)
    rates: Rates = {name: [] for name in variants}
    for _ in range(rounds):
        for name in order.sample(list(variants), len(variants)):
            rates[name].append(variants[name]())
    return rates


@dataclass(frozen=True)
class Ratio:
    """A ratio of rates over paired rounds, with a 95 % bootstrap interval of the median."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratio(rates: Sequence[float], base: Sequence[float], *, draws: int = 4000, seed: int = 0) -> Ratio:
    """Median over rounds of `rates` / `base`, both `[rounds]`."""
    paired = np.array(rates) / np.array(base)
    picks = np.random.default_rng(seed).integers(0, len(paired), (draws, len(paired)))
    low, high = np.percentile(np.median(paired[picks], axis=1), [2.5, 97.5])
    return Ratio(float(np.median(paired)), float(low), float(high))


def table(rates: Rates, *, unit: str = "tokens/s") -> str:
    """A Markdown table: median rate of each variant, and its ratio to the first one."""
    (first, base), *_ = rates.items()
    lines = [f"| | {unit}, median | ratio to {first}, 95 % interval |", "|---|---|---|"]
    for name, values in rates.items():
        against = "1" if name == first else str(ratio(values, base))
        lines.append(f"| {name} | {statistics.median(values):,.0f} | {against} |")
    return "\n".join(lines)
