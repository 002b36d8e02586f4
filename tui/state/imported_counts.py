"""What the panels show of a recording that another program counted: selections per layer and expert, and no tokens."""

from __future__ import annotations

import numpy as np

from moe_watch.routing.arrays import Floats, Ints
from moe_watch.routing.events import Keyframe
from moe_watch.routing.router.observe import effective_experts
from moe_watch.routing.usage.counts import dead, usage_entropy
from moe_watch.sessions.text import plural
from moe_watch.tui.state.token_window import TokenWindow, mean_of_known


class CountedWindow(TokenWindow):
    """Usage over everything that was counted. Of single tokens it knows nothing: entropy and churn are NaN.

    Args:
        counts: selections `[L, E]`.
        rows: tokens that each layer was observed for `[L]`.
        steps: how many states of the recording were shown one after the other, this one included.
    """

    def __init__(self, counts: Ints, rows: Ints, steps: int) -> None:
        layers, experts = counts.shape
        super().__init__(layers, experts, size=0)
        self.usage.merge(counts, rows, int(rows.max(initial=0)))
        self.steps = steps

    @property
    def text(self) -> str:
        """What is in the window, in words."""
        return f"imported, {plural(int(self.usage.counts.sum()), 'selection')}"

    def usage_entropy(self) -> Floats:
        """Entropy of usage over ln E, per layer `[L]`; NaN without selections."""
        return usage_entropy(self.usage.counts)

    def mean_usage_entropy(self) -> float:
        """`usage_entropy`, mean over layers."""
        return float(mean_of_known(self.usage_entropy(), 0))

    def effective_by_usage(self) -> float:
        """How many evenly used experts would be as uneven, mean over layers."""
        return float(mean_of_known(effective_experts(self.usage_entropy(), self.experts), 0))

    def dead(self) -> int:
        """Experts of all layers that were never selected."""
        return int(dead(self.usage.counts).sum())


def counted_windows(keyframe: Keyframe, experts: int, before: TokenWindow | None) -> dict[str, TokenWindow]:
    """The windows of a recording of counts in this state, by phase.

    Args:
        keyframe: the state; it may be one of no layers.
        experts: E.
        before: the window of the state before it.
    """
    steps = 1 + (before.steps if isinstance(before, CountedWindow) else 0)
    counted = {
        "prefill": (keyframe.counts_prefill, keyframe.rows_prefill),
        "decode": (keyframe.counts_decode, keyframe.rows_decode),
    }
    return {
        phase: CountedWindow(np.array(counts, np.int64).reshape(len(rows), experts), np.array(rows, np.int64), steps)
        for phase, (counts, rows) in counted.items()
    }
