"""Tap in Python, for machines without a compiler and for readers of more nodes."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as lib

from moe_watch.backends.engine import Floats
from moe_watch.backends.llama.bindings import F32, I32, GgmlTensor, tensor_get, tensor_set
from moe_watch.backends.llama.tap.base import READ_AT, STOP_AT, Tap
from moe_watch.backends.llama.tap.masking import masked_selected
from moe_watch.backends.llama.tap.router_rows import RouterRows
from moe_watch.routing.errors import UserError


class PythonTap(Tap):
    """Tap in Python, for machines without a compiler.

    Args:
        apart: compute the scores apart from the selection, as GPUs need it.
        masked_at: names of the nodes where experts are switched off, without their layer.
        further: names of more nodes to stop at, without their layer.
    """

    def __init__(self, *, apart: bool, masked_at: Sequence[str] = (), further: Sequence[str] = ()) -> None:
        names = "|".join([READ_AT, *further, *([STOP_AT] if apart else [])])
        self._named = _named(names)
        self._applied_named: re.Pattern[bytes] | None = None
        self._masked_at = masked_at
        self._masked_named: re.Pattern[bytes] | None = None
        self._masked: dict[int, list[int]] = {}
        self._applied: list[tuple[int, Floats]] = []
        self.callback = lib.ggml_backend_sched_eval_callback(self._call)
        self._seen: list[RouterRows] = []
        self._error: Exception | None = None
        self._enabled = True

    def observe(self, on: bool) -> None:
        self._enabled = on

    def mask(self, columns: Mapping[int, Sequence[int]]) -> None:
        self._masked = {layer: list(experts) for layer, experts in columns.items()}
        layers = "|".join(map(str, self._masked))
        names = "|".join(self._masked_at)
        self._masked_named = re.compile(rf"(?:{names})-({layers})".encode()) if layers else None

    def read_applied(self, node: str | None) -> None:
        self._applied_named = None if node is None else _named(node)

    def take_applied(self) -> list[tuple[int, Floats]]:
        found, self._applied = self._applied, []
        return found

    def peek(self) -> list[RouterRows]:
        return [] if self._error else self._seen.copy()

    def _call(self, address: int, ask: bool, _: Any) -> bool:
        if not self._enabled and self._masked_named is None:
            return not ask
        node = GgmlTensor.from_address(address)
        named = self._named.fullmatch(node.name) if self._enabled else None
        applied = self._applied_named.fullmatch(node.name) if self._enabled and self._applied_named else None
        masked = self._masked_named.fullmatch(node.name) if self._masked_named else None
        if ask:
            return named is not None or applied is not None or masked is not None
        try:
            if masked is not None:
                switch_off(node, self._masked[int(masked[1])])
            if named is not None:
                self._read(named[1].decode(), int(named[2]), node)
            if applied is not None and (weights := read_weights(node)[0]).size:
                self._applied.append((int(applied[2]), weights))
        except Exception as error:  # it cannot propagate through llama.cpp, so `pop` raises it
            self._error = error
        return True

    def _read(self, name: str, layer: int, node: GgmlTensor) -> None:
        if name == READ_AT and node.ne[2] > 0:
            rows = read_router(layer, node)
            self._check_selected(rows)
            self._seen.append(rows)

    def _check_selected(self, rows: RouterRows) -> None:
        """Refuse rows with a masked expert.

        Raises:
            UserError: a masked expert was selected.
        """
        if masked := self._masked.get(rows.layer):
            wrong = rows.experts[np.isin(rows.experts, masked)]
            if wrong.size:
                raise masked_selected(rows.layer, int(wrong[0]))

    def pop(self) -> list[RouterRows]:
        seen, self._seen = self._seen, []
        error, self._error = self._error, None
        if isinstance(error, UserError):
            raise error
        if error is not None:
            raise RuntimeError(f"the tap failed: {error}") from error
        return seen


def _named(names: str) -> re.Pattern[bytes]:
    """Return a pattern for nodes with these names, given as alternatives, and their layer number."""
    return re.compile(rf"({names})-([0-9]+)".encode())


def switch_off(node: GgmlTensor, experts: Sequence[int]) -> None:
    """Write −∞ in these columns of values [T, E] in the device's memory."""
    count, tokens = node.ne[0], node.ne[1]
    if tokens == 0:
        return
    if [*node.nb] != [4, 4 * count, *[4 * count * tokens] * 2]:
        raise TypeError(f"{node.name.decode()} has another layout than [tokens, experts]")
    values = strided(node, (tokens, count), np.float32, (4 * count, 4))
    values[:, experts] = -np.inf
    tensor_set(ctypes.addressof(node), values.ctypes.data, 0, values.nbytes)


def read_weights(node: GgmlTensor) -> Floats:
    """Copy weights [1, T·k] from the device's memory; they are contiguous."""
    count = node.ne[0] * node.ne[1] * node.ne[2]
    if count == 0:  # no token of this micro-batch has an output, and the last layer computes none
        return np.empty((1, 0), np.float32)
    weights: Floats = strided(node, (1, count), np.float32, (4 * count, 4))
    return weights


def read_router(layer: int, node: GgmlTensor) -> RouterRows:
    """Copy a router's tensors from the device's memory, given the node that picks the selected scores."""
    scores, ids = (GgmlTensor.from_address(node.src[number]) for number in range(2))
    tokens, k, experts = node.ne[2], node.ne[1], scores.ne[1]
    return RouterRows(
        layer,
        strided(ids, (tokens, k), np.int32, (ids.nb[1], ids.nb[0])),
        strided(scores, (tokens, experts), np.float32, (scores.nb[2], scores.nb[1])),
        strided(node, (tokens, k), np.float32, (node.nb[2], node.nb[1])),
    )


def strided(tensor: GgmlTensor, shape: tuple[int, int], dtype: type, strides: tuple[int, int]) -> Any:
    """Copy a tensor's elements by the given strides: selected ids are a view of a longer ranking."""
    if tensor.type != (I32 if dtype is np.int32 else F32):
        raise TypeError(f"{tensor.name.decode()} has type {tensor.type}")
    span = sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True)) + 4
    memory: Any = np.empty(span // 4, dtype)
    tensor_get(ctypes.addressof(tensor), memory.ctypes.data, 0, span)
    return np.lib.stride_tricks.as_strided(memory, shape, strides).copy()
