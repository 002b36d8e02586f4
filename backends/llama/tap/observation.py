"""Observation of a token's routers, computed in C: several NumPy calls per token slow a fast model."""

from __future__ import annotations

import ctypes

import numpy as np

from moe_watch.backends.engine import Ints
from moe_watch.backends.llama.compiler import CannotCompile, compiled_observation
from moe_watch.backends.tap_rows import HEADER, ObserveRows, RowFormat
from moe_watch.routing.router.gates import Gate, Weighting, parse
from moe_watch.routing.router.observe import SMALLEST, UNITS, Observation


class _Format(ctypes.Structure):
    """`struct format` of observation.c."""

    _fields_ = (
        ("headers", ctypes.c_void_p),
        *((name, ctypes.c_size_t) for name in ("layers", "width", "scores_at", "ids_at", "experts", "chosen")),
        ("renormalised", ctypes.c_int32),
        *((name, ctypes.c_double) for name in ("scale", "smallest_sum", "added_to_sum")),
        *((name, ctypes.c_double) for name in ("weight_unit", "entropy_unit", "margin_unit", "smallest")),
    )


class _Recorded(ctypes.Structure):
    """`struct recorded` of observation.c."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("experts", "weights", "entropy", "margin"))


def rows_observer(form: RowFormat, gate: str) -> ObserveRows | None:
    """Return a function that observes rows of this format; None if NumPy does it: no compiler, or another gate.

    Args:
        form: format of rows with scores.
        gate: name in `moe_watch.routing.router.gates`.
    """
    known = parse(gate)
    if known is None or not (form.is_scored and form.is_even and _is_simple(known)) or form.experts < 2:
        return None
    try:
        library = compiled_observation()
    except CannotCompile:
        return None
    return _RowsObserver(library, form, known)


def _is_simple(gate: Gate) -> bool:
    """Return whether the weights depend on the scores of the selected experts only."""
    return gate.scale is not None and gate.weighting is not Weighting.SPARSEMIXER


def _format(form: RowFormat, gate: Gate, headers: Ints) -> _Format:
    return _Format(
        headers=headers.ctypes.data,
        layers=len(form.layers),
        width=form.width,
        scores_at=HEADER,
        ids_at=form.width - form.experts_per_token,
        experts=form.experts,
        chosen=form.experts_per_token,
        renormalised=gate.weighting is not Weighting.AS_THEY_ARE,
        scale=gate.scale,
        smallest_sum=gate.smallest_sum,
        added_to_sum=gate.added_to_sum,
        weight_unit=UNITS.weights,
        entropy_unit=UNITS.entropy,
        margin_unit=UNITS.margin,
        smallest=SMALLEST,
    )


class _RowsObserver:
    """Function of the type `ObserveRows`.

    Args:
        library: observation.c, compiled.
        form: format of the rows.
        gate: gate of the model.
    """

    def __init__(self, library: ctypes.CDLL, form: RowFormat, gate: Gate) -> None:
        self._observe = library.moe_watch_observe
        self._observe.restype = ctypes.c_bool
        self._observe.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_void_p] * 2]
        self._chosen = form.experts_per_token
        self._headers = form.header  # kept alive, because C reads them
        self._format = _format(form, gate, self._headers)

    def __call__(self, rows: Ints) -> Observation | None:
        tokens, layers, _ = rows.shape
        experts, weights = (np.empty((tokens, layers, self._chosen), np.int64) for _ in range(2))
        entropy, margin = (np.empty((tokens, layers), np.int64) for _ in range(2))
        to = _Recorded(*(array.ctypes.data for array in (experts, weights, entropy, margin)))
        is_usual = self._observe(rows.ctypes.data, tokens, ctypes.addressof(self._format), ctypes.addressof(to))
        return Observation(experts, weights, entropy, margin) if is_usual else None
