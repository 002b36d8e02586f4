"""Expert usage of a recording imported from counts: selections per layer and expert, and no tokens."""

from __future__ import annotations

import numpy as np

from moe_watch.routing.arrays import Floats, Ints
from moe_watch.routing.events import Keyframe
from moe_watch.routing.router.observe import effective_experts
from moe_watch.routing.usage.counts import dead, usage_entropy
from moe_watch.sessions.text import plural
from moe_watch.tui.state.tokens.token_window import TokenWindow, mean_of_known


class CountedWindow(TokenWindow):
    """Expert usage over all counted tokens. Router entropy and churn are NaN, since they need single tokens.

    Args:
        counts: selections `[L, E]`.
        rows: number of tokens observed per layer `[L]`.
        steps: number of states of the recording shown so far, including this one.
    """

    def __init__(self, counts: Ints, rows: Ints, steps: int) -> None:
        layers, experts = counts.shape
        super().__init__(layers, experts, size=0)
        self.usage.merge(counts, rows, int(rows.max(initial=0)))
        self.steps = steps

    @property
    def text(self) -> str:
        """Contents of the window in words."""
        return f"imported, {plural(int(self.usage.counts.sum()), 'selection')}"

    def usage_entropy(self) -> Floats:
        """Return the usage entropy over ln E per layer `[L]`; NaN without selections."""
        return usage_entropy(self.usage.counts)

    def mean_usage_entropy(self) -> float:
        """Return the mean of `usage_entropy` over layers."""
        return float(mean_of_known(self.usage_entropy(), 0))

    def effective_by_usage(self) -> float:
        """Return the effective number of experts by usage entropy, mean over layers."""
        return float(mean_of_known(effective_experts(self.usage_entropy(), self.experts), 0))

    def dead(self) -> int:
        """Return the number of dead experts in all layers."""
        return int(dead(self.usage.counts).sum())


def counted_windows(keyframe: Keyframe, experts: int, before: TokenWindow | None) -> dict[str, TokenWindow]:
    """Return the windows of a recording of counts at a keyframe, by phase.

    Args:
        keyframe: counts by phase; it may have no layers.
        experts: E.
        before: the window of the keyframe before it.
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
