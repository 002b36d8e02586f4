"""Windows of a text: pieces of its tokens that are each evaluated in an empty context."""

from __future__ import annotations

from collections.abc import Sequence

FEWEST_TOKENS = 2
"""Tokens of the shortest window; one token predicts none that is given."""


def windows(ids: Sequence[int], length: int, begin: int | None) -> list[list[int]]:
    """Cut the tokens of one text into windows, each of which begins as a text does.

    Args:
        ids: token ids, with or without the token that begins a text.
        length: tokens of a window, the beginning one included; at least `FEWEST_TOKENS`.
        begin: token that the tokenizer puts in front of every text; None if it puts none there.

    Returns:
        Windows of `length` tokens in order. The last one may be shorter; it is left out if it has fewer than
        `FEWEST_TOKENS`.

    Raises:
        ValueError: `length` is too small.
    """
    if length < FEWEST_TOKENS:
        raise ValueError(f"a window of {length} tokens")
    front = [] if begin is None else [begin]
    rest = list(ids[1:] if front and ids and ids[0] == begin else ids)
    step = length - len(front)
    cut = [front + rest[at : at + step] for at in range(0, len(rest), step)]
    return [each for each in cut if len(each) >= FEWEST_TOKENS]
