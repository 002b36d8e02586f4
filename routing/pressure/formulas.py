"""Pressure: how hard the context pushes the model on, from routing and output signals.

After ChronoMoE (Halcyon); formulas, bounds and modes: docs/measurements.md, "Pressure". All modes compute the
same formulas from different signals. `measured-v2` measures every signal and begins again with every context.
`measured-v1`, of older recordings, measures the same and carries its averages over into a fresh context.
`chronomoe-v1` is the reference with the constants it used in place of its clocks, so that published numbers can be
compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import tanh
from typing import Literal

from moe_watch.routing.events import PauseReason, Pressures, Signals

Mode = Literal["measured-v2", "measured-v1", "chronomoe-v1"]
MODES: tuple[Mode, ...] = ("measured-v2", "measured-v1", "chronomoe-v1")
"""The first one is what new recordings are in."""
MODES_OFFERED = f"{', '.join(MODES[:-1])} or {MODES[-1]}"
CONTEXT_MODES: frozenset[str] = frozenset({"measured-v2"})
"""Modes that begin again with every context: averages, warm-up, phases, coherence and residual."""

MODE_WORDS: dict[Mode, str] = {
    "measured-v2": "measured",
    "measured-v1": "measured (version 1)",
    "chronomoe-v1": "ChronoMoE's rule",
}
"""What the pressure modes are called in text that is read, not typed."""

WARM_UP_CHUNKS = 10
"""Complete chunks that feed the averages first: shown, never P₀, never fitted."""


def mode_words(mode: str) -> str:
    """Return the name of a pressure mode in words; one that is not known here as it stands."""
    return next((words for known, words in MODE_WORDS.items() if known == mode), mode)


def pressures(signals: Signals, residual: float, *, mid_margin: float | None = None) -> Pressures:
    """All pressures of one chunk.

    Args:
        signals: what was measured in the chunk.
        residual: the residual intent carried over from the chunk before, 0..1.
        mid_margin: P_mid's margin where it is not `signals.top_margin` (the reference's choice gap).
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
    """Why the reference would pause after this chunk, or None to go on."""
    if found.fast < -0.7:
        return "fast_instability"
    if found.net < 0:
        return "negative_pressure"
    return "multistep_chunk_complete" if multistep else None


def next_residual(residual: float, found: Pressures, pause: PauseReason | None) -> float:
    """The residual intent after a chunk: built up while going on, halved by a pause, gone on negative pressure."""
    if pause is None:
        return _clip(0.7 * residual + 0.3 * max(0.0, found.mid), 0.0, 1.0)
    return 0.0 if found.net < 0 else 0.5 * residual


@dataclass(frozen=True, slots=True)
class ReferenceClocks:
    """The constants that the reference has where the measured modes measure."""

    proximity_meso: float
    transition_prob: float
    slow_confidence: float
    proximity_macro: float
    top_margin: float | None
    """P_mid's margin; None reads the choice gap."""


TOY = ReferenceClocks(0.2, 0.8, 0.5, 0.1, None)
"""The reference's toy model, after its first chunk."""
EXTERNAL = ReferenceClocks(0.5, 0.5, 0.5, 0.5, 1.0)
"""The reference's adapter for an external model; every model watched here is one."""


@dataclass(frozen=True, slots=True)
class Reachability:
    """Whether P_mid can fall to half of where it began, in this mode."""

    floor: float
    """The lowest P_mid the mode can give."""
    half: float

    @property
    def reachable(self) -> bool:
        """A half-life can exist at all."""
        return self.floor <= self.half


def mid_floor(mode: Mode) -> float:
    """The lowest P_mid that `mode` can give: every measured signal at its worst, ΔR at −1."""
    if mode == "chronomoe-v1":
        return _reference_mid(EXTERNAL, margin=1.0, delta_coherence=-1.0)
    return 0.2 * tanh(0.5) - 0.1 * tanh(1)


def reachability(mode: Mode, initial: float) -> Reachability:
    """Compare the lowest P_mid that a series of `mode` can fall to with half of `initial`, where it starts.

    A start that the reference's adapter for external models cannot give is from its toy model, whose floor is that at
    ΔR = 0: half could only be reached by chance, in a single chunk in which ΔR falls below −0.156.
    """
    if mode == "chronomoe-v1" and initial > _reference_mid(EXTERNAL, margin=1.0, delta_coherence=1.0):
        return Reachability(_reference_mid(TOY, margin=1.0, delta_coherence=0.0), initial / 2)
    return Reachability(mid_floor(mode), initial / 2)


def _reference_mid(clocks: ReferenceClocks, *, margin: float, delta_coherence: float) -> float:
    """P_mid with the reference's constants."""
    return pressures(reference_signals(clocks, 0.0, 0.0, 0.0, delta_coherence), 0.0, mid_margin=margin).mid


def reference_signals(
    clocks: ReferenceClocks, router_entropy: float, router_margin: float, coherence: float, delta_coherence: float
) -> Signals:
    """Signals in which the reference's constants stand for its clocks. `router_entropy` in nats, as it has it."""
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
    """Position of the first P_mid at or below half of the first one; None if it never gets there.

    Args:
        mid: P_mid of complete chunks after the warm-up, in order.
    """
    return next((at for at, value in enumerate(mid) if value <= mid[0] / 2), None)


def _clip(value: float, low: float = -1.0, high: float = 1.0) -> float:
    return min(high, max(low, value))
