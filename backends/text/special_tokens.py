"""Special tokens of a vocabulary, which chat templates write: begin of text, end of turn, roles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Protocol


class SpecialTokens(Protocol):
    """Special tokens of a vocabulary."""

    def has(self, token: int) -> bool:
        """Return whether a token is special, or was added to the vocabulary."""

    def variables(self) -> Mapping[str, object]:
        """Return the variables that a chat template can use beside the messages."""


class AddedTokens:
    """Special tokens of a Hugging Face tokenizer, all of which are added tokens.

    Args:
        tokenizer: the tokenizer, or mlx-lm's wrapper of it.
        variables: function that returns the variables of its chat template.
    """

    def __init__(self, tokenizer: Any, variables: Callable[[], Mapping[str, object]]) -> None:
        self._tokenizer = tokenizer
        self.variables = variables

    @cached_property
    def _ids(self) -> frozenset[int]:
        fast = getattr(self._tokenizer, "backend_tokenizer", None)
        if fast is not None:
            return frozenset(fast.get_added_tokens_decoder())
        return frozenset(getattr(self._tokenizer, "all_special_ids", ()))

    def has(self, token: int) -> bool:
        return token in self._ids
