"""Token ids that a model has no row for: an engine would read whatever lies behind its embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from moe_watch.routing.errors import UserError


def check_token_ids(ids: Sequence[int], rows: int, model: str, text_of: Callable[[int], str]) -> None:
    """Refuse tokens beyond the embedding, the first one by name.

    Args:
        ids: what is to be evaluated.
        rows: of the embedding.
        model: its name, for the message.
        text_of: what a token stands for.

    Raises:
        UserError: there is one.
    """
    if not ids or (min(ids) >= 0 and max(ids) < rows):
        return
    token = next(token for token in ids if not 0 <= token < rows)
    raise UserError(
        f"token {token} ({text_of(token)!r}) is none of {model}'s: its embedding has {rows:,} rows",
        advice="use the tokenizer that the model was made with",
    )
