"""What a text does to mid-pressure, against a neutral text of the same length and against no text.

A run is forked at chunk boundaries: its context copied, and gone on with without text, with a neutral text, and with
the text, several times each with randomness of its own. Nothing that happens there becomes part of the run, so the
arms of a boundary share one history and differ in the text alone. docs/experiments.md, "External energy".
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
    """P_mid of one chunk's continuations at one boundary of one run, by arm."""

    run: int
    i: int
    """Tokens of the run before the fork."""
    none: tuple[float, ...]
    neutral: tuple[float, ...]
    text: tuple[float, ...]

    @property
    def replicates(self) -> int:
        """Continuations in the arm that has fewest."""
        return min(len(self.none), len(self.neutral), len(self.text))

    def mean(self, arm: ForkArm) -> float:
        """Mean P_mid of one arm."""
        return fmean(self._arm(arm))

    def difference(self, arm: ForkArm, other: ForkArm) -> float:
        """Mean of one arm minus that of another."""
        return self.mean(arm) - self.mean(other)

    def _arm(self, arm: ForkArm) -> tuple[float, ...]:
        return {"none": self.none, "neutral": self.neutral, "text": self.text}[arm]


@dataclass(frozen=True, slots=True)
class ExternalEnergy:
    """Differences in P_mid of the chunk after the text; intervals by bootstrap over boundaries."""

    text_minus_neutral: Estimate
    """The primary estimate: what the text's meaning does, its length accounted for."""
    text_minus_none: Estimate
    neutral_minus_none: Estimate
    """What being interrupted does, whatever is said."""
    arms: dict[ForkArm, float]
    """Mean P_mid."""
    boundaries: int
    replicates: tuple[int, int]
    """Fewest and most continuations in an arm."""


def boundaries_of(forks: Iterable[Fork], run: int) -> list[Boundary]:
    """One run's forks, by boundary. Those in which an arm is missing, or was not measured, are left out."""
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
    """The effect of the text over all boundaries, each with the same weight; None if there is none."""
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
