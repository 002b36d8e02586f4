"""Effect of a text on mid-pressure, against a neutral text of the same length and against no text.

A run is forked at chunk boundaries: the context is copied and continued without text, with a neutral text, and with the
text, several times each, with separate seeds. The continuations do not become part of the run, so the arms of a
boundary share one history and differ in the text alone. docs/experiments.md, "External energy".

References: davison-hinkley-1997.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from moe_watch.routing.events import Fork, ForkArm
from moe_watch.routing.stats.bootstrap import Estimate, cluster_mean

ARMS: tuple[ForkArm, ...] = ("none", "neutral", "text")


@dataclass(frozen=True, slots=True)
class Boundary:
    """P_mid of the continuations at one chunk boundary of one run, by arm."""

    run: int
    i: int
    """Tokens of the run before the fork."""
    none: tuple[float, ...]
    neutral: tuple[float, ...]
    text: tuple[float, ...]

    @property
    def replicates(self) -> int:
        """Number of continuations in the smallest arm."""
        return min(len(self.none), len(self.neutral), len(self.text))

    def mean(self, arm: ForkArm) -> float:
        """Return the mean P_mid of one arm."""
        return fmean(self._arm(arm))

    def difference(self, arm: ForkArm, other: ForkArm) -> float:
        """Return the mean P_mid of one arm minus the mean of another."""
        return self.mean(arm) - self.mean(other)

    def _arm(self, arm: ForkArm) -> tuple[float, ...]:
        return {"none": self.none, "neutral": self.neutral, "text": self.text}[arm]


@dataclass(frozen=True, slots=True)
class ExternalEnergy:
    """Differences in P_mid of the chunk after the text; intervals by bootstrap over boundaries."""

    text_minus_neutral: Estimate
    """Primary estimate: effect of the text's meaning at equal length."""
    text_minus_none: Estimate
    neutral_minus_none: Estimate
    """Effect of an interruption by any text."""
    arms: dict[ForkArm, float]
    """Mean P_mid."""
    boundaries: int
    replicates: tuple[int, int]
    """Smallest and largest number of continuations in an arm."""


def boundaries_of(forks: Iterable[Fork], run: int) -> list[Boundary]:
    """Return one run's forks, by boundary; boundaries with a missing or unmeasured arm are left out."""
    found: dict[int, dict[ForkArm, list[float]]] = {}
    for fork in forks:
        if fork.pressures is not None:
            found.setdefault(fork.i, {arm: [] for arm in ARMS})[fork.arm].append(fork.pressures.mid)
    return [
        Boundary(run, i, tuple(arms["none"]), tuple(arms["neutral"]), tuple(arms["text"]))
        for i, arms in sorted(found.items())
        if all(arms.values())
    ]


def external_energy(boundaries: Sequence[Boundary]) -> ExternalEnergy | None:
    """Estimate the effect of the text over all boundaries, with equal weights; return None if there is no boundary.

    References: davison-hinkley-1997.
    """
    if not boundaries:
        return None

    def contrast(arm: ForkArm, other: ForkArm) -> Estimate:
        return cluster_mean([each.difference(arm, other) for each in boundaries])

    counts = [each.replicates for each in boundaries]
    return ExternalEnergy(
        text_minus_neutral=contrast("text", "neutral"),
        text_minus_none=contrast("text", "none"),
        neutral_minus_none=contrast("neutral", "none"),
        arms={arm: float(np.mean([each.mean(arm) for each in boundaries])) for arm in ARMS},
        boundaries=len(boundaries),
        replicates=(min(counts), max(counts)),
    )
