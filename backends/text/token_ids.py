"""Check of token ids against the embedding: an engine would read memory beyond it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from moe_watch.routing.errors import UserError

NO_END_OF_TEXT = "the model has no end-of-text token: a run does not stop by itself"
"""Warning of a loaded model."""


def check_token_ids(ids: Sequence[int], rows: int, model: str, text_of: Callable[[int], str]) -> None:
    """Refuse token ids beyond the embedding, with the first one in the message.

    Args:
        ids: tokens to evaluate.
        rows: number of rows of the embedding.
        model: name of the model, for the message.
        text_of: function from a token id to its text.

    Raises:
        UserError: a token id has no row.
    """
    if not ids or (min(ids) >= 0 and max(ids) < rows):
        return
    token = next(token for token in ids if not 0 <= token < rows)
    raise UserError(
        f"token {token} ({text_of(token)!r}) is not in the embedding of {model}, which has {rows:,} rows",
        advice="use the tokenizer that the model was trained with",
    )
