"""Checks of the terminal, as `moe-watch check` and its screen show them."""

from __future__ import annotations

from moe_watch.sessions.checking.results import CheckResult, failure, fine, warning
from moe_watch.tui.terminal.abilities import (
    DRAWN,
    FULL_HEIGHT,
    FULL_WIDTH,
    LEAST_HEIGHT,
    LEAST_WIDTH,
    TerminalAbilities,
)

TERMINAL, COLOURS, CHARACTERS = "terminal", "colours", "characters"
UTF_8 = "set a UTF-8 locale, for example LC_ALL=C.UTF-8"


def terminal_checks(abilities: TerminalAbilities) -> list[CheckResult]:
    """Return the checks of a terminal: its size, its colours, and its characters."""
    if not abilities.is_terminal:
        advice = "run it in a terminal for the dashboard; `moe-watch record` needs none"
        return [warning(TERMINAL, "standard input or output is not a terminal that can draw", advice)]
    return [_size(abilities), _colours(abilities), _characters(abilities)]


def _size(found: TerminalAbilities) -> CheckResult:
    value = f"{found.columns}×{found.rows}"
    if found.columns < LEAST_WIDTH or found.rows < LEAST_HEIGHT:
        return failure(TERMINAL, value, f"make it larger: the dashboard needs {LEAST_WIDTH}×{LEAST_HEIGHT}")
    if found.columns < FULL_WIDTH or found.rows < FULL_HEIGHT:
        return warning(TERMINAL, value, f"make it {FULL_WIDTH}×{FULL_HEIGHT} or larger to see all parts")
    return fine(TERMINAL, value)


def _colours(found: TerminalAbilities) -> CheckResult:
    match found.colours:
        case "truecolor":
            return fine(COLOURS, "truecolor")
        case "256":
            return fine(COLOURS, "256: shades of the heatmap are rounded; COLORTERM=truecolor, if the terminal has it")
        case "16":
            return warning(COLOURS, "16", "set TERM=xterm-256color or COLORTERM=truecolor, if the terminal has them")
        case "none":
            return warning(COLOURS, f"none: {found.without_colours}", "words and symbols say the same, less quickly")


def _characters(found: TerminalAbilities) -> CheckResult:
    if not found.encodes_panels:
        value = f"the encoding {found.encoding or 'of the output'} lacks the characters of the panels"
        return failure(CHARACTERS, value, UTF_8)
    if found.widths is None:
        return fine(CHARACTERS, f"{found.encoding}; widths not measured, the terminal did not report its cursor")
    if wrong := found.wrong_widths:
        listed = ", ".join(f"{kind}: {found.widths[kind]} cells for {len(DRAWN[kind])}" for kind in wrong)
        return warning(CHARACTERS, listed, "turn off wide ambiguous characters in the terminal, or choose another font")
    return fine(CHARACTERS, f"{found.encoding}; {', '.join(found.widths)} are one cell wide each")
