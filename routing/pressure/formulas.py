"""Pressures of a chunk, from routing and output signals.

The formulas come from ChronoMoE; formulas, bounds and modes: docs/measurements.md, "Pressure". All modes compute the
same formulas from different signals. `measured-v2` measures every signal and restarts with every context.
`measured-v1`, the mode of older recordings, measures the same signals and carries its averages over into a fresh
context. `chronomoe-v1` is the reference, with the constants that it has in place of its clocks, so that published
numbers can be compared.

References: chronomoe-2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import tanh
from typing import Literal

from moe_watch.routing.events import PauseReason, Pressures, Signals

Mode = Literal["measured-v2", "measured-v1", "chronomoe-v1"]
MODES: tuple[Mode, ...] = ("measured-v2", "measured-v1", "chronomoe-v1")
"""New recordings use the first one."""
MODES_OFFERED = f"{', '.join(MODES[:-1])} or {MODES[-1]}"
CONTEXT_MODES: frozenset[str] = frozenset({"measured-v2"})
"""Modes that restart with every context: averages, warm-up, phases, coherence and residual."""

MODE_WORDS: dict[Mode, str] = {
    "measured-v2": "measured",
    "measured-v1": "measured (version 1)",
    "chronomoe-v1": "ChronoMoE's rule",
}
"""Names of the pressure modes in text; commands and files use the keys."""

WARM_UP_CHUNKS = 10
"""Complete chunks that fill the averages first: shown, but never P₀ and never fitted."""


def mode_words(mode: str) -> str:
    """Return the name of a pressure mode in text; an unknown mode is returned unchanged."""
    return next((words for known, words in MODE_WORDS.items() if known == mode), mode)


def pressures(signals: Signals, residual: float, *, mid_margin: float | None = None) -> Pressures:
    """Compute all pressures of one chunk.

    Args:
        signals: signals of the chunk.
        residual: residual intent after the chunk before, 0..1.
        mid_margin: margin in P_mid if it is not `signals.top_margin` (the reference's choice gap).

    References: chronomoe-2024.
    """
    margin = signals.top_margin if mid_margin is None else mid_margin
    surprise = tanh(signals.delta_coherence)
    fast = _clip(-0.25 * signals.router_entropy + 0.3 * tanh(signals.router_margin) + 0.2 * surprise)
    mid = _clip(
        0.4 * tanh(1 - margin)
        + 0.3 * tanh(signals.transition_prob)
        + 0.2 * tanh(1 / (1 + signals.proximity_meso))
        + 0.1 * surprise
    )
    slow = _clip(
        signals.slow_confidence
        * (0.3 * tanh(1 / (1 + signals.proximity_macro)) - 0.7 * tanh(signals.constraint_penalty))
    )
    w_fast = _clip(min(0.2, 1 - signals.router_entropy / 2), 0.0, 0.2)
    w_mid = 0.5 + 0.5 * residual
    w_slow = min(0.3, 0.3 * signals.slow_confidence)
    net = _clip(w_fast * fast + w_mid * mid + w_slow * slow)
    return Pressures(fast=fast, mid=mid, slow=slow, net=net, w_fast=w_fast, w_mid=w_mid, w_slow=w_slow)


def pause_reason(found: Pressures, *, multistep: bool = False) -> PauseReason | None:
    """Return the reason why the reference would pause after this chunk; None if it would continue.

    References: chronomoe-2024.
    """
    if found.fast < -0.7:
        return "fast_instability"
    if found.net < 0:
        return "negative_pressure"
    return "multistep_chunk_complete" if multistep else None


def next_residual(residual: float, found: Pressures, pause: PauseReason | None) -> float:
    """Return the residual intent after a chunk: it grows without a pause, halves at a pause, and is 0 if P_net < 0.

    References: chronomoe-2024.
    """
    if pause is None:
        return _clip(0.7 * residual + 0.3 * max(0.0, found.mid), 0.0, 1.0)
    return 0.0 if found.net < 0 else 0.5 * residual


@dataclass(frozen=True, slots=True)
class ReferenceClocks:
    """Constants of the reference for signals that the measured modes measure.

    References: chronomoe-2024.
    """

    proximity_meso: float
    transition_prob: float
    slow_confidence: float
    proximity_macro: float
    top_margin: float | None
    """Margin in P_mid; None reads the choice gap."""


TOY = ReferenceClocks(0.2, 0.8, 0.5, 0.1, None)
"""Constants of the reference's toy model, after its first chunk."""
EXTERNAL = ReferenceClocks(0.5, 0.5, 0.5, 0.5, 1.0)
"""Constants of the reference's adapter for external models; every model here is external."""


@dataclass(frozen=True, slots=True)
class Reachability:
    """Lowest P_mid of a mode, and half of a series' start."""

    floor: float
    """Lowest P_mid that the mode can give."""
    half: float

    @property
    def reachable(self) -> bool:
        """True if P_mid can fall to half of its start, so that a half-life can exist."""
        return self.floor <= self.half


def mid_floor(mode: Mode) -> float:
    """Return the lowest P_mid that `mode` can give: every measured signal at its worst, ΔR at −1."""
    if mode == "chronomoe-v1":
        return _reference_mid(EXTERNAL, margin=1.0, delta_coherence=-1.0)
    return 0.2 * tanh(0.5) - 0.1 * tanh(1)


def reachability(mode: Mode, initial: float) -> Reachability:
    """Return the lowest P_mid of a series of `mode`, with half of its start `initial`.

    A start that the reference's adapter for external models cannot give is from its toy model, whose floor is its P_mid
    at ΔR = 0: half could only be reached by chance, in a single chunk in which ΔR falls below −0.156.
    """
    if mode == "chronomoe-v1" and initial > _reference_mid(EXTERNAL, margin=1.0, delta_coherence=1.0):
        return Reachability(_reference_mid(TOY, margin=1.0, delta_coherence=0.0), initial / 2)
    return Reachability(mid_floor(mode), initial / 2)


def _reference_mid(clocks: ReferenceClocks, *, margin: float, delta_coherence: float) -> float:
    """Return P_mid with the reference's constants."""
    return pressures(reference_signals(clocks, 0.0, 0.0, 0.0, delta_coherence), 0.0, mid_margin=margin).mid


def reference_signals(
    clocks: ReferenceClocks, router_entropy: float, router_margin: float, coherence: float, delta_coherence: float
) -> Signals:
    """Return signals with the reference's constants in place of its clocks. `router_entropy` is in nats, as there.

    References: chronomoe-2024.
    """
    return Signals(
        router_entropy=router_entropy,
        router_margin=router_margin,
        top_margin=1.0 if clocks.top_margin is None else clocks.top_margin,
        transition_prob=clocks.transition_prob,
        proximity_meso=clocks.proximity_meso,
        proximity_macro=clocks.proximity_macro,
        slow_confidence=clocks.slow_confidence,
        coherence=coherence,
        delta_coherence=delta_coherence,
    )


def crossing(mid: Sequence[float]) -> int | None:
    """Return the position of the first P_mid at or below half of the first one; None if there is none.

    Args:
        mid: P_mid of complete chunks after the warm-up, in order.

    References: chronomoe-2024.
    """
    return next((at for at, value in enumerate(mid) if value <= mid[0] / 2), None)


def _clip(value: float, low: float = -1.0, high: float = 1.0) -> float:
    return min(high, max(low, value))
