"""Telling drift by position from decay by age: the control that a trend over a growing context needs.

In a plain run a chunk's age (chunks since the prompt) and its position in the context grow together, so a trend in it
may be either one's. Its late twin has the same prompt, and generates as many tokens, but begins late: text that has
nothing to do with the prompt stands before it, `shift` chunks of it. Then over the shared stretch

    plain[j + shift] − plain[j]  =  (late[j] − plain[j])  +  (plain[j + shift] − late[j])
    the trend                    =  same age, later       +  same position, older

and the mean of each term over j, and over pairs of runs, is one number with an interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moe_watch.routing.arrays import Floats
from moe_watch.routing.stats.bootstrap import Estimate, cluster_mean


@dataclass(frozen=True, slots=True)
class TwinPair:
    """A plain run and its late twin: P_mid of measured chunks `[n]`."""

    plain: Sequence[float]
    late: Sequence[float]
    shift: int
    """Chunks by which the twin's positions lie behind."""


@dataclass(frozen=True, slots=True)
class PositionControl:
    """How much P_mid changes over `shift` chunks, and through what."""

    trend: Estimate
    """In all: plain runs, `shift` chunks on."""
    position: Estimate
    """By position alone: same age, `shift` chunks further back in the context."""
    age: Estimate
    """By age alone: same position, `shift` chunks longer since the prompt."""
    shift: float
    """Chunks, mean over pairs."""

    @property
    def separable(self) -> bool:
        """One of the two parts is known to be there, and the other one is not."""
        return self.position.is_other_than_zero != self.age.is_other_than_zero


def position_control(pairs: Sequence[TwinPair]) -> PositionControl | None:
    """Split the trend of plain runs; pairs without a shared stretch are left out, None if none is left."""
    usable = [pair for pair in pairs if 0 < pair.shift < min(len(pair.plain), len(pair.late))]
    if not usable:
        return None
    parts = np.array([_split(pair) for pair in usable])
    trend, position, age = (cluster_mean(parts[:, column]) for column in range(3))
    return PositionControl(trend, position, age, float(np.mean([pair.shift for pair in usable])))


def _split(pair: TwinPair) -> Floats:
    """(trend, position, age) of one pair."""
    plain, late = np.asarray(pair.plain, np.float64), np.asarray(pair.late, np.float64)
    shared = min(len(plain) - pair.shift, len(late))
    young, old, twin = plain[:shared], plain[pair.shift : pair.shift + shared], late[:shared]
    return np.array([(old - young).mean(), (twin - young).mean(), (old - twin).mean()])
