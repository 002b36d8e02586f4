"""What is said of a pressure trajectory beside its picture, each in longer and shorter words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from moe_watch.routing.events import PauseReason
from moe_watch.routing.half_life.fit import Fit, in_words
from moe_watch.routing.pressure.bounds import ModeBounds, mode_bounds
from moe_watch.routing.pressure.external_energy import ExternalEnergy
from moe_watch.routing.pressure.formulas import WARM_UP_CHUNKS, Mode, reachability
from moe_watch.routing.stats.bootstrap import Estimate
from moe_watch.sessions.text import plural
from moe_watch.tui.state.trajectory import PressureTrack
from moe_watch.tui.state.trends import Trend
from moe_watch.tui.text.format import number, signed

Tone = Literal["plain", "verdict", "warning", "injection"]
NO_CONTROL = "difference without control"
FIRST_FIT = "the first fit is being made"


@dataclass(frozen=True, slots=True)
class Note:
    """One line, in several lengths: the first one that fits is shown."""

    tone: Tone
    variants: Sequence[str]


@dataclass(frozen=True, slots=True)
class TrajectoryStart:
    """Return where the trajectory begins, as the verdict takes it."""

    name: str
    value: float

    @property
    def half(self) -> float:
        """Half of it."""
        return self.value / 2


def start_of(track: PressureTrack, trend: Trend | None) -> TrajectoryStart | None:
    """Return the fitted start, or P₀ as long as nothing is fitted to the present context; None where neither is known.

    One of them: the verdict is about half of the fitted curve, and P₀ is one chunk's value with its noise.
    """
    fit = trend.fit if trend is not None and trend.series.context == track.series.current.number else None
    if fit is not None and fit.start > 0:
        return TrajectoryStart("start", fit.start)
    return None if track.initial is None else TrajectoryStart("P₀", track.initial)


def notes_on(track: PressureTrack, trend: Trend | None, *, tap_off: str = "", energy_problem: str = "") -> list[Note]:
    """What is missing, the verdict, what cannot happen, and what text did; the most important first.

    Args:
        track: the trajectory.
        trend: what it comes to, as far as that is known.
        tap_off: that routing is not observed, and since when.
        energy_problem: why forks tell nothing in this mode, if there are any.
    """
    found = [Note("warning", (f"{tap_off}: chunks have no pressure", tap_off))] if tap_off else []
    found += _verdicts(track, trend) if track.chunks else []
    if trend is None or trend.fit is None:
        found += [Note("warning", (text,)) for text in _unreachable(track)]
    if track.crossing is not None:
        first = f"chunk {track.crossing} is the first at or below half"
        found.append(Note("plain", (f"{first} of the first measured one", f"{first} of the first")))
    found += _delta(track, trend)
    if trend is not None and trend.energy is not None:
        found.append(_energy(trend.energy))
    elif energy_problem:
        found.append(Note("plain", (f"external energy n/a: {energy_problem}",)))
    return found


def _verdicts(track: PressureTrack, trend: Trend | None) -> list[Note]:
    """Return the verdict, or what is missing for one; with several contexts both, each with its context."""
    current = track.series.current
    found, where = [], f"context {current.number}: " if current.number else ""
    if track.warm_up_missing:
        warm_up = f"{where}warm-up {WARM_UP_CHUNKS - track.warm_up_missing} of {WARM_UP_CHUNKS} chunks"
        found.append(Note("plain", (f"{warm_up}: nothing is measured yet", warm_up)))
    elif trend is not None and trend.series.context != current.number:
        found.append(_not_fitted(where, current.unavailable))
    if trend is not None and trend.fit is not None:
        return [*found, _verdict(track, trend, trend.fit)]
    if trend is None:
        return found or [Note("plain", (FIRST_FIT,))]
    return found or [Note("plain", (f"{where}no verdict: {trend.problem}", trend.problem))]


def _not_fitted(where: str, why: str) -> Note:
    """Return why a context that follows the fitted one has no verdict; it is long enough where `why` is empty."""
    return Note("plain", (f"{where}no verdict: {why}", f"{where}{why}") if why else (f"{where}{FIRST_FIT}",))


def _verdict(track: PressureTrack, trend: Trend, fit: Fit) -> Note:
    where = f"context {trend.series.context}: " if track.series.current.number else ""
    verdict, lag = in_words(fit), _lag(track, trend)
    shorter = verdict.partition(" (")[0]
    if fit.verdict == "unreachable" and fit.reach is not None:
        shorter = f"unreachable: floor {number(fit.reach.floor, 3)} > half {number(fit.reach.half, 3)}"
    return Note("verdict", (f"{where}{verdict}{lag}", f"{where}{shorter}{lag}"))


def _lag(track: PressureTrack, trend: Trend) -> str:
    """Return how old the fit is, if it does not have the newest chunk of its context."""
    context = track.series.context(trend.series.context)
    behind = 0 if context is None else len(context.mid) - len(trend.series.mid)
    return f" · fit {plural(behind, 'chunk')} old" if behind > 0 else ""


def _unreachable(track: PressureTrack) -> list[str]:
    """Says so, with both numbers, if this mode cannot fall to half of where it began."""
    if track.initial is None:
        return []
    found = reachability(cast(Mode, track.mode), track.initial)
    return [] if found.reachable else [f"unreachable: floor {number(found.floor, 3)} > half {number(found.half, 3)}"]


def _delta(track: PressureTrack, trend: Trend | None) -> list[Note]:
    """The differences around the last injection, called what they are."""
    injection, delta = track.last_injection, track.delta
    if injection is None:
        return []
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
    if trend is not None and trend.series.context != track.series.current.number:
        return f"forecast n/a: {track.series.current.unavailable or 'it is being made'}"
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


def branches(mode: Mode, experts: int) -> list[tuple[str, str]]:
    """Return every reason for which the reference pauses, and whether this mode can come to it."""
    bounds = mode_bounds(mode, experts)
    return [
        ("unstable", _reach("fast_instability", bounds, "fast", bounds.fast, -0.7)),
        ("negative", _reach("negative_pressure", bounds, "net", bounds.net, 0.0)),
        ("step by step", "after each chunk; no residual intent grows"),
    ]


def _reach(reason: PauseReason, bounds: ModeBounds, name: str, lowest: float, below: float) -> str:
    """Name the pressure that the pause depends on, and the lowest value that it can have."""
    possible, takes = reason in bounds.pauses, f"{number(lowest, 3)}, needs {number(below, 1)}"
    return f"possible: {name} can be {takes}" if possible else f"never: {name} is at least {takes}"
