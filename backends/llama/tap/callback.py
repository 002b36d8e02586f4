"""Tap on the routers of a llama.cpp model while it runs.

llama.cpp calls a callback for every node of its graph and asks whether to stop there (`ask`). It computes up to the
requested node, waits for the device, and calls the callback with the node. One stop per MoE layer is enough: the node
`ffn_moe_weights-<layer>` picks the scores of the selected experts, so the scores of all experts and the selected ids
are its sources, and all three are in memory at that moment.

The callback is a few lines of C, compiled on first use (`backends/llama/compiler.py`), because Python costs some 0.9 µs
per node of every token. Without a compiler the callback is in Python.
"""

from __future__ import annotations

import ctypes
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as lib

from moe_watch.backends.engine import Floats, Ints, RouterOutputs
from moe_watch.backends.llama.bindings import F32, I32, GgmlTensor, get_rows_operation, tensor_get
from moe_watch.backends.tap_rows import HEADER, RecordedRouting, RowFormat, ScoredRouting
from moe_watch.routing.arrays import ABSENT

READ_AT = "ffn_moe_weights"
"""Node of the selected scores, before the model normalizes or scales them."""

STOP_AT = "ffn_moe_probs"
"""Node of all scores. GPUs fuse it with the selection and do not store it, unless the callback requests it."""


@dataclass(frozen=True, slots=True, eq=False)
class RouterRows:
    """Output of the router of one layer for successive tokens."""

    layer: int
    """Model layer index."""
    experts: Ints
    """[T, k]"""
    scores: Floats
    """[T, E]: probabilities, or other scores that the model's gate computes from logits"""
    weights: Floats
    """[T, k]: scores of the selected experts, as the graph picks them"""


class Tap(ABC):
    """Evaluation callback of a context; it must live as long as the context."""

    callback: Any
    user_data: Any = None

    @abstractmethod
    def observe(self, on: bool) -> None:
        """Turn the tap on or off from the next evaluation on."""

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
        """

    def routing(self, form: RowFormat, tokens: int) -> RouterOutputs:
        """Return the routing of one evaluation of `tokens` tokens, which is everything read since the last call.

        Raises:
            RuntimeError: as for `pop`.
        """
        return routing(self.pop(), form.layers, tokens, form.logits, is_scored=form.is_scored)


# -- in C


TENSOR_FIELDS = ("type", "ne", "nb", "op", "src", "name")
"""Fields of a tensor that callback.c reads."""


class _TapState(ctypes.Structure):
    """`struct tap` of callback.c."""

    _fields_ = (
        *((f"{field}_at", ctypes.c_size_t) for field in TENSOR_FIELDS),
        ("type_f32", ctypes.c_int32),
        ("type_i32", ctypes.c_int32),
        ("op_get_rows", ctypes.c_int32),
        ("read_at", ctypes.c_char_p),
        ("stop_at", ctypes.c_char_p),
        ("applied_at", ctypes.c_char_p),
        ("get", ctypes.c_void_p),
        ("buffer", ctypes.c_void_p),
        ("capacity", ctypes.c_size_t),
        ("used", ctypes.c_size_t),
        ("applied", ctypes.c_void_p),
        ("applied_capacity", ctypes.c_size_t),
        ("applied_used", ctypes.c_size_t),
        ("problem", ctypes.c_int32),
        ("enabled", ctypes.c_int32),
    )


PROBLEMS = {1: "its buffer is full", 2: "a router's tensors have an unexpected type or shape"}
"""`enum problem` of callback.c."""

APPLIED_HEADER = 2
"""Number of words before applied weights: layer, count."""

TOKENS_IN_BUFFER = 64
"""Number of generated tokens after which a new buffer is allocated."""


def _pass_words(rows: int, layers: int, experts: int, experts_per_token: int) -> int:
    """Return the words of the records of one pass, and of room for the gaps between ids while they are copied."""
    return layers * (HEADER + rows * (experts + 2 * experts_per_token)) + rows * experts


def _token_words(layers: int, experts: int, experts_per_token: int) -> int:
    return TOKENS_IN_BUFFER * layers * (HEADER + experts + 2 * experts_per_token)


def _applied_words(rows: int, layers: int, experts_per_token: int) -> int:
    return layers * rows * (APPLIED_HEADER + experts_per_token)


def tap_bytes(*, rows: int, layers: int, experts: int, experts_per_token: int) -> int:
    """Return the size of the buffers of a `CompiledTap` with these arguments."""
    words = _pass_words(rows, layers, experts, experts_per_token) + _token_words(layers, experts, experts_per_token)
    return 4 * (words + _applied_words(rows, layers, experts_per_token))


class CompiledTap(Tap):
    """Tap in C: no Python runs while the graph is computed.

    Args:
        library: callback.c, compiled.
        rows: largest number of tokens of one pass.
        layers: number of layers with a router.
        experts: E.
        experts_per_token: the largest k of all layers.
        apart: compute the scores apart from the selection, as GPUs need it.
    """

    def __init__(
        self, library: ctypes.CDLL, *, rows: int, layers: int, experts: int, experts_per_token: int, apart: bool
    ) -> None:
        self._pass = _pass_words(rows, layers, experts, experts_per_token)
        self._tokens = _token_words(layers, experts, experts_per_token)
        self._state = _TapState(
            **{f"{field}_at": getattr(GgmlTensor, field).offset for field in TENSOR_FIELDS},
            type_f32=F32,
            type_i32=I32,
            op_get_rows=get_rows_operation(),
            read_at=READ_AT.encode(),
            stop_at=STOP_AT.encode() if apart else None,
            get=ctypes.cast(tensor_get, ctypes.c_void_p).value,
            enabled=True,
        )
        self._applied = np.empty(_applied_words(rows, layers, experts_per_token), np.int32)
        self._state.applied, self._state.applied_capacity = self._applied.ctypes.data, self._applied.size
        self._begin_buffer()
        self.callback = ctypes.cast(library.moe_watch_tap, lib.ggml_backend_sched_eval_callback)
        self.user_data = ctypes.addressof(self._state)

    def observe(self, on: bool) -> None:
        self._state.enabled = on

    def read_applied(self, node: str | None) -> None:
        self._state.applied_at = None if node is None else node.encode()

    def take_applied(self) -> list[tuple[int, Floats]]:
        words, at, found = self._applied[: self._state.applied_used].copy(), 0, []
        self._state.applied_used = 0
        while at < len(words):
            layer, count = words[at : at + APPLIED_HEADER].tolist()
            start, at = at + APPLIED_HEADER, at + APPLIED_HEADER + count
            found.append((layer, words[start:at].view(np.float32)))
        return found

    def peek(self) -> list[RouterRows]:
        return [] if self._state.problem else list(_records(self._buffer[self._taken : self._state.used]))

    def pop(self) -> list[RouterRows]:
        words, problem, self._state.problem = self._words(), self._state.problem, 0
        if problem:
            raise RuntimeError(f"the tap failed: {PROBLEMS[problem]}")
        return list(_records(words))

    def routing(self, form: RowFormat, tokens: int) -> RouterOutputs:
        if form.is_even and tokens == 1 and self._state.used - self._taken == form.size:
            routing = RecordedRouting(self._buffer, form, self._taken)
            self._leave(form.size)
            return routing  # all layers are recorded, so there was no problem
        return super().routing(form, tokens)

    def _words(self) -> Ints:
        """Return all records since the last call as a view: a copy would fetch them from main memory."""
        words = self._buffer[self._taken : self._state.used]
        self._leave(len(words))
        return words

    def _leave(self, words: int) -> None:
        """Skip this number of words, which were returned; begin a new buffer if this one is nearly full."""
        self._taken += words
        if self._taken > self._tokens:
            self._begin_buffer()

    def _begin_buffer(self) -> None:
        """Allocate a new buffer; views keep the old one alive. Pages that are never written use no memory."""
        self._buffer = np.empty(self._tokens + self._pass, np.int32)
        self._taken = self._state.used = 0
        self._state.buffer, self._state.capacity = self._buffer.ctypes.data, self._buffer.size


def _records(words: Ints) -> Iterator[RouterRows]:
    at = 0
    while at < len(words):
        layer, rows, experts, k = words[at : at + HEADER].tolist()
        scores, weights = at + HEADER, at + HEADER + rows * experts
        ids, at = weights + rows * k, weights + 2 * rows * k
        yield RouterRows(
            layer,
            words[ids:at].reshape(rows, k),
            words[scores:weights].view(np.float32).reshape(rows, experts),
            words[weights:ids].view(np.float32).reshape(rows, k),
        )


# -- none


class NoTap(Tap):
    """Tap of a dense model: there is no router, so llama.cpp gets no callback and stops nowhere."""

    callback: Any = None

    def observe(self, on: bool) -> None:
        pass

    def read_applied(self, node: str | None) -> None:
        pass

    def take_applied(self) -> list[tuple[int, Floats]]:
        return []

    def peek(self) -> list[RouterRows]:
        return []

    def pop(self) -> list[RouterRows]:
        return []


# -- in Python


class PythonTap(Tap):
    """Tap in Python, for machines without a compiler.

    Args:
        apart: compute the scores apart from the selection, as GPUs need it.
        further: names of more nodes to stop at, without their layer.
    """

    def __init__(self, *, apart: bool, further: Sequence[str] = ()) -> None:
        names = "|".join([READ_AT, *further, *([STOP_AT] if apart else [])])
        self._named = _named(names)
        self._applied_named: re.Pattern[bytes] | None = None
        self._applied: list[tuple[int, Floats]] = []
        self.callback = lib.ggml_backend_sched_eval_callback(self._call)
        self._seen: list[RouterRows] = []
        self._error: Exception | None = None
        self._enabled = True

    def observe(self, on: bool) -> None:
        self._enabled = on

    def read_applied(self, node: str | None) -> None:
        self._applied_named = None if node is None else _named(node)

    def take_applied(self) -> list[tuple[int, Floats]]:
        found, self._applied = self._applied, []
        return found

    def peek(self) -> list[RouterRows]:
        return [] if self._error else self._seen.copy()

    def _call(self, address: int, ask: bool, _: Any) -> bool:
        if not self._enabled:
            return not ask
        node = GgmlTensor.from_address(address)
        named = self._named.fullmatch(node.name)
        applied = self._applied_named.fullmatch(node.name) if self._applied_named else None
        if ask or (named is None and applied is None):
            return named is not None or applied is not None
        try:
            if named is not None:
                self._read(named[1].decode(), int(named[2]), node)
            if applied is not None:
                self._applied.append((int(applied[2]), read_weights(node)[0]))
        except Exception as error:  # it cannot propagate through llama.cpp, so `pop` raises it
            self._error = error
        return True

    def _read(self, name: str, layer: int, node: GgmlTensor) -> None:
        if name == READ_AT and node.ne[2] > 0:
            self._seen.append(read_router(layer, node))

    def pop(self) -> list[RouterRows]:
        seen, self._seen = self._seen, []
        error, self._error = self._error, None
        if error is not None:
            raise RuntimeError(f"the tap failed: {error}") from error
        return seen


def _named(names: str) -> re.Pattern[bytes]:
    """Return a pattern for nodes with these names, given as alternatives, and their layer number."""
    return re.compile(rf"({names})-([0-9]+)".encode())


def read_weights(node: GgmlTensor) -> Floats:
    """Copy weights [1, T·k] from the device's memory; they are contiguous."""
    count = node.ne[0] * node.ne[1] * node.ne[2]
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


# -- routing of one evaluation


def routing(
    seen: Sequence[RouterRows],
    layers: Sequence[int],
    tokens: int,
    logits: Callable[[Floats], Floats] | None,
    *,
    is_scored: bool = False,
) -> RouterOutputs:
    """Return the routing of one evaluation of `tokens` tokens.

    Args:
        seen: router rows of successive passes, in order.
        layers: model layer indices, ascending.
        tokens: number of evaluated tokens.
        logits: function from scores to logits; None if the gate is not known, and logits are None then.
        is_scored: scores are not logits; logits are computed from them on access only.
    """
    by_layer = {
        layer: list(rows)
        for layer, rows in groupby(sorted(seen, key=lambda rows: rows.layer), key=lambda rows: rows.layer)
    }
    experts = [_for_all(tokens, [rows.experts for rows in by_layer.get(layer, [])], ABSENT) for layer in layers]
    if logits is None:
        return RouterOutputs(tokens=tokens, experts=experts, logits=[None] * len(layers))
    scores = [_for_all(tokens, [rows.scores for rows in by_layer.get(layer, [])], np.nan) for layer in layers]
    if is_scored:
        return ScoredRouting(tokens, experts, scores, logits)
    return RouterOutputs(tokens, experts, [None if rows is None else logits(rows) for rows in scores])


def _for_all(tokens: int, pieces: Sequence[Any], missing: float) -> Any:
    """Return the rows of all tokens, with `missing` in rows that llama.cpp did not compute.

    In the last layer it computes only tokens with an output, which is the last one.
    """
    if not pieces:
        return None
    rows = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    if len(rows) == tokens:
        return rows
    if len(rows) != 1:
        raise RuntimeError(f"the tap failed: {len(rows)} rows for {tokens} tokens")
    every = np.full((tokens, rows.shape[1]), missing, rows.dtype)
    every[-1] = rows[0]
    return every
