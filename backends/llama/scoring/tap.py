"""Tap of a scorer: router rows, applied weights and norms of the experts' outputs, for many tokens at once.

It is in Python: its time per node does not matter beside the evaluation of hundreds of tokens.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from moe_watch.backends.engine import Floats, RouterOutputs
from moe_watch.backends.llama.bindings import GgmlTensor, operation
from moe_watch.backends.llama.scoring.norms import WEIGHTED, row_norms
from moe_watch.backends.llama.tap.base import READ_AT, STOP_AT
from moe_watch.backends.llama.tap.python_tap import PythonTap
from moe_watch.backends.llama.tap.router_rows import RouterRows
from moe_watch.backends.tap_rows import RowFormat, ScoredRouting


@dataclass(frozen=True, slots=True)
class ScoringNodes:
    """Nodes that a scorer reads beside the routers, by their names without the layer."""

    reads_weights: bool
    """The gate is known, and gives the weights that multiply the experts' outputs."""
    applied: str | None
    """Node of these weights; None if they are the selected scores."""
    outputs: Sequence[str]
    """Nodes of the experts' weighted outputs; the last one in the graph counts. Empty without saliency."""


class ScoringTap(PythonTap):
    """Tap that also reads the applied weights and the norms of the experts' weighted outputs.

    With the tap off it stops in layers with masked experts only: there it checks that none of them is selected.

    Args:
        apart: compute the scores apart from the selection, as GPUs need it.
        masked_at: names of the nodes where experts are switched off, without their layer.
        nodes: nodes to read beside the routers.
    """

    def __init__(self, *, apart: bool, masked_at: Sequence[str], nodes: ScoringNodes) -> None:
        super().__init__(apart=apart, masked_at=masked_at, further=nodes.outputs)
        self._nodes = nodes
        self._everywhere, self._routers = self._named, (READ_AT, *([STOP_AT] if apart else []))
        self._norms: dict[int, dict[str, list[Floats]]] = defaultdict(lambda: defaultdict(list))
        """Norms [T, k] of successive passes, by model layer index and node."""
        self.observe(True)

    def observe(self, on: bool) -> None:
        self._reads_all = on
        self._set_stops()

    def mask(self, columns: Mapping[int, Sequence[int]]) -> None:
        super().mask(columns)
        self._set_stops()

    def _set_stops(self) -> None:
        """Set the nodes to stop at, beside the ones where experts are switched off."""
        layers = "|".join(map(str, self._masked))
        masked = re.compile(rf"({'|'.join(self._routers)})-({layers})".encode())
        self._named = self._everywhere if self._reads_all else masked
        self._enabled = self._reads_all or bool(layers)
        self.read_applied(self._nodes.applied if self._reads_all and self._nodes.reads_weights else None)

    def _read(self, name: str, layer: int, node: GgmlTensor) -> None:
        if name not in self._nodes.outputs:
            super()._read(name, layer, node)
            return
        if name == WEIGHTED and operation(node.src[0]) == "REPEAT":
            raise TypeError(f"{name} is the experts' input")
        if node.ne[2] > 0:
            self._norms[layer][name].append(row_norms(node))

    def drop(self) -> None:
        """Drop everything that was read, and an error."""
        self._norms.clear()
        self._seen, self._applied, self._error = [], [], None

    def routing(self, form: RowFormat, tokens: int) -> RouterOutputs:
        """Return the routing with the weights that the model applies, if the gate is known."""
        seen = self.peek()
        routing = super().routing(form, tokens)
        weights = self._weights(seen, form.layers) if self._nodes.reads_weights else []
        if isinstance(routing, ScoredRouting):
            return ScoredRouting(tokens, routing.experts, routing.scores, routing.to_logits, weights)
        return replace(routing, weights=weights)

    def norms(self, layers: Sequence[int]) -> list[Floats | None]:
        """Return and clear the norms [T, k] of each layer since the last call; None for a layer without its node."""
        read = [list(self._norms[layer].values()) for layer in layers]
        self._norms.clear()
        return [np.concatenate(by_node[-1]) if by_node else None for by_node in read]

    def _weights(self, seen: Sequence[RouterRows], layers: Sequence[int]) -> list[Floats | None]:
        """Return the applied weights [T, k] of each layer.

        Raises:
            RuntimeError: they do not match the selected experts.
        """
        read: list[tuple[int, Floats]] = [(rows.layer, rows.weights) for rows in seen]
        if self._nodes.applied is not None:
            shapes, read = [(rows.layer, rows.experts.shape) for rows in seen], self.take_applied()
            if [(layer, rows * k) for layer, (rows, k) in shapes] != [(layer, values.size) for layer, values in read]:
                raise RuntimeError("the tap failed: the applied weights do not match the selected experts")
            read = [(layer, values.reshape(shape)) for (layer, shape), (_, values) in zip(shapes, read, strict=True)]
        by_layer: dict[int, list[Floats]] = defaultdict(list)
        for layer, values in read:
            by_layer[layer].append(values)
        return [np.concatenate(by_layer[layer]) if layer in by_layer else None for layer in layers]
