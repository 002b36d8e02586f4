"""Comparing the weights that a gate gives with those that llama.cpp applies, on tokens of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from moe_watch.backends.engine import Floats, RouterOutputs
from moe_watch.backends.llama.tap import callback
from moe_watch.backends.llama.tap.callback import RouterRows, Tap
from moe_watch.backends.llama.tap.gate import RouterGate
from moe_watch.backends.tap_rows import RowFormat

EVERY = 64
"""Evaluations, of which one is checked: it stops twice in every layer, the others once."""


class GateCheck:
    """Checks the first evaluation of a context, which is its prompt, and every `EVERY`th one after it.

    One token while loading does not show everything that a gate does: a bound of a sum matters at some tokens only.
    After a difference all weights are read from llama.cpp.

    Args:
        gate: of the model.
        tap: of its context.
    """

    def __init__(self, gate: RouterGate, tap: Tap) -> None:
        self._gate = gate
        self._tap = tap
        self._evaluations = 0
        self._is_checked = False
        self._differs = False
        self._warnings: list[str] = []

    def reset(self) -> None:
        """Begin with an empty context."""
        self._evaluations = 0
        if self._differs:
            self._warnings = [
                f"its routers do not weight the experts by {self._gate.name}: weights are llama.cpp's own"
            ]

    def take_warnings(self) -> list[str]:
        """Return what was found since the last call, a line each."""
        warnings, self._warnings = self._warnings, []
        return warnings

    def before_evaluation(self) -> None:
        """Decide whether the next evaluation is checked, and have the tap read what that needs."""
        is_checked = self._differs or self._evaluations % EVERY == 0
        self._evaluations += 1
        if is_checked != self._is_checked:
            self._is_checked = is_checked
            self._tap.read_applied(self._gate.applied_at if is_checked else None)

    def routing(self, form: RowFormat, first: int, tokens: int) -> RouterOutputs:
        """Return the routing of the evaluation, with llama.cpp's own weights if the gate's were ever others.

        Args:
            form: of the tap's rows.
            first: position of its first token in the context.
            tokens: how many it had.
        """
        if not self._is_checked:
            return self._tap.routing(form, tokens)
        seen, applied = self._take_checked()
        routing = self._tap.routing(form, tokens)
        if not self._differs:
            self._compare(seen, applied, first)
        return self._with_applied(routing, seen, applied, form) if self._differs else routing

    def _take_checked(self) -> tuple[list[RouterRows], list[Floats]]:
        """Return what the tap saw, and beside it the weights [T, k] that were applied.

        Raises:
            RuntimeError: the two do not belong together.
        """
        seen, read = self._tap.peek(), self._tap.take_applied()
        if not seen or self._gate.applied_at is None:
            return seen, [rows.weights for rows in seen]
        if [(rows.layer, rows.experts.size) for rows in seen] != [(layer, len(values)) for layer, values in read]:
            raise RuntimeError("the tap failed: the weights that were applied are not those of the selected experts")
        return seen, [values.reshape(rows.experts.shape) for rows, (_, values) in zip(seen, read, strict=True)]

    def _compare(self, seen: Sequence[RouterRows], applied: Sequence[Floats], first: int) -> None:
        for rows, weights in zip(seen, applied, strict=True):
            held = self._gate.weighs(rows, weights)
            if held is None or held.all():
                continue
            self._differs = True
            self._warnings.append(
                f"near position {first + int(held.argmin())} the router of layer {rows.layer} does not weight the "
                f"experts by {self._gate.name}: from here on weights are llama.cpp's own, those before are uncertain"
            )
            return

    def _with_applied(
        self, routing: RouterOutputs, seen: Sequence[RouterRows], applied: Sequence[Floats], form: RowFormat
    ) -> RouterOutputs:
        """The same routing with the weights that were applied."""
        rows = [replace(rows, scores=weights) for rows, weights in zip(seen, applied, strict=True)]
        weights = callback.routing(rows, form.layers, routing.tokens, _as_they_are).logits
        return RouterOutputs(routing.tokens, routing.experts, routing.logits, weights)


def _as_they_are(rows: Floats) -> Floats:
    return np.asarray(rows, np.float64)
