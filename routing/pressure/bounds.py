"""Bounds of each pressure in a mode over all possible signals, and the reasons for a pause that can occur.

References: chronomoe-2024.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import log

from moe_watch.routing.events import PauseReason, Pressures, Signals
from moe_watch.routing.pressure.formulas import EXTERNAL, Mode, pause_reason, pressures, reference_signals

ENTROPIES_TRIED = 200
"""Grid of entropies: P_net is not monotonic in the entropy, so its minimum is found by a search."""


@dataclass(frozen=True, slots=True)
class ModeBounds:
    """Bounds of one mode; they are reached only if all signals are at their worst at the same time."""

    mid: tuple[float, float]
    """Lowest and highest P_mid."""
    fast: float
    """Lowest P_fast."""
    net: float
    """Lowest P_net."""
    pauses: frozenset[PauseReason]
    """Reasons for a pause that can occur, multistep excluded."""


@lru_cache(maxsize=16)
def mode_bounds(mode: Mode, experts: int) -> ModeBounds:
    """Return the bounds of `mode` in a model with `experts` experts, at a residual intent of 0.

    References: chronomoe-2024.
    """
    worst = [pressures(signals, 0.0) for signals in _worst(mode, experts)]
    return ModeBounds(
        mid=(min(found.mid for found in worst), pressures(_best(mode), 0.0).mid),
        fast=min(found.fast for found in worst),
        net=min(found.net for found in worst),
        pauses=_reasons(worst),
    )


def _reasons(worst: list[Pressures]) -> frozenset[PauseReason]:
    """Return the reasons found at the bounds; P_net is tested separately, because the reference tests P_fast first."""
    found = {reason for each in worst if (reason := pause_reason(each)) is not None}
    if any(each.net < 0 for each in worst):
        found.add("negative_pressure")
    return frozenset(found)


def _worst(mode: Mode, experts: int) -> Iterator[Signals]:
    """Yield the signals that give the least pressure, for every entropy of the grid."""
    for step in range(ENTROPIES_TRIED + 1):
        entropy = step / ENTROPIES_TRIED
        if mode == "chronomoe-v1":
            yield reference_signals(EXTERNAL, entropy * log(experts), 0.0, 0.0, -1.0)
        else:
            yield _measured(entropy, top_margin=1.0, transition=0.0, proximity=1.0, delta=-1.0)


def _best(mode: Mode) -> Signals:
    """Return the signals that give the highest P_mid."""
    if mode == "chronomoe-v1":
        return reference_signals(EXTERNAL, 0.0, 1.0, 1.0, 1.0)
    return _measured(0.0, top_margin=0.0, transition=1.0, proximity=0.0, delta=1.0)


def _measured(entropy: float, *, top_margin: float, transition: float, proximity: float, delta: float) -> Signals:
    return Signals(
        router_entropy=entropy,
        router_margin=0.0,
        top_margin=top_margin,
        transition_prob=transition,
        proximity_meso=proximity,
        proximity_macro=proximity,
        slow_confidence=0.0,
        coherence=0.0,
        delta_coherence=delta,
    )
