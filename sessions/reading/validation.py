"""Validation of a session file's events: lengths, ids, ranges and order. msgspec checks the JSON types before.

Files are untrusted. Events that pass can be converted to arrays without further checks.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import DTypeLike

from moe_watch.routing.arrays import AnyInts, Ints, unpacked
from moe_watch.routing.events import (
    LEAST_LOGPROB,
    Change,
    Event,
    Header,
    Keyframe,
    MaskRows,
    ModelInfo,
    OpenChunk,
    Table,
    Token,
    Unknown,
)
from moe_watch.routing.pressure.chunk_sums import SUMMED
from moe_watch.routing.pressure.formulas import MODES
from moe_watch.routing.row_layout import RowLayout
from moe_watch.sessions.reading.bounds import ABSENT_ID as ABSENT_ID
from moe_watch.sessions.reading.bounds import LEAST_UNIT, MAX_TOKEN_ID, MOST_SECONDS, ROUNDING, out_of_bounds, short
from moe_watch.sessions.reading.bounds import MAX_CELLS as MAX_CELLS
from moe_watch.sessions.reading.bounds import MAX_INTEGER as MAX_INTEGER

MAX_CHOSEN = 1 << 16
"""Maximum of layers × experts per token; about 2,000 in the largest known model. Screens keep some hundred tokens."""
SIXTEEN_BITS = (1 << 16) - 1
"""Largest integer of a quick check."""
BYTES = 1 << 8
"""Number of experts up to which an id fits in one byte."""

NumberRows = Sequence[Sequence[int | float]]
Places = slice | Ints
"""Entries of a flat row."""


class ShapeError(ValueError):
    """An invalid event; `str()` is the reason."""


def check_header(header: Header) -> None:
    """Refuse a header with impossible values.

    Raises:
        ShapeError: the impossible value.
    """
    model = header.model
    layers, experts = len(model.layers), model.experts
    _require(list(model.layers) == sorted(set(model.layers)), "the model's layers are not in ascending order")
    _require(not layers or model.layers[0] >= 0, "a layer index is negative")
    _require(experts >= 0 and layers * experts <= MAX_CELLS, f"{layers} layers × {experts} experts is impossible")
    _check_experts_per_token(header)
    _check_other_numbers(model)
    _require(bool(layers) or not experts or header.counts_only, f"{short(experts)} experts without a layer")
    _require(1 <= header.chunk_size <= MAX_INTEGER, f"a chunk size of {header.chunk_size} is impossible")
    _require(0 <= header.sampling.seed <= MAX_INTEGER, f"a seed of {header.sampling.seed} is impossible")
    for name in ("weights", "entropy", "margin"):
        unit = getattr(header.units, name)
        _require(LEAST_UNIT <= unit <= 1, f"a unit of {unit} for {name} is impossible")
    _check_bounds(header)
    _require(header.pressure in MODES, f"pressure mode {header.pressure!r} is not one of {', '.join(MODES)}")


def _check_experts_per_token(header: Header) -> None:
    """Check experts per token: one number for all MoE layers, or, from schema 2, one per layer."""
    model, layers, experts = header.model, len(header.model.layers), header.model.experts
    given = model.experts_per_token
    if isinstance(given, list):
        _require(header.schema >= model.schema, f"schema {header.schema} allows only one number of experts per token")
        _require(len(given) == layers, f"experts per token of {len(given)} layers instead of {layers}")
    for k in given if isinstance(given, list) else [given]:
        _require(0 <= k <= experts, f"{short(k)} of {experts} experts per token is impossible")
        _require(not layers or k > 0, "a model with MoE layers selects at least one expert per token")
    # The width of a table is the largest number of experts per token.
    most = layers * max(model.k_by_layer, default=0)
    _require(
        most <= MAX_CHOSEN, f"{layers} layers × {max(model.k_by_layer, default=0)} experts per token is impossible"
    )


def _check_other_numbers(model: ModelInfo) -> None:
    """Check the numbers of another model or configuration: expert numbers before pruning, and the model's own k."""
    layers, ids, own = len(model.layers), model.expert_ids, model.own_experts_per_token
    if ids is not UNSET:
        _require(len(ids) == layers, f"expert_ids holds {len(ids)} layers instead of {layers}")
        for row in ids:
            _require(len(row) == model.experts, f"expert_ids holds {len(row)} experts instead of {model.experts}")
            _require(len(set(row)) == len(row), "expert_ids names an expert twice")
    if own is not UNSET:
        given = own if isinstance(own, list) else [own]
        _require(not isinstance(own, list) or len(own) == layers, f"own experts per token of {len(given)} layers")
        sound = all(1 <= k <= model.experts for k in given)
        _require(sound, f"{short(max(given, default=0))} of {model.experts} own experts per token is impossible")


def check_alone(event: Event) -> None:
    """Refuse an event, other than a token or keyframe, that is invalid in any context.

    Raises:
        ShapeError: the impossible value.
    """
    index = getattr(event, "i", None)
    _require(index is None or index >= 0, f"an index of {index} is impossible")
    if isinstance(event, Change) and event.mask is not UNSET:
        check_mask_order(event.mask)
    _check_bounds(event)


def check_mask_order(rows: MaskRows) -> None:
    """Refuse a mask whose layers or experts do not ascend from 0 on.

    Raises:
        ShapeError: the fault.
    """
    _require(_ascend([layer for layer, _ in rows]), "the layers of a mask do not ascend")
    for layer, experts in rows:
        _require(bool(experts) and _ascend(experts), f"the masked experts of layer {short(layer)} do not ascend")


def _ascend(numbers: Sequence[int]) -> bool:
    return all(a < b for a, b in pairwise([-1, *numbers])) and max(numbers, default=0) <= MAX_INTEGER


def most_of(header: Header) -> dict[str, int]:
    """Return the largest integers in a token's lists, by field name."""
    return {
        "entropy": round(1 / header.units.entropy),
        "margin": round(1 / header.units.margin),
        "weights": MAX_INTEGER,
        "probs": round(1 / header.units.weights),
    }


class EventChecker:
    """Validator of the events of one run, in order."""

    def __init__(self, header: Header) -> None:
        self._model_layers = header.model.layers
        self._layers = len(header.model.layers)
        self._experts = header.model.experts
        self._layout = RowLayout.of(header.model)
        self._groups = _places_by_k(self._layout)
        self._id_type: DTypeLike = np.uint8 if self._experts <= BYTES else np.uint16
        self._chunk_size = header.chunk_size
        self._most = most_of(header)
        self._next = 0
        self._begun = False
        self._counted = header.counts_only
        """The file has no tokens, but a keyframe per counted step."""

    def check(self, event: Event | Unknown) -> None:
        """Refuse an event that is invalid, or cannot follow the events before it.

        Raises:
            ShapeError: the reason.
        """
        if isinstance(event, Header):
            raise ShapeError("a second header; a session file holds one run")
        if isinstance(event, Token):
            self._check_token(event)
        elif isinstance(event, Keyframe):
            self._check_keyframe(event)
        elif not isinstance(event, Unknown):
            check_alone(event)
            if isinstance(event, Change):
                self._check_change(event)

    def check_decoded(self, token: Token, *, skim: bool = False) -> None:
        """Refuse a token of `moe_watch.sessions.reading.decoding` that cannot follow the events before it.

        Args:
            token: a token with all numbers in their ranges, and experts in all layers.
            skim: skip the check for duplicate experts in a layer.

        Raises:
            ShapeError: the reason.
        """
        self._check_index(token.i)
        if not skim:
            self._check_experts(token.experts)
        self._next, self._begun = token.i + 1, True

    def _check_token(self, token: Token) -> None:
        self._check_index(token.i)
        self._check_time(token.t)
        _require(ABSENT_ID <= token.id <= MAX_TOKEN_ID, f"a token id of {token.id} is impossible")
        self._check_prediction(token)
        self._check_experts(token.experts)
        self._check_values("weights", token.weights, self._layout.size)
        self._check_values("entropy", token.entropy, self._layers)
        self._check_values("margin", token.margin, self._layers)
        self._check_values("probs", token.probs, self._layers * self._experts)
        self._next, self._begun = token.i + 1, True

    def _check_index(self, index: int) -> None:
        _require(0 <= index <= MAX_INTEGER, f"a token index of {index} is impossible")
        if self._begun and index < self._next:
            kind = "repeated" if index == self._next - 1 else "out of order"
            raise ShapeError(f"token {index} is {kind}; the previous token is {self._next - 1}")

    @staticmethod
    def _check_prediction(token: Token) -> None:
        if token.logprob is not None and not LEAST_LOGPROB <= token.logprob <= 0:
            raise ShapeError(f"a log-probability of {token.logprob} is impossible")
        for name, value in (("top_margin", token.top_margin), ("choice_gap", token.choice_gap)):
            if value is not None and not 0 <= value <= 1:
                raise ShapeError(f"a {name} of {value} is impossible")

    @staticmethod
    def _check_time(seconds: float) -> None:
        _require(0 <= seconds <= MOST_SECONDS, f"a time of {seconds} s is impossible")

    def _check_experts(self, experts: list[int | None]) -> None:
        self._check_length("experts", experts, self._layout.size)
        if self._surely_sound(experts):
            return
        end = 0
        for index, k in zip(self._model_layers, self._layout.k.tolist(), strict=True):
            end += k
            selected = set(experts[end - k : end])
            if selected != {None}:
                self._check_row(index, selected, k)

    def _surely_sound(self, experts: list[int | None]) -> bool:
        """Return True if all layers have different experts of the model. A quick check: False is undecided."""
        known = cast("list[int]", experts)
        try:
            ids = np.frombuffer(bytearray(known) if self._experts <= BYTES else array("H", known), self._id_type)
        except (TypeError, ValueError, OverflowError):
            return False
        return all(_are_different(ids[places].reshape(-1, k), self._experts) for k, places in self._groups)

    def _check_row(self, layer: int, selected: set[int | None], k: int) -> None:
        known = [expert for expert in selected if expert is not None]
        _require(len(known) == len(selected), f"layer {layer} is partly null")
        _require(min(known) >= 0, f"layer {layer} selects expert {min(known)}")
        _require(max(known) < self._experts, f"layer {layer} selects expert {max(known)} of {self._experts}")
        _require(len(selected) == k, f"layer {layer} selects an expert twice")

    def _check_values(self, name: str, values: list[int | None] | None, length: int) -> None:
        if values is None:
            return
        self._check_length(name, values, length)
        if _fit_in(values, self._most[name]):
            return
        known = [value for value in values if value is not None] if None in values else cast("list[int]", values)
        low, high = min(known, default=0), max(known, default=0)
        _require(low >= 0, f"{name} holds {low}, which is negative")
        _require(high <= self._most[name], f"{name} holds {high}, above the maximum of {self._most[name]}")

    @staticmethod
    def _check_length(name: str, values: Sequence[object], length: int) -> None:
        _require(len(values) == length, f"{name} holds {len(values)} values instead of {length}")

    def _check_change(self, change: Change) -> None:
        if change.mask is not UNSET:
            self._check_mask(change.mask)
        k = change.experts_per_token
        sound = k is UNSET or 0 < k <= self._experts
        _require(sound, f"{short(k)} of {self._experts} experts per token is impossible")

    def _check_mask(self, rows: MaskRows) -> None:
        check_mask_order(rows)
        for layer, experts in rows:
            _require(layer in self._model_layers, f"a mask of layer {short(layer)}, which is no MoE layer")
            _require(experts[-1] < self._experts, f"a mask of expert {short(experts[-1])} of {self._experts}")

    def _check_keyframe(self, frame: Keyframe) -> None:
        if not self._begun or (self._counted and frame.i > self._next):
            _require(0 <= frame.i <= MAX_INTEGER, f"a keyframe after {frame.i} tokens is impossible")
            self._next, self._begun = frame.i, True
        _require(frame.i == self._next, f"a keyframe after {frame.i} tokens instead of {self._next}")
        _require(0 <= frame.complete_chunks <= frame.chunks, "a keyframe with an impossible number of chunks")
        for rows in (frame.rows_prefill, frame.rows_decode, frame.average_rows):
            self._check_counts("keyframe rows", rows, self._layers, most=frame.i)
        for counts in (frame.counts_prefill, frame.counts_decode):
            self._check_rows("keyframe table", counts)
        for table in (frame.average_meso, frame.average_macro):
            self._check_table("keyframe table", table, most=1 + ROUNDING)  # its values are shares
        self._check_table("keyframe table", frame.phases, most=MAX_INTEGER)
        self._check_last_experts(frame.last_experts)
        _check_bounds(frame)
        if frame.mask is not UNSET:
            self._check_mask(frame.mask)
        if frame.open_chunk is not None:
            self._check_open_chunk(frame.open_chunk, frame.i)

    def _check_last_experts(self, rows: list[list[int] | None]) -> None:
        self._check_length("last_experts", rows, self._layers)
        numbers = self._layout.k.tolist()
        for k, row in zip(numbers, rows, strict=True):
            self._check_length("last_experts", row if row is not None else [None] * k, k)
        absent: list[int | None] = [None] * self._layout.width
        flat = [each for k, row in zip(numbers, rows, strict=True) for each in (absent[:k] if row is None else row)]
        self._check_experts(flat)

    def _check_open_chunk(self, chunk: OpenChunk, seen: int) -> None:
        _require(0 < chunk.tokens < self._chunk_size, f"an open chunk of {chunk.tokens} tokens is impossible")
        _require(set(chunk.sums) == set(chunk.observed) == set(SUMMED), "an open chunk with unknown sums")
        self._check_counts("an open chunk", [chunk.first, chunk.last], 2)
        self._check_sums(chunk)
        self._check_counts("open_chunk start_rows", chunk.start_rows, self._layers, most=seen)
        self._check_rows("open_chunk table", chunk.counts, most=chunk.tokens)
        for table in (chunk.start_meso, chunk.start_macro):
            self._check_table("open_chunk table", table, most=1 + ROUNDING)

    def _check_sums(self, chunk: OpenChunk) -> None:
        """Check each sum against the number of its values times the largest value."""
        largest = {"router_entropy": self._most["entropy"], "router_margin": self._most["margin"]}
        values = chunk.tokens * max(1, self._layers)
        self._check_counts("an open chunk", list(chunk.observed.values()), len(SUMMED), most=values)
        for name, total in chunk.sums.items():
            most = values * largest.get(name, 1)
            self._check_counts("an open chunk", [total], 1, most=most + ROUNDING * values)

    def _check_table(self, name: str, table: Table, *, most: float) -> None:
        if not isinstance(table, bytes):
            self._check_rows(name, table, most=most)
            return
        size = 8 * self._layers * self._experts
        _require(len(table) == size, f"{name} holds {len(table)} bytes instead of {size}")
        sound = all(0 <= bound <= most for bound in _bounds(table))  # NaN fails both comparisons
        _require(sound, f"{name} holds a number out of range")

    def _check_rows(self, name: str, table: NumberRows, *, most: float = MAX_INTEGER) -> None:
        self._check_length(name, table, self._layers)
        for row in table:
            self._check_counts(name, row, self._experts, most=most)

    def _check_counts(
        self, name: str, values: Sequence[int | float], length: int, *, most: float = MAX_INTEGER
    ) -> None:
        self._check_length(name, values, length)
        low, high = min(values, default=0), max(values, default=0)
        _require(low >= 0 and high <= most, f"{name} holds {short(low if low < 0 else high)}")


def _places_by_k(layout: RowLayout) -> list[tuple[int, Places]]:
    """Return each number of experts per token with the entries of a flat row that belong to layers with it."""
    if layout.is_even:
        return [(layout.width, slice(None))] if layout.layers else []
    of_entries = np.repeat(layout.k, layout.k)
    return [(k, np.flatnonzero(of_entries == k)) for k in np.unique(layout.k).tolist()]


def _are_different(rows: AnyInts, experts: int) -> bool:
    """Return whether ids `[N, k]` are of the model and different within each row; sorts the rows in place."""
    rows.sort(axis=1)
    return not (rows[:, 1:] == rows[:, :-1]).any() and int(rows[:, -1:].max(initial=0)) < experts


def _bounds(table: bytes) -> tuple[float, ...]:
    numbers = unpacked(table)
    return (float(numbers.min()), float(numbers.max())) if len(numbers) else ()


def _fit_in(values: list[int | None], most: int) -> bool:
    """Return True if all are integers from 0 to `most`. A quick check: False is undecided."""
    try:
        known = array("H", cast("list[int]", values))
    except (TypeError, OverflowError):
        return False
    return most >= SIXTEEN_BITS or max(known, default=0) <= most


def _check_bounds(event: msgspec.Struct) -> None:
    found = out_of_bounds(event)
    _require(not found, found)


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ShapeError(otherwise)
