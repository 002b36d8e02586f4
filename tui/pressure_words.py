"""What is said of a pressure trajectory beside its picture, each in longer and shorter words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from routing.estimates import Estimate
from routing.events import PauseReason
from routing.external_energy import ExternalEnergy
from routing.half_life import in_words
from routing.mode_bounds import ModeBounds, mode_bounds
from routing.pressure import WARM_UP_CHUNKS, Mode, reachability
from sessions.text import plural
from tui.format import number, signed
from tui.pressure_track import PressureTrack
from tui.trends import Trend

Tone = Literal["plain", "verdict", "warning", "injection"]
NO_CONTROL = "difference without control"


@dataclass(frozen=True, slots=True)
class Note:
    """One line, in several lengths: the first one that fits is shown."""

    tone: Tone
    variants: Sequence[str]


def notes_on(track: PressureTrack, trend: Trend | None, *, tap_off: str = "", energy_problem: str = "") -> list[Note]:
    """What is missing, the verdict, what cannot happen, and what text did; the most important first.

    Args:
        track: the trajectory.
        trend: what it comes to, as far as that is known.
        tap_off: that routing is not observed, and since when.
        energy_problem: why forks tell nothing in this mode, if there are any.
    """
    found = [Note("warning", (f"{tap_off}: chunks have no pressure", tap_off))] if tap_off else []
    found += [_verdict(track, trend)] if track.chunks else []
    if trend is None or trend.fit is None or trend.fit.verdict != "unreachable":
        found += [Note("warning", (text,)) for text in _unreachable(track)]
    if track.crossing is not None:
        found.append(Note("plain", (f"half of P₀ crossed at chunk {track.crossing}, for the first time",)))
    found += _delta(track, trend)
    if trend is not None and trend.energy is not None:
        found.append(_energy(trend.energy))
    elif energy_problem:
        found.append(Note("plain", (f"external energy n/a: {energy_problem}",)))
    return found


def _verdict(track: PressureTrack, trend: Trend | None) -> Note:
    """What the trajectory comes to, or what is missing for a verdict."""
    if track.warm_up_missing:
        warm_up = f"warm-up {WARM_UP_CHUNKS - track.warm_up_missing} of {WARM_UP_CHUNKS} chunks"
        return Note("plain", (f"{warm_up}: nothing is measured yet", warm_up))
    if trend is None:
        return Note("plain", ("the first fit is being made",))
    if trend.fit is None:
        return Note("plain", (f"no verdict: {trend.problem}", trend.problem))
    verdict, lag = in_words(trend.fit), _lag(track, trend)
    reach = trend.fit.reach
    shorter = verdict.partition(" (")[0]
    if trend.fit.verdict == "unreachable" and reach is not None:
        shorter = f"unreachable: floor {number(reach.floor, 3)} > half {number(reach.half, 3)}"
    return Note("verdict", (f"{verdict}{lag}", f"{shorter}{lag}"))


def _lag(track: PressureTrack, trend: Trend) -> str:
    """How old the fit is, if it does not have the newest chunk."""
    behind = len(track.series.mid) - len(trend.series.mid)
    return f" · fit {plural(behind, 'chunk')} old" if behind > 0 else ""


def _unreachable(track: PressureTrack) -> list[str]:
    """Says so, with both numbers, if this mode cannot fall to half of where it began."""
    if track.initial is None:
        return []
    found = reachability(cast(Mode, track.mode), track.initial)
    return [] if found.reachable else [f"unreachable: floor {number(found.floor, 3)} > half {number(found.half, 3)}"]


def _delta(track: PressureTrack, trend: Trend | None) -> list[Note]:
    """The differences around the last injection, called what they are."""
    if not track.injections:
        return []
    injection, delta = track.injections[-1], track.delta
    label, before = injection.label, injection.before
    if delta is None or before is None:
        missing = "no complete chunk before it" if before is None else "after the next complete chunk"
        return [Note("injection", (f"{label}: before/after n/a, {missing}", f"{label}: n/a, {missing}"))]
    change = f"{label}: Δ P_mid {signed(delta)} before/after"
    if before.warm_up:
        return [Note("injection", (f"{change}, in the warm-up ({NO_CONTROL})", f"{change} (no control)"))]
    forecast = _forecast(track, trend)
    variants = (
        f"{change}, {forecast} ({NO_CONTROL})",
        f"{label}: Δ {signed(delta)}, {forecast} ({NO_CONTROL})",
        f"{label}: Δ {signed(delta)}, {forecast.partition(':')[0]} (no control)",
    )
    return [Note("injection", variants)]


def _forecast(track: PressureTrack, trend: Trend | None) -> str:
    """P_mid after the injection less its forecast, or why there is none."""
    after = track.after
    if trend is None or after is None or after.pressures is None or trend.series.after != after.index:
        return "forecast n/a: it is being made"
    if trend.forecast is None:
        return f"forecast n/a: {trend.forecast_problem}"
    return f"{signed(after.pressures.mid - trend.forecast)} from forecast"


def _energy(energy: ExternalEnergy) -> Note:
    """What the text did in the run's forks, text against neutral text first."""
    neutral, none = _estimate(energy.text_minus_neutral), signed(energy.text_minus_none.mean)
    low, high = energy.replicates
    each = f"{low}" if low == high else f"{low}–{high}"
    count = f"{energy.boundaries} × {each}"
    return Note(
        "injection",
        (
            f"external energy: text − neutral {neutral}, text − none {none}, {energy.boundaries} boundaries × {each}",
            f"energy: text − neutral {neutral}, − none {none} ({count})",
            f"energy: text − neutral {signed(energy.text_minus_neutral.mean)}, − none {none} ({count})",
        ),
    )


def _estimate(found: Estimate) -> str:
    if found.interval is None:
        return signed(found.mean)
    return f"{signed(found.mean)} [{', '.join(signed(end) for end in found.interval)}]"


def branches(mode: Mode, experts: int) -> list[tuple[PauseReason, str]]:
    """Every reason for which the reference pauses, and whether this mode can come to it."""
    bounds = mode_bounds(mode, experts)
    fast, net = f"P_fast is at worst {number(bounds.fast, 3)}", f"P_net is at worst {number(bounds.net, 3)}"
    return [
        ("fast_instability", _reach("fast_instability", bounds, fast)),
        ("negative_pressure", _reach("negative_pressure", bounds, net)),
        ("multistep_chunk_complete", "each chunk; no residual grows"),
    ]


def _reach(reason: PauseReason, bounds: ModeBounds, bound: str) -> str:
    return f"{'possible' if reason in bounds.pauses else 'unreachable'}: {bound}"
