"""Position control: it separates drift by position from decay by age, which a growing context confounds.

In a baseline run, a chunk's age (chunks since the prompt) and its position in the context grow together, so a trend may
come from either. Its late twin has the same prompt and generates the same number of tokens, but starts later: `shift`
chunks of unrelated text precede the prompt. Then, over the shared chunks,

    plain[j + shift] − plain[j]  =  (late[j] − plain[j])  +  (plain[j + shift] − late[j])
    the trend                    =  same age, later       +  same position, older

and the mean of each term over j, and over pairs of runs, is one number with an interval.

References: davison-hinkley-1997.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moe_watch.routing.arrays import Floats
from moe_watch.routing.stats.bootstrap import Estimate, cluster_mean


@dataclass(frozen=True, slots=True)
class TwinPair:
    """Baseline run and its late twin: P_mid of measured chunks `[n]`."""

    plain: Sequence[float]
    late: Sequence[float]
    shift: int
    """Chunks by which the twin's positions are later."""


@dataclass(frozen=True, slots=True)
class PositionControl:
    """Change of P_mid over `shift` chunks, split into the parts of position and age."""

    trend: Estimate
    """Total change: baseline runs, `shift` chunks later."""
    position: Estimate
    """Change by position alone: same age, `shift` chunks later in the context."""
    age: Estimate
    """Change by age alone: same position, `shift` chunks more since the prompt."""
    shift: float
    """Chunks, mean over pairs."""

    @property
    def separable(self) -> bool:
        """True if exactly one of the two parts has an interval without 0."""
        return self.position.is_other_than_zero != self.age.is_other_than_zero


def position_control(pairs: Sequence[TwinPair]) -> PositionControl | None:
    """Split the trend of baseline runs; pairs without shared chunks are left out. Return None if no pair remains.

    References: davison-hinkley-1997.
    """
    usable = [pair for pair in pairs if 0 < pair.shift < min(len(pair.plain), len(pair.late))]
    if not usable:
        return None
    parts = np.array([_split(pair) for pair in usable])
    trend, position, age = (cluster_mean(parts[:, column]) for column in range(3))
    return PositionControl(trend, position, age, float(np.mean([pair.shift for pair in usable])))


def _split(pair: TwinPair) -> Floats:
    """Return (trend, position, age) of one pair."""
    plain, late = np.asarray(pair.plain, np.float64), np.asarray(pair.late, np.float64)
    shared = min(len(plain) - pair.shift, len(late))
    young, old, twin = plain[:shared], plain[pair.shift : pair.shift + shared], late[:shared]
    return np.array([(old - young).mean(), (twin - young).mean(), (old - twin).mean()])
