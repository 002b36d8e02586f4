"""Counts of selections by step, in a number of steps that a session can hold."""

from __future__ import annotations

import numpy as np

from moe_watch.routing.arrays import Ints
from moe_watch.sessions.imports.safe_loading import Array
from moe_watch.sessions.imports.traces import RouterShape

MOST_CELLS = 2_000_000
"""Steps × layers × experts: a cell takes some 40 bytes in a session."""
NOT_WHOLE = "steps end within tokens: only their sum is imported"


def counts_by_step(counts: Array, shape: RouterShape, warnings: list[str]) -> Ints | None:
    """Return the counts of each step `[S, L, E]`, of layers with any selection; None if there is a single step.

    Args:
        counts: selections `[steps, layers, experts]`, checked to be whole numbers.
        shape: shape of the model; its layers are the ones with any selection.
        warnings: list to which a warning about the steps is appended.
    """
    routing = counts.any((0, 2))
    steps = counts[counts.any((1, 2))][:, routing].astype(np.int64)
    if (steps.sum(-1) % shape.experts_per_token).any():
        warnings.append(NOT_WHOLE)
        return None
    together = -(-len(steps) * steps[0].size // MOST_CELLS)
    if together > 1:
        warnings.append(f"{len(steps):,} steps are more than a session holds: each {together} are summed")
        steps = np.add.reduceat(steps, np.arange(0, len(steps), together))
    return steps if len(steps) > 1 else None
