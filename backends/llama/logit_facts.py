"""Three numbers per token from the logits of a llama.cpp model: log-probability and two differences of probability."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from moe_watch.backends.engine import Floats
from moe_watch.backends.llama.bindings import logits_address
from moe_watch.backends.llama.compiler import CannotCompile, compiled_logits

Facts = Callable[[Any, int], tuple[float, float, float]]
"""Function of a context and a token, on the context's last logits: log-probability of the token at temperature 1, and
the probability of the likeliest token minus the probability of the second one and of the token."""


def facts(vocabulary: int) -> Facts:
    """Return the function: compiled C if there is a compiler, because several NumPy calls per token slow generation."""
    try:
        library = compiled_logits()
    except CannotCompile:
        return _in_numpy(vocabulary)
    return _in_c(library, vocabulary)


def _in_c(library: ctypes.CDLL, vocabulary: int) -> Facts:
    # In a `PyDLL`, without releasing the GIL, as for the short functions of llama.cpp.
    found = ctypes.PyDLL(library._name).moe_watch_facts
    found.restype, found.argtypes = None, [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32, ctypes.c_void_p]
    results = (ctypes.c_double * 3)()
    address = ctypes.addressof(results)

    def facts_in_c(context: Any, token: int) -> tuple[float, float, float]:
        found(logits_address(context, -1), vocabulary, token, address)
        logprob, top_margin, choice_gap = results
        return logprob, top_margin, choice_gap

    return facts_in_c


def _in_numpy(vocabulary: int) -> Facts:
    def facts_in_numpy(context: Any, token: int) -> tuple[float, float, float]:
        first = ctypes.cast(logits_address(context, -1), ctypes.POINTER(ctypes.c_float))
        return facts_of(np.ctypeslib.as_array(first, (vocabulary,)), token)

    return facts_in_numpy


def facts_of(logits: Floats, token: int) -> tuple[float, float, float]:
    """Compute the three numbers from logits [V] with NumPy."""
    best = logits.argmax()
    powers = logits - logits[best]
    behind = float(powers[token])
    np.exp(powers, out=powers)
    total = float(powers.sum(dtype=np.float64))
    powers[best] = 0.0
    second = float(powers.max())
    return behind - math.log(total), (1.0 - second) / total, (1.0 - math.exp(behind)) / total
