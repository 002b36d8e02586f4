"""Watching the routers of a llama.cpp model while it runs.

llama.cpp asks a callback about every node of its graph: "do you want this one?". It computes up to the node that was
wanted, waits for the device, and hands it over. One yes per MoE layer is enough: the node `ffn_moe_weights-<layer>`
picks the selected experts' scores, so it has the scores of all experts and the selected ids as its sources, and at
that moment all three are in memory.

The callback is a few lines of C, compiled when it is first needed (`llama_compiler`), because Python on every node
of every token is felt: some 0.9 µs per node. Without a compiler it is Python all the same.
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
"""Selected scores, before the model normalises or scales them."""

STOP_AT = "ffn_moe_probs"
"""All scores. GPUs compute them and the selection in one step and never store them, unless they are asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class RouterRows:
    """What the router of one layer computed for successive tokens."""

    layer: int
    """Model layer index."""
    experts: Ints
    """[T, k]"""
    scores: Floats
    """[T, E]: probabilities, or what else the model's gate makes of logits"""
    weights: Floats
    """[T, k], scores of the selected ones, as they were picked"""


class Tap(ABC):
    """What a context is given as its callback; keep it for as long as the context."""

    callback: Any
    user_data: Any = None

    @abstractmethod
    def observe(self, on: bool) -> None:
        """Look on at the next evaluations, or want nothing of them."""

    @abstractmethod
    def read_applied(self, node: str | None) -> None:
        """Also read the weights that are applied, at the next evaluations; it takes another stop in every layer.

        Args:
            node: its name without the layer; None: no longer.
        """

    @abstractmethod
    def take_applied(self) -> list[tuple[int, Floats]]:
        """Return layers and applied weights [T·k] read since the last call, in order; forget them."""

    @abstractmethod
    def peek(self) -> list[RouterRows]:
        """Return what `take` would, and leave it there. Empty if there was a problem."""

    @abstractmethod
    def take(self) -> list[RouterRows]:
        """What was seen since the last call, in order.

        Raises:
            RuntimeError: a router's tensors are not what they should be.
        """

    def routing(self, form: RowFormat, tokens: int) -> RouterOutputs:
        """What the evaluation of so many tokens showed, which was all since the last call.

        Raises:
            RuntimeError: as for `take`.
        """
        return routing(self.take(), form.layers, tokens, form.logits, is_scored=form.is_scored)


# -- in C


TENSOR_FIELDS = ("type", "ne", "nb", "op", "src", "name")
"""Those of a tensor that callback.c reads."""


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


PROBLEMS = {1: "its buffer is full", 2: "a router's tensors are not what they should be"}
"""`enum problem` of callback.c."""

APPLIED_HEADER = 2
"""Words before applied weights: layer, how many."""

TOKENS_IN_BUFFER = 64
"""Generated tokens after which the next ones go into another buffer."""


class CompiledTap(Tap):
    """No Python while the graph is computed.

    Args:
        library: callback.c, compiled.
        rows: the most tokens of one pass.
        layers: how many layers have a router.
        experts: E.
        experts_per_token: the largest k of a layer.
        apart: have the scores computed apart from the selection, as GPUs need it.
    """

    def __init__(
        self, library: ctypes.CDLL, *, rows: int, layers: int, experts: int, experts_per_token: int, apart: bool
    ) -> None:
        # Beside the records, room for the gaps between the ids of the last one while they are read.
        self._pass = layers * (HEADER + rows * (experts + 2 * experts_per_token)) + rows * experts
        self._tokens = TOKENS_IN_BUFFER * layers * (HEADER + experts + 2 * experts_per_token)
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
        self._applied = np.empty(layers * rows * (APPLIED_HEADER + experts_per_token), np.int32)
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

    def take(self) -> list[RouterRows]:
        words, problem, self._state.problem = self._words(), self._state.problem, 0
        if problem:
            raise RuntimeError(f"the tap failed: {PROBLEMS[problem]}")
        return list(_records(words))

    def routing(self, form: RowFormat, tokens: int) -> RouterOutputs:
        if form.is_even and tokens == 1 and self._state.used - self._taken == form.size:
            routing = RecordedRouting(self._buffer, form, self._taken)
            self._leave(form.size)
            return routing  # all layers are there, so there was no problem
        return super().routing(form, tokens)

    def _words(self) -> Ints:
        """All records since the last call, where they are: a copy would have to fetch them from the main memory."""
        words = self._buffer[self._taken : self._state.used]
        self._leave(len(words))
        return words

    def _leave(self, words: int) -> None:
        """So many more were taken."""
        self._taken += words
        if self._taken > self._tokens:
            self._begin_buffer()

    def _begin_buffer(self) -> None:
        """Leave the old one to those who still read from it. What is not written to is not in memory."""
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


# -- in Python


class PythonTap(Tap):
    """The same in Python, where there is no compiler.

    Args:
        apart: have the scores computed apart from the selection, as GPUs need it.
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
        except Exception as error:  # it cannot pass through llama.cpp, so it waits in `take`
            self._error = error
        return True

    def _read(self, name: str, layer: int, node: GgmlTensor) -> None:
        if name == READ_AT and node.ne[2] > 0:
            self._seen.append(read_router(layer, node))

    def take(self) -> list[RouterRows]:
        seen, self._seen = self._seen, []
        error, self._error = self._error, None
        if error is not None:
            raise RuntimeError(f"the tap failed: {error}") from error
        return seen


def _named(names: str) -> re.Pattern[bytes]:
    """A pattern for nodes of these names, given as alternatives, and the number of their layer."""
    return re.compile(rf"({names})-([0-9]+)".encode())


def read_weights(node: GgmlTensor) -> Floats:
    """Copy weights [1, T·k] out of the device's memory; they have no gaps."""
    count = node.ne[0] * node.ne[1] * node.ne[2]
    weights: Floats = strided(node, (1, count), np.float32, (4 * count, 4))
    return weights


def read_router(layer: int, node: GgmlTensor) -> RouterRows:
    """Copy a router's tensors out of the device's memory, from the node that picks the selected scores."""
    scores, ids = (GgmlTensor.from_address(node.src[number]) for number in range(2))
    tokens, k, experts = node.ne[2], node.ne[1], scores.ne[1]
    return RouterRows(
        layer,
        strided(ids, (tokens, k), np.int32, (ids.nb[1], ids.nb[0])),
        strided(scores, (tokens, experts), np.float32, (scores.nb[2], scores.nb[1])),
        strided(node, (tokens, k), np.float32, (node.nb[2], node.nb[1])),
    )


def strided(tensor: GgmlTensor, shape: tuple[int, int], dtype: type, strides: tuple[int, int]) -> Any:
    """Copy a tensor's elements by its own strides: selected ids are a view of a longer ranking."""
    if tensor.type != (I32 if dtype is np.int32 else F32):
        raise TypeError(f"{tensor.name.decode()} has type {tensor.type}")
    span = sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True)) + 4
    memory: Any = np.empty(span // 4, dtype)
    tensor_get(ctypes.addressof(tensor), memory.ctypes.data, 0, span)
    return np.lib.stride_tricks.as_strided(memory, shape, strides).copy()


# -- what a pass routed with


def routing(
    seen: Sequence[RouterRows],
    layers: Sequence[int],
    tokens: int,
    logits: Callable[[Floats], Floats] | None,
    *,
    is_scored: bool = False,
) -> RouterOutputs:
    """Put together what one evaluation of `tokens` tokens showed.

    Args:
        seen: of successive passes, in order.
        layers: model layer indices, ascending.
        tokens: how many were evaluated.
        logits: from scores to logits; without it none are given.
        is_scored: scores are not logits themselves, which are made of them only when they are asked for.
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
    """Rows of all tokens, `missing` where llama.cpp saved itself the work.

    In the last layer it computes only tokens whose output is asked for, and that is the last one.
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
