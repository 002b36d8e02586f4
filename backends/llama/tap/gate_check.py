"""Gate check: comparison of the weights that a gate gives with the weights that llama.cpp applies, during a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from moe_watch.backends.engine import Floats, RouterOutputs
from moe_watch.backends.llama.tap import router_rows
from moe_watch.backends.llama.tap.base import Tap
from moe_watch.backends.llama.tap.gate import RouterGate
from moe_watch.backends.llama.tap.router_rows import RouterRows
from moe_watch.backends.tap_rows import RowFormat

EVERY = 64
"""Number of evaluations per check: a checked one stops twice in every layer, the others once."""


class GateCheck:
    """Check of the first evaluation of a context, which is its prompt, and of every `EVERY`th one after it.

    The one token evaluated while loading does not show every property of a gate: a bound of a sum has an effect at some
    tokens only. After a difference, all weights are read from llama.cpp.

    Args:
        gate: gate of the model.
        tap: tap of its context.
    """

    def __init__(self, gate: RouterGate, tap: Tap) -> None:
        self._gate = gate
        self._tap = tap
        self._evaluations = 0
        self._is_checked = False
        self._differs = False
        self._warnings: list[str] = []

    def reset(self) -> None:
        """Restart for an empty context."""
        self._evaluations = 0
        if self._differs:
            self._warnings = [
                f"the router weights do not follow the gate {self._gate.name}: weights are read from llama.cpp"
            ]

    def take_warnings(self) -> list[str]:
        """Return and clear the warnings since the last call, one line each."""
        warnings, self._warnings = self._warnings, []
        return warnings

    def before_evaluation(self) -> None:
        """Decide whether the next evaluation is checked, and set the tap accordingly."""
        is_checked = self._differs or self._evaluations % EVERY == 0
        self._evaluations += 1
        if is_checked != self._is_checked:
            self._is_checked = is_checked
            self._tap.read_applied(self._gate.applied_at if is_checked else None)

    def routing(self, form: RowFormat, first: int, tokens: int) -> RouterOutputs:
        """Return the routing of the evaluation, with llama.cpp's own weights if the gate's weights ever differed.

        Args:
            form: format of the tap's rows.
            first: position of the evaluation's first token in the context.
            tokens: number of evaluated tokens.
        """
        if not self._is_checked:
            return self._tap.routing(form, tokens)
        seen, applied = self._take_checked()
        routing = self._tap.routing(form, tokens)
        if not self._differs:
            self._compare(seen, applied, first)
        return self._with_applied(routing, seen, applied, form) if self._differs else routing

    def _take_checked(self) -> tuple[list[RouterRows], list[Floats]]:
        """Return the tap's rows and, per row, the applied weights [T, k].

        Raises:
            RuntimeError: rows and weights do not match.
        """
        seen, read = self._tap.peek(), self._tap.take_applied()
        if not seen or self._gate.applied_at is None:
            return seen, [rows.weights for rows in seen]
        if [(rows.layer, rows.experts.size) for rows in seen] != [(layer, len(values)) for layer, values in read]:
            raise RuntimeError("the tap failed: the applied weights do not match the selected experts")
        return seen, [values.reshape(rows.experts.shape) for rows, (_, values) in zip(seen, read, strict=True)]

    def _compare(self, seen: Sequence[RouterRows], applied: Sequence[Floats], first: int) -> None:
        for rows, weights in zip(seen, applied, strict=True):
            held = self._gate.weighs(rows, weights)
            if held is None or held.all():
                continue
            self._differs = True
            self._warnings.append(
                f"near position {first + int(held.argmin())} the weights of layer {rows.layer} do not follow the gate "
                f"{self._gate.name}: from here on weights are read from llama.cpp, weights before are uncertain"
            )
            return

    def _with_applied(
        self, routing: RouterOutputs, seen: Sequence[RouterRows], applied: Sequence[Floats], form: RowFormat
    ) -> RouterOutputs:
        """Return the same routing with the applied weights."""
        rows = [replace(rows, scores=weights) for rows, weights in zip(seen, applied, strict=True)]
        weights = router_rows.routing(rows, form.layers, routing.tokens, _as_they_are).logits
        return RouterOutputs(routing.tokens, routing.experts, routing.logits, weights)


def _as_they_are(rows: Floats) -> Floats:
    return np.asarray(rows, np.float64)
