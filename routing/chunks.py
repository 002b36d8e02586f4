"""Chunk boundaries: defined here alone, for the worker and for the instruments."""

from __future__ import annotations


class ChunkClock:
    """Counter that divides decode tokens into chunks of `size` tokens.

    Prompt and injected tokens are not counted. An injection in the middle of a chunk, a change of the mask, a fresh
    context and the end of the run cut the chunk short.

    Raises:
        ValueError: `size` is less than 1.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a chunk holds at least one token, not {size}")
        self.size = size
        self.filled = 0
        """Decode tokens in the chunk so far."""

    @property
    def next_completes(self) -> bool:
        """True if the next decode token is the last of its chunk."""
        return self.filled == self.size - 1

    @property
    def missing(self) -> int:
        """Decode tokens until the chunk is complete."""
        return self.size - self.filled

    def advance(self) -> bool:
        """Count one decode token; return True if it completes a chunk."""
        self.filled = (self.filled + 1) % self.size
        return self.filled == 0

    def cut(self) -> bool:
        """End the chunk here; return True if it had any token."""
        held = self.filled > 0
        self.filled = 0
        return held
