"""Text of a half-life fit: the same on the screen, in `fit`, in summaries and in reports."""

from __future__ import annotations

from math import isinf
from typing import TYPE_CHECKING

from moe_watch.routing.half_life.sequential_looks import LIMIT
from moe_watch.routing.half_life.trend_detection import MIN_CHANGE
from moe_watch.routing.pressure.formulas import mode_words

if TYPE_CHECKING:
    from moe_watch.routing.half_life.fit import Candidate, Fit, FloorAboveHalf


def in_words(fit: Fit) -> str:
    """Return one line: the verdict with its half-life, or the reason why there is no half-life."""
    if fit.verdict == "unreachable" and fit.reach:
        rule = mode_words(fit.mode or "this mode")
        return f"unreachable: {rule} cannot fall below {fit.reach.floor:.3f}, half is {fit.reach.half:.3f}"
    if fit.verdict == "stable":
        return f"stable: {_no_trend(fit)}"
    if fit.verdict == "rising":
        return f"rising: {fit.chosen.shape}, from {fit.start:.3f} to {fit.end:.3f} (p = {as_watched(fit)})"
    return f"{fit.verdict}, {_half_life(fit)}"


def as_watched(fit: Fit) -> str:
    """Return the sequential p with its number of looks."""
    return f"{fit.p_sequential:.2g} over {fit.looks} look{'s' * (fit.looks != 1)}"


def by_weight(fit: Fit) -> list[Candidate]:
    """Return the candidates, the highest Akaike weight first."""
    return sorted(fit.candidates, key=lambda each: -each.weight)


def doubt(fit: Fit) -> str:
    """Return why the candidate with the highest weight was not chosen; empty if it was."""
    best = by_weight(fit)[0]
    if best is fit.chosen:
        return ""
    if fit.chosen.shape != "constant":
        return (
            f"a trend was found at an earlier look, and no later look has withdrawn it: {best.shape} is not chosen yet"
        )
    if fit.p_sequential > LIMIT:
        return f"{best.shape} rejected: noise alone gives such curves (p = {as_watched(fit)}; limit {LIMIT:g})"
    return f"{best.shape} rejected: it changes by less than {100 * MIN_CHANGE:.0f} % of its start"


def _no_trend(fit: Fit) -> str:
    if fit.p_sequential > LIMIT:
        return f"no trend beyond noise (p = {as_watched(fit)}; limit {LIMIT:g})"
    return f"its trend changes by less than {100 * MIN_CHANGE:.0f} % of its start"


def _half_life(fit: Fit) -> str:
    if fit.start <= 0:
        return f"no half-life: its start is {fit.start:.3f}, and a half-life needs a start above 0"
    if fit.half_life is not None:
        return f"half-life {fit.half_life:.1f} chunks{_range(fit)}"
    if fit.censored:
        return f"half-life > {fit.span:.0f} chunks: not reached in what was observed"
    if fit.never:
        return _levels_off(fit, fit.never)
    return "no half-life"


def _levels_off(fit: Fit, never: FloorAboveHalf) -> str:
    """Return both levels; by the interval, half may still be reached later."""
    levels = f"levels off at {never.floor:.3f}, above half of its start ({never.half:.3f})"
    if fit.interval is None:
        return f"never half: {levels}"
    return f"{levels}; half after {fit.interval[0]:.1f} chunks or more, if ever (95 %)"


def _range(fit: Fit) -> str:
    if fit.interval is None:
        return ""
    low, high = fit.interval
    return f" (95 %: {low:.1f} or more)" if isinf(high) else f" (95 %: {low:.1f}–{high:.1f})"
