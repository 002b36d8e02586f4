"""Reasons for which the reference implementation pauses, and their reach in a pressure mode."""

from __future__ import annotations

from moe_watch.routing.events import PauseReason
from moe_watch.routing.pressure.bounds import ModeBounds, mode_bounds
from moe_watch.routing.pressure.formulas import Mode
from moe_watch.tui.text.format import number


def pause_reasons(mode: Mode, experts: int) -> list[tuple[str, str]]:
    """Return each reason for which the reference implementation pauses, and whether this mode can reach it."""
    bounds = mode_bounds(mode, experts)
    return [
        ("unstable", _reach("fast_instability", bounds, "fast", bounds.fast, -0.7)),
        ("negative", _reach("negative_pressure", bounds, "net", bounds.net, 0.0)),
        ("step by step", "after each chunk; no residual intent grows"),
    ]


def _reach(reason: PauseReason, bounds: ModeBounds, name: str, lowest: float, below: float) -> str:
    """Return the pressure that the pause depends on, its lowest possible value, and the value it needs."""
    possible, needs = reason in bounds.pauses, f"{number(lowest, 3)}, needs {number(below, 1)}"
    return f"possible: {name} can be {needs}" if possible else f"never: {name} is at least {needs}"
