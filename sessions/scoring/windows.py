"""Windows of a text: pieces of its tokens that are each evaluated in an empty context."""

from __future__ import annotations

from collections.abc import Sequence

from moe_watch.routing.errors import UserError

WINDOW = 512
"""Tokens of a window, unless the user gives another number. The default of llama.cpp's perplexity tool."""
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


def chosen_window(given: int | None, trained: int | None, context: int | None) -> int:
    """Return the number of tokens of a window.

    Args:
        given: the user's number; None for the default.
        trained: longest sequence in training; None if the model does not state it.
        context: longest context that is loaded; None if it is unknown.

    Raises:
        UserError: the user's number is too small, or exceeds the context.
    """
    limits = [each for each in (trained, context) if each is not None]
    if given is None:
        return max(FEWEST_TOKENS, min([WINDOW, *limits]))
    if given < FEWEST_TOKENS:
        raise UserError(f"--window is {given}", advice=f"a window has at least {FEWEST_TOKENS} tokens")
    if context is not None and given > context:
        raise UserError(f"--window is {given}, but the context has {context:,} tokens", advice="use fewer")
    return given
