"""Norms of the experts' weighted outputs, from the nodes of llama.cpp's graph."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np

from moe_watch.backends.engine import Floats
from moe_watch.backends.llama.bindings import F32, GgmlTensor, is_host_memory, tensor_get

WEIGHTED = "ffn_moe_weighted"
"""Node of weight · f(x) of each selected expert, biases and scales of the expert included."""

DOWN = ("ffn_moe_down", "ffn_moe_down_scaled", "ffn_moe_down_biased")
"""Nodes of f(x), in the order of the graph; a model has one or two of them, and the last is the whole f(x)."""

ON_INPUT = frozenset({"llama4"})
"""Architectures whose weights multiply the experts' input: `WEIGHTED` is that input, and f(x) has the weight in it."""

FLOATS = 1 << 22
"""Numbers that are copied from a device at once (16 MiB)."""


def nodes_of_outputs(architecture: str) -> tuple[str, ...]:
    """Return the names of the nodes [d, k, T] with the experts' weighted outputs; the last one in the graph counts."""
    return DOWN if architecture in ON_INPUT else (WEIGHTED,)


def row_norms(node: GgmlTensor) -> Floats:
    """Return the Euclidean norm of each row of a node [d, k, T], as float32 [T, k].

    Sums of squares are in float32, in the pairwise or vectorized order of `einsum`: relative error about 1e-7.

    Raises:
        TypeError: the node has another type than float32.
    """
    if node.type != F32 or node.nb[0] != 4:
        raise TypeError(f"{node.name.decode()} has type {node.type}")
    found = np.empty((node.ne[2], node.ne[1]), np.float32)
    at = 0
    for rows in _in_pieces(node):
        np.einsum("tkd,tkd->tk", rows, rows, out=found[at : at + len(rows)])
        at += len(rows)
    return np.sqrt(found, out=found)


def _in_pieces(node: GgmlTensor) -> Iterator[Any]:
    """Yield the rows of successive tokens [t, k, d]: the node's own memory if the CPU can read it, else copies."""
    tokens, per_token = node.ne[2], node.nb[2]
    strides = (per_token, node.nb[1], 4)
    if tokens == 0:
        return
    if is_host_memory(node.buffer):
        yield _strided(ctypes.c_char * _span(node, tokens), node.data, (tokens, node.ne[1], node.ne[0]), strides)
        return
    step = max(1, 4 * FLOATS // per_token)
    memory = np.empty(_span(node, min(step, tokens)), np.uint8)
    for start in range(0, tokens, step):
        count = min(step, tokens - start)
        tensor_get(ctypes.addressof(node), memory.ctypes.data, start * per_token, _span(node, count))
        yield _strided(ctypes.c_char * len(memory), memory.ctypes.data, (count, node.ne[1], node.ne[0]), strides)


def _span(node: GgmlTensor, tokens: int) -> int:
    """Return the number of bytes from the first to the last element of this number of tokens."""
    return int((node.ne[0] - 1) * node.nb[0] + (node.ne[1] - 1) * node.nb[1] + (tokens - 1) * node.nb[2] + 4)


def _strided(kind: Any, address: int, shape: tuple[int, int, int], strides: tuple[int, int, int]) -> Any:
    return np.ndarray(shape, np.float32, kind.from_address(address), strides=strides)
