"""Counters of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class TokenTotals:
    """Numbers of tokens, injections and lost events so far. Mutable integers: `replace(counts)` is a snapshot."""

    tokens: int = 0
    """Index of the next token."""
    observed: int = 0
    """Tokens whose routing is in the windows."""
    decoded: int = 0
    """Decode tokens."""
    perturbations: int = 0
    """Number of injections."""
    dropped: int = 0
    """Events that the source reports as lost."""
    context_start: int = 0
    """Index of the first token of the context."""

    @property
    def position(self) -> int:
        """Number of tokens in the context."""
        return self.tokens - self.context_start
