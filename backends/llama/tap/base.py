"""Tap on the routers of a llama.cpp model while it runs.

llama.cpp calls a callback for every node of its graph and asks whether to stop there (`ask`). It computes up to the
requested node, waits for the device, and calls the callback with the node. One stop per MoE layer is enough: the node
`ffn_moe_weights-<layer>` picks the scores of the selected experts, so the scores of all experts and the selected ids
are its sources, and all three are in memory at that moment.

The callback is a few lines of C (`compiled_tap.py`), because Python costs some 0.9 µs per node of every token. Without
a compiler the callback is in Python (`python_tap.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from moe_watch.backends.engine import Floats, RouterOutputs
from moe_watch.backends.llama.tap.router_rows import RouterRows, routing
from moe_watch.backends.tap_rows import RowFormat

READ_AT = "ffn_moe_weights"
"""Node of the selected scores, before the model normalizes or scales them."""

STOP_AT = "ffn_moe_probs"
"""Node of all scores. GPUs fuse it with the selection and do not store it, unless the callback requests it."""


class Tap(ABC):
    """Evaluation callback of a context; it must live as long as the context."""

    callback: Any
    user_data: Any = None

    @abstractmethod
    def observe(self, on: bool) -> None:
        """Turn the tap on or off from the next evaluation on."""

    @abstractmethod
    def mask(self, columns: Mapping[int, Sequence[int]]) -> None:
        """Switch experts off from the next evaluation on, and all others on; it holds with the tap off, too.

        Another stop in every layer with masked experts, two with a selection bias. `pop` raises a `UserError` if one of
        them is selected nevertheless.

        Args:
            columns: expert numbers by model layer index.
        """

    @abstractmethod
    def read_applied(self, node: str | None) -> None:
        """Set whether the next evaluations also read the applied weights, which takes another stop in every layer.

        Args:
            node: name of the node without its layer; None to stop reading.
        """

    @abstractmethod
    def take_applied(self) -> list[tuple[int, Floats]]:
        """Return and clear layers and applied weights [T·k] read since the last call, in order."""

    @abstractmethod
    def peek(self) -> list[RouterRows]:
        """Return the same as `pop` without clearing it; empty if there was a problem."""

    @abstractmethod
    def pop(self) -> list[RouterRows]:
        """Return and clear the router rows read since the last call, in order.

        Raises:
            RuntimeError: a router's tensors have an unexpected type or shape, or the buffer is full.
            UserError: a masked expert was selected.
        """

    def routing(self, form: RowFormat, tokens: int) -> RouterOutputs:
        """Return the routing of one evaluation of `tokens` tokens, which is everything read since the last call.

        Raises:
            RuntimeError: as for `pop`.
            UserError: as for `pop`.
        """
        return routing(self.pop(), form.layers, tokens, form.logits, is_scored=form.is_scored)


class NoTap(Tap):
    """Tap of a dense model: there is no router, so llama.cpp gets no callback and stops nowhere."""

    callback: Any = None

    def observe(self, on: bool) -> None:
        pass

    def mask(self, columns: Mapping[int, Sequence[int]]) -> None:
        if columns:
            raise ValueError("a dense model has no experts to switch off")

    def read_applied(self, node: str | None) -> None:
        pass

    def take_applied(self) -> list[tuple[int, Floats]]:
        return []

    def peek(self) -> list[RouterRows]:
        return []

    def pop(self) -> list[RouterRows]:
        return []
