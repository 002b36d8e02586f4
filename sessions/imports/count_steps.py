"""Counts step by step, in as many steps as a session can hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moe_watch.routing.arrays import Ints
from moe_watch.sessions.imports.traces import RouterShape

MOST_CELLS = 2_000_000
"""Steps × layers × experts: a cell takes some 40 bytes in a session."""
NOT_WHOLE = "the steps hold parts of tokens, so that only their sum is imported"


def in_steps(counts: npt.NDArray[Any], shape: RouterShape, warnings: list[str]) -> Ints | None:
    """The counts of each step `[S, L, E]`, of layers that route at all; None of a single step.

    Args:
        counts: selections `[steps, layers, experts]`, known to be whole numbers.
        shape: of the model, which has as many layers as route.
        warnings: where to say what becomes of the steps.
    """
    routing = counts.any((0, 2))
    steps = counts[counts.any((1, 2))][:, routing].astype(np.int64)
    if (steps.sum(-1) % shape.experts_per_token).any():
        warnings.append(NOT_WHOLE)
        return None
    together = -(-len(steps) * steps[0].size // MOST_CELLS)
    if together > 1:
        warnings.append(f"{len(steps):,} steps are more than a session holds: {together} at a time are put together")
        steps = np.add.reduceat(steps, np.arange(0, len(steps), together))
    return steps if len(steps) > 1 else None
