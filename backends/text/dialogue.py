"""Tokens of the present context, and the conversation that they are."""

from __future__ import annotations

from collections.abc import Sequence

from moe_watch.backends.engine import Messages
from moe_watch.routing.events import PerturbationForm, TokenSource


class Dialogue:
    """Record of a context's tokens, and of the messages that they are.

    Tokens that follow a user's text belong to the model's answer, text that was injected raw included.

    Args:
        opening: messages that every context of the run begins with; None if the prompt is raw text, or comes from
            another session.
        ends: ids of end-of-text tokens.
    """

    def __init__(self, opening: Messages | None, ends: frozenset[int]) -> None:
        self.ids: list[int] = []
        """All tokens in the context."""
        self._opening = opening
        self._ends = ends
        self._messages: Messages = []
        self._answer: list[tuple[int, str]] = []
        """Id and text of the answer's tokens since the last text of the user."""
        self._takes_turn = False
        """Injected tokens belong to a turn of the user."""
        self.begin()

    @property
    def is_conversation(self) -> bool:
        """The chat template formats the context from its beginning."""
        return self._opening is not None

    def begin(self) -> None:
        """Begin an empty context."""
        self.ids = []
        self._messages = list(self._opening or ())
        self._answer = []

    def inject(self, text: str, form: PerturbationForm) -> None:
        """Announce an injection, whose tokens are added next."""
        self._takes_turn = form == "turn"
        if self._takes_turn:
            self._messages = self.with_turn(text)
            self._answer = []

    def rewind(self, length: int) -> None:
        """Remove all tokens after the first `length` ones; the messages stay."""
        del self.ids[length:]

    def add(self, tokens: Sequence[tuple[int, str]], source: TokenSource) -> None:
        """Add evaluated tokens: id and text of each."""
        self.ids += [token for token, _ in tokens]
        if source == "generated" or (source == "injected" and not self._takes_turn):
            self._answer += tokens

    def with_turn(self, text: str, *, answer: str | None = None) -> Messages:
        """Return the conversation so far with a further turn of the user.

        Args:
            text: text of the user.
            answer: text in place of the model's last answer; None for the answer as it was generated.
        """
        said = self.answer if answer is None else answer
        return [*self._messages, {"role": "assistant", "content": said}, {"role": "user", "content": text}]

    @property
    def answer(self) -> str:
        """Text of the model's last answer, without the end-of-text tokens at its end."""
        return "".join(text for _, text in self._answer[: len(self._answer) - self.final_ends])

    @property
    def final_ends(self) -> int:
        """Number of end-of-text tokens at the end of the context that belong to the model's answer."""
        count = 0
        while count < len(self._answer) and self._answer[-1 - count][0] in self._ends:
            count += 1
        return count
