"""Coming back to a place in a context of llama.cpp's.

A second sequence keeps the place: attention caches share their cells between sequences, recurrent states are copied
when one of the two goes on. So nothing is copied but the last prediction, which is no part of a context's memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as lib

from moe_watch.backends.engine import Floats

SEQUENCES = 2
"""That a context must have room for, in one cache."""

_MAIN, _KEPT = 0, 1
_ALL = (-1, -1)


@dataclass(frozen=True, slots=True, eq=False)
class KeptPlace:
    """Where a context stood. There can be one per context.

    Args:
        context: llama.cpp's, made for `SEQUENCES`.
        logits: [V] of its last prediction.
    """

    context: Any
    logits: Floats

    @classmethod
    def of(cls, context: Any, vocabulary: int) -> KeptPlace:
        """Keep the place where a context is now."""
        _replace(context, _KEPT, by=_MAIN)
        return cls(context, _prediction(context, vocabulary).copy())

    def go_back(self) -> None:
        """Be there again, as often as wanted."""
        _replace(self.context, _MAIN, by=_KEPT)
        _prediction(self.context, len(self.logits))[:] = self.logits

    def forget(self) -> None:
        """Let go of what only the place needed."""
        lib.llama_memory_seq_rm(lib.llama_get_memory(self.context), _KEPT, *_ALL)


def _replace(context: Any, sequence: int, *, by: int) -> None:
    memory = lib.llama_get_memory(context)
    lib.llama_memory_seq_rm(memory, sequence, *_ALL)
    lib.llama_memory_seq_cp(memory, by, sequence, *_ALL)


def _prediction(context: Any, vocabulary: int) -> Floats:
    """[V], llama.cpp's own memory that tokens are drawn from."""
    return np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), (vocabulary,))
