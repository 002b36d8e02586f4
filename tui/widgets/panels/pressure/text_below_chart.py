"""Lines of text below the pressure chart: verdict, warnings, injections. Each has longer and shorter forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from moe_watch.routing.half_life.fit import Fit, in_words
from moe_watch.routing.half_life.series import since_mask
from moe_watch.routing.pressure.external_energy import ExternalEnergy
from moe_watch.routing.pressure.formulas import WARM_UP_CHUNKS, Mode, reachability
from moe_watch.routing.stats.bootstrap import Estimate
from moe_watch.sessions.text import plural
from moe_watch.tui.state.pressure.trajectory import PressureTrack
from moe_watch.tui.state.pressure.trends import Trend
from moe_watch.tui.text.format import number, signed

Tone = Literal["plain", "verdict", "warning", "injection"]
NO_CONTROL = "difference without control"
FIRST_FIT = "computing the first fit"
FORECAST_PENDING = "forecast n/a: still computing"


@dataclass(frozen=True, slots=True)
class TextLine:
    """One line of text in several lengths; the first that fits is shown."""

    tone: Tone
    variants: Sequence[str]


@dataclass(frozen=True, slots=True)
class TrajectoryStart:
    """Start of the trajectory that the verdict refers to: its name and value."""

    name: str
    value: float

    @property
    def half(self) -> float:
        """Half of the start."""
        return self.value / 2


def start_of(track: PressureTrack, trend: Trend | None) -> TrajectoryStart | None:
    """Return the start of the fitted curve, or P₀ before the current context has a fit; None if both are unknown.

    Only one of them is shown: the verdict refers to the fitted curve, and P₀ is a single chunk's value with its noise.
    """
    trend = _of_present_mask(track, trend)
    fit = trend.fit if trend is not None and trend.series.context == track.series.current.number else None
    if fit is not None and fit.start > 0:
        return TrajectoryStart("start", fit.start)
    return None if track.start.initial is None else TrajectoryStart("P₀", track.start.initial)


def _of_present_mask(track: PressureTrack, trend: Trend | None) -> Trend | None:
    """Return the trend; None if the mask has changed since it was computed."""
    context = None if trend is None else track.series.context(trend.series.context)
    is_old = trend is not None and context is not None and trend.series.since_mask != context.masked_at
    return None if is_old else trend


def text_below_chart(
    track: PressureTrack, trend: Trend | None, *, tap_off: str = "", energy_problem: str = ""
) -> list[TextLine]:
    """Return missing data, verdict, unreachable half, crossing and injections, the most important first.

    Args:
        track: trajectory.
        trend: its newest trend, if there is one.
        tap_off: message that routing is not observed, and since when.
        energy_problem: reason why the run's forks give no external energy in this mode.
    """
    trend = _of_present_mask(track, trend)
    found = [TextLine("warning", (f"{tap_off}: chunks have no pressure", tap_off))] if tap_off else []
    found += _verdicts(track, trend) if track.chunks else []
    if trend is None or trend.fit is None:
        found += [TextLine("warning", (text,)) for text in _unreachable(track)]
    if track.start.crossing is not None:
        first = f"chunk {track.start.crossing} is the first at or below half"
        found.append(TextLine("plain", (f"{first} of the first measured one", f"{first} of the first")))
    found += _delta(track, trend)
    if trend is not None and trend.energy is not None:
        found.append(_energy(trend.energy))
    elif energy_problem:
        found.append(TextLine("plain", (f"external energy n/a: {energy_problem}",)))
    return found


def _verdicts(track: PressureTrack, trend: Trend | None) -> list[TextLine]:
    """Return the verdict, or the reason why there is none; with several contexts both, each with its context."""
    current = track.series.current
    found, where = [], f"context {current.number}: " if current.number else ""
    if track.warm_up_missing:
        warm_up = f"{where}warm-up {WARM_UP_CHUNKS - track.warm_up_missing} of {WARM_UP_CHUNKS} chunks"
        found.append(TextLine("plain", (f"{warm_up}: nothing is measured yet", warm_up)))
    elif trend is not None and trend.series.context != current.number:
        found.append(_not_fitted(where, current.unavailable))
    if trend is not None and trend.fit is not None:
        return [*found, _verdict(track, trend, trend.fit)]
    if trend is None:
        return found or [TextLine("plain", (FIRST_FIT,))]
    return found or [TextLine("plain", (f"{where}no verdict: {trend.problem}", trend.problem))]


def _not_fitted(where: str, why: str) -> TextLine:
    """Return why a context after the fitted one has no verdict; an empty `why` means that its fit is pending."""
    return TextLine("plain", (f"{where}no verdict: {why}", f"{where}{why}") if why else (f"{where}{FIRST_FIT}",))


def _verdict(track: PressureTrack, trend: Trend, fit: Fit) -> TextLine:
    where = f"context {trend.series.context}: " if track.series.current.number else ""
    verdict, lag = in_words(fit), _lag(track, trend)
    shorter = verdict.partition(" (")[0]
    if fit.verdict == "unreachable" and fit.reach is not None:
        shorter = f"unreachable: floor {number(fit.reach.floor, 3)} > half {number(fit.reach.half, 3)}"
    since = "" if trend.series.since_mask is None else f" · {since_mask(trend.series.since_mask)}"
    return TextLine("verdict", (f"{where}{verdict}{since}{lag}", f"{where}{shorter}{since}{lag}"))


def _lag(track: PressureTrack, trend: Trend) -> str:
    """Return the age of a fit that lacks the newest chunk of its context; empty if it has all."""
    context = track.series.context(trend.series.context)
    behind = 0 if context is None else len(context.mid) - len(trend.series.mid)
    return f" · fit {plural(behind, 'chunk')} old" if behind > 0 else ""


def _unreachable(track: PressureTrack) -> list[str]:
    """Return a message with floor and half, if this mode cannot fall to half of P₀."""
    if track.start.initial is None:
        return []
    found = reachability(cast(Mode, track.mode), track.start.initial)
    return [] if found.reachable else [f"unreachable: floor {number(found.floor, 3)} > half {number(found.half, 3)}"]


def _delta(track: PressureTrack, trend: Trend | None) -> list[TextLine]:
    """Return the differences of P_mid around the last injection, labelled as differences without a control."""
    injection, delta = track.last_injection, track.delta
    if injection is None:
        return []
    label, before = injection.label, injection.before
    if delta is None or before is None:
        missing = "no complete chunk before it" if before is None else "after the next complete chunk"
        return [TextLine("injection", (f"{label}: before/after n/a, {missing}", f"{label}: n/a, {missing}"))]
    change = f"{label}: Δ P_mid {signed(delta)} before/after"
    if before.warm_up:
        return [TextLine("injection", (f"{change}, in the warm-up ({NO_CONTROL})", f"{change} (no control)"))]
    forecast = _forecast(track, trend)
    variants = (
        f"{change}, {forecast} ({NO_CONTROL})",
        f"{label}: Δ {signed(delta)}, {forecast} ({NO_CONTROL})",
        f"{label}: Δ {signed(delta)}, {forecast.partition(':')[0]} (no control)",
    )
    return [TextLine("injection", variants)]


def _forecast(track: PressureTrack, trend: Trend | None) -> str:
    """Return P_mid after the injection minus its forecast, or the reason why there is no forecast."""
    after = track.injections.after
    if trend is not None and trend.series.context != track.series.current.number:
        why = track.series.current.unavailable
        return f"forecast n/a: {why}" if why else FORECAST_PENDING
    if trend is None or after is None or after.pressures is None or trend.series.after != after.index:
        return FORECAST_PENDING
    if trend.forecast is None:
        return f"forecast n/a: {trend.forecast_problem}"
    return f"{signed(after.pressures.mid - trend.forecast)} from forecast"


def _energy(energy: ExternalEnergy) -> TextLine:
    """Return the external energy of the run's forks, text against neutral text first."""
    neutral, none = _estimate(energy.text_minus_neutral), signed(energy.text_minus_none.mean)
    low, high = energy.replicates
    each = f"{low}" if low == high else f"{low}–{high}"
    count = f"{energy.boundaries} × {each}"
    return TextLine(
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
