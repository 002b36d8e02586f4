"""Tap in C, compiled on first use (`backends/llama/compiler.py`): no Python runs while the graph is computed."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from llama_cpp import llama_cpp as lib

from moe_watch.backends.engine import Floats, Ints, RouterOutputs
from moe_watch.backends.llama.bindings import F32, I32, GgmlTensor, get_rows_operation, tensor_get, tensor_set
from moe_watch.backends.llama.tap.base import READ_AT, STOP_AT, Tap
from moe_watch.backends.llama.tap.masking import MaskedColumns, masked_selected
from moe_watch.backends.llama.tap.router_rows import RouterRows
from moe_watch.backends.tap_rows import HEADER, RecordedRouting, RowFormat

TENSOR_FIELDS = ("type", "ne", "nb", "op", "src", "name")
"""Fields of a tensor that callback.c reads."""

MOST_MASK_NODES = 2
"""Number of nodes of a layer where experts are switched off: logits, and scores plus selection bias."""


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
        ("masked_at", ctypes.c_char_p * MOST_MASK_NODES),
        ("set", ctypes.c_void_p),
        ("mask_starts", ctypes.c_void_p),
        ("masked", ctypes.c_void_p),
        ("mask_layers", ctypes.c_size_t),
        ("scratch", ctypes.c_void_p),
        ("scratch_capacity", ctypes.c_size_t),
        ("problem", ctypes.c_int32),
        ("problem_layer", ctypes.c_int32),
        ("problem_expert", ctypes.c_int32),
        ("enabled", ctypes.c_int32),
    )


MASKED_SELECTED = 3
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
        masked_at: names of the nodes where experts are switched off, without their layer.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        *,
        rows: int,
        layers: int,
        experts: int,
        experts_per_token: int,
        apart: bool,
        masked_at: Sequence[str] = (),
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
            masked_at=(ctypes.c_char_p * MOST_MASK_NODES)(*(name.encode() for name in masked_at)),
            set=ctypes.cast(tensor_set, ctypes.c_void_p).value,
            enabled=True,
        )
        self._values = rows * experts
        self._masked: list[Ints] = []
        self._applied = np.empty(_applied_words(rows, layers, experts_per_token), np.int32)
        self._state.applied, self._state.applied_capacity = self._applied.ctypes.data, self._applied.size
        self._begin_buffer()
        self.callback = ctypes.cast(library.moe_watch_tap, lib.ggml_backend_sched_eval_callback)
        self.user_data = ctypes.addressof(self._state)

    def observe(self, on: bool) -> None:
        self._state.enabled = on

    def mask(self, columns: Mapping[int, Sequence[int]]) -> None:
        found, state = MaskedColumns.of(columns), self._state
        state.mask_starts = None
        if not found.experts:
            self._masked = []
            return
        starts, experts = np.array(found.starts, np.int32), np.array(found.experts, np.int32)
        scratch = np.empty(self._values, np.int32)
        self._masked = [starts, experts, scratch]  # kept alive, because C reads them
        state.masked, state.mask_layers = experts.ctypes.data, len(starts) - 1
        state.scratch, state.scratch_capacity = scratch.ctypes.data, scratch.size
        state.mask_starts = starts.ctypes.data

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
        if problem == MASKED_SELECTED:
            raise masked_selected(self._state.problem_layer, self._state.problem_expert)
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
