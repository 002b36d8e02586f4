"""Counts of generated tokens and chunks."""

from __future__ import annotations

from moe_watch.routing.chunks import ChunkClock


class ChunkCounter:
    """Counter of a run's decode tokens and whole chunks.

    Args:
        chunk_size: tokens per chunk.
        tokens: number of tokens to generate; None is no limit.
    """

    def __init__(self, chunk_size: int, tokens: int | None) -> None:
        self.left = tokens
        """Number of tokens that remain to be generated; None is no limit."""
        self.whole = 0
        """Number of chunks that were not cut short."""
        self._clock = ChunkClock(chunk_size)

    @property
    def filled(self) -> int:
        """Number of tokens in the present chunk."""
        return self._clock.filled

    @property
    def next_whole(self) -> int | None:
        """Number of whole chunks after the next token, if it completes one; otherwise None."""
        return self.whole + 1 if self._clock.next_completes else None

    def count(self) -> bool:
        """Count a token; returns whether it completes its chunk."""
        if self.left is not None:
            self.left -= 1
        completed = self._clock.advance()
        self.whole += completed
        return completed

    def cut(self) -> None:
        """End the present chunk early."""
        self._clock.cut()
