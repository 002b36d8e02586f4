"""Selections of a whole run by phase, also of tokens before the file's first one."""

from __future__ import annotations

import numpy as np

from moe_watch.routing.arrays import ABSENT, Ints
from moe_watch.routing.events import Header, Keyframe, Phase
from moe_watch.routing.usage.counts import add_selections
from moe_watch.sessions.reading.token_arrays import TokenArrays

PHASES: tuple[Phase, ...] = ("prefill", "decode")


class RunCounts:
    """Counter of the selections of a run's tokens, in order."""

    def __init__(self, header: Header) -> None:
        shape = len(header.model.layers), header.model.experts
        self.counts: dict[Phase, Ints] = {phase: np.zeros(shape, np.int64) for phase in PHASES}
        """[L, E] selections by phase."""
        self.rows: dict[Phase, Ints] = {phase: np.zeros(shape[0], np.int64) for phase in PHASES}
        """[L] tokens observed by phase."""

    def add(self, tokens: TokenArrays) -> None:
        """Count tokens."""
        for phase, counts in self.counts.items():
            here = tokens.experts[np.array(tokens.phase) == phase]
            for experts in here:
                add_selections(counts, experts)
            self.rows[phase] += (here[:, :, :1] != ABSENT).any(-1).sum(0)

    def begin_with(self, frame: Keyframe) -> None:
        """Replace the counts by a keyframe's, which include tokens that are not in the file."""
        shape = self.counts[PHASES[0]].shape  # the keyframe of a dense model has empty lists, of any number of experts
        self.counts = {phase: np.array(getattr(frame, f"counts_{phase}"), np.int64).reshape(shape) for phase in PHASES}
        self.rows = {phase: np.array(getattr(frame, f"rows_{phase}"), np.int64) for phase in PHASES}
