"""Save and restore the position of a llama.cpp context.

A second sequence holds the saved position: attention caches share their cells between sequences, and recurrent states
are copied when one of the two sequences continues. So only the last logits are copied, which are not part of a
context's memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as lib

from moe_watch.backends.engine import Floats

SEQUENCES = 2
"""Number of sequences that a context must support, in one unified cache."""

MAIN, _SAVED = 0, 1
"""Sequences of the run and of its saved position."""
_ALL = (-1, -1)


@dataclass(frozen=True, slots=True, eq=False)
class SavedPosition:
    """Saved position of a context. There can be one per context.

    Args:
        context: llama.cpp's context, created for `SEQUENCES` sequences.
        logits: [V] of its last token.
    """

    context: Any
    logits: Floats

    @classmethod
    def save(cls, context: Any, vocabulary: int) -> SavedPosition:
        """Save the current position of a context."""
        _replace(context, _SAVED, by=MAIN)
        return cls(context, _prediction(context, vocabulary).copy())

    def restore(self) -> None:
        """Restore the position; any number of times."""
        _replace(self.context, MAIN, by=_SAVED)
        _prediction(self.context, len(self.logits))[:] = self.logits

    def release(self) -> None:
        """Remove the sequence that holds the position."""
        lib.llama_memory_seq_rm(lib.llama_get_memory(self.context), _SAVED, *_ALL)


def _replace(context: Any, sequence: int, *, by: int) -> None:
    memory = lib.llama_get_memory(context)
    lib.llama_memory_seq_rm(memory, sequence, *_ALL)
    lib.llama_memory_seq_cp(memory, by, sequence, *_ALL)


def _prediction(context: Any, vocabulary: int) -> Floats:
    """Return the logits [V] of the last token, as a view of llama.cpp's memory that tokens are sampled from."""
    return np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), (vocabulary,))
