"""What a llama.cpp model predicted, in three numbers per token."""

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
"""Of a context's last prediction and a token: the token's log-probability at temperature 1, and the likeliest token's
lead in probability over the second one and over the token."""


def facts(vocabulary: int) -> Facts:
    """How to find them: with a compiler in C, because NumPy calls one by one are felt after every token."""
    try:
        library = compiled_logits()
    except CannotCompile:
        return _in_numpy(vocabulary)
    return _in_c(library, vocabulary)


def _in_c(library: ctypes.CDLL, vocabulary: int) -> Facts:
    # In a `PyDLL`, as for functions of llama.cpp's that are brief.
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
    """The same of logits [V] in NumPy."""
    best = logits.argmax()
    powers = logits - logits[best]
    behind = float(powers[token])
    np.exp(powers, out=powers)
    total = float(powers.sum(dtype=np.float64))
    powers[best] = 0.0
    second = float(powers.max())
    return behind - math.log(total), (1.0 - second) / total, (1.0 - math.exp(behind)) / total
