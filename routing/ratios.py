"""Rates measured in rounds, compared as ratios with intervals."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Name = TypeVar("Name", bound=Hashable)

DRAWS = 4000
SEED = 0
"""Of the order of rounds and of the draws."""


def interleave(
    variants: Mapping[Name, Callable[[], float]], rounds: int, *, warm_up: int = 0
) -> dict[Name, list[float]]:
    """Measure every variant once per round, in a new order each round, so that drift hits all alike.

    Args:
        variants: what measures a rate, by name.
        rounds: how often each one is measured.
        warm_up: rounds before those, in the order of `variants`, whose rates are left out.
    """
    order = random.Random(SEED)
    rates: dict[Name, list[float]] = {name: [] for name in variants}
    for number in range(warm_up + rounds):
        is_warm_up = number < warm_up
        for name in list(variants) if is_warm_up else order.sample(list(variants), len(variants)):
            rate = variants[name]()
            if not is_warm_up:
                rates[name].append(rate)
    return rates


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of rates over paired rounds, with a 95 % bootstrap interval of the median."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratio(rates: Sequence[float], base: Sequence[float]) -> Ratio:
    """Median over rounds of `rates` / `base`, both `[rounds]`."""
    paired = np.array(rates) / np.array(base)
    picks = np.random.default_rng(SEED).integers(0, len(paired), (DRAWS, len(paired)))
    low, high = np.percentile(np.median(paired[picks], axis=1), [2.5, 97.5])
    return Ratio(float(np.median(paired)), float(low), float(high))


def table(rates: Mapping[str, Sequence[float]], *, corner: str = "") -> str:
    """A Markdown table: median rate of each variant, in tokens per second, and its ratio to the first one."""
    (first, base), *_ = rates.items()
    lines = [f"| {corner} | tokens/s, median | ratio to {first}, 95 % interval |", "|---|---|---|"]
    for name, values in rates.items():
        against = "1" if name == first else str(ratio(values, base))
        lines.append(f"| {name} | {_rounded(statistics.median(values))} | {against} |")
    return "\n".join(lines)


def _rounded(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
