"""Table of the four candidate shapes of a fit, and of the bounds of the pressure mode."""

from __future__ import annotations

from math import isinf

from textual.strip import Strip

from moe_watch.routing.half_life.fit import Candidate, Fit
from moe_watch.routing.half_life.wording import as_watched, by_weight, doubt
from moe_watch.routing.pressure.bounds import mode_bounds
from moe_watch.routing.pressure.formulas import Mode, mode_words
from moe_watch.sessions.text import plural
from moe_watch.tui.drawing.colours import Palette
from moe_watch.tui.drawing.line import CellLine, Part
from moe_watch.tui.text.format import NOT_AVAILABLE, number, percent, signed
from moe_watch.tui.widgets.panels.pressure.pause_reasons import pause_reasons

NAME_WIDTH = 13
BAR_WIDTH = 12
BAR_LEAST = 84
"""Least width of a panel with bars, in cells."""


def candidate_table(ink: Palette, fit: Fit | None, problem: str, mode: Mode, experts: int, width: int) -> list[Strip]:
    """Return the rows of the table, the most important first."""

    def row(*parts: Part) -> Strip:
        line = CellLine(width, ink.ground)
        for text, style in parts:
            line.words(text, style)
        return line.strip()

    if fit is None:
        why = [(f"no fit: {problem}", ink.muted)], [(problem, ink.muted)]
        rows = [CellLine(width, ink.ground).first_that_fits(*why).strip()]
    else:
        rows = _candidates(ink, fit, width)
        if reason := doubt(fit):
            rows.append(_doubt(ink, reason, width))
        rows.append(row(("noise         ", ink.muted), (_noise(fit), ink.text)))
        rows.append(row(("as reference  ", ink.muted), (_reference(fit), ink.text)))
    low, high = mode_bounds(mode, experts).mid
    rows += [
        row(),
        row((f"{mode_words(mode)}: mid can be {number(low, 3)} to {number(high, 3)}; it pauses if", ink.muted)),
    ]
    return rows + [row((f"{reason}  ", ink.text), (words, ink.muted)) for reason, words in pause_reasons(mode, experts)]


def _doubt(ink: Palette, reason: str, width: int) -> Strip:
    """Return the longest form of a doubt that fits."""
    shorter = reason.partition(" (")[0], reason.partition(": ")[0]
    return (
        CellLine(width, ink.ground).first_that_fits(*([(text, ink.status.warn)] for text in (reason, *shorter))).strip()
    )


def _candidates(ink: Palette, fit: Fit, width: int) -> list[Strip]:
    head = CellLine(width, ink.ground).put(f"{'curve':<{NAME_WIDTH}} weight", ink.muted)
    bars = width >= BAR_LEAST
    head.to(head.used + (BAR_WIDTH + 1 if bars else 0)).put("     AICc  fitted", ink.muted)
    found = [_candidate(ink, each, width, bars=bars, chosen=each is fit.chosen) for each in by_weight(fit)]
    return [head.strip(), *found]


def _candidate(ink: Palette, candidate: Candidate, width: int, *, bars: bool, chosen: bool) -> Strip:
    """Return the row of a candidate with its weight; the fitted curve has a dot."""
    row = CellLine(width, ink.ground)
    row.put("● " if chosen else "  ", ink.accent)
    row.put(f"{candidate.shape:<{NAME_WIDTH - 2}} ", ink.strong if chosen else ink.text)
    row.put(f"{percent(candidate.weight, 0):>6}", ink.strong if chosen else ink.text)
    if bars:
        filled = round(candidate.weight * BAR_WIDTH)
        row.put(" ").put("━" * filled, ink.chart.fill).put("━" * (BAR_WIDTH - filled), ink.chart.track)
    aicc = NOT_AVAILABLE if isinf(candidate.aicc) else number(candidate.aicc, 1)
    row.put(f" {aicc:>8}  ", ink.muted)
    return row.words(_fitted(candidate), ink.text if chosen else ink.muted).strip()


def _fitted(candidate: Candidate) -> str:
    """Return the parameters of a curve in words."""
    found = candidate.parameters
    match candidate.shape:
        case "constant":
            return f"level {number(found['level'], 3)}"
        case "linear":
            return f"{number(found['start'], 3)}, {signed(found['slope'], 5)} per chunk"
        case "exponential":
            ends = f"{number(found['start'], 3)} → {number(found['floor'], 3)}"
            return f"{ends}, halfway in {number(found['halving'], 1)} chunks"
        case "cliff":
            ends = f"{number(found['start'], 3)} → {number(found['after'], 3)}"
            return f"{ends} at chunk {candidate.first + found['at']:.0f}"


def _noise(fit: Fit) -> str:
    return f"p {fit.p:.2g} one look, {as_watched(fit)}; φ {number(fit.phi)}; {plural(fit.chunks, 'chunk')}"


def _reference(fit: Fit) -> str:
    """Return the reference implementation's statistics of the same chunks."""
    found = fit.reference
    tau = NOT_AVAILABLE if found.exponential_tau is None else number(found.exponential_tau, 1)
    return f"slope {signed(found.linear_slope, 5)}, τ {tau}, largest drop {signed(found.max_single_drop)}"
