"""Texts and conversations of one request: each becomes tokens in its place."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from moe_watch.backends.scoring.windows import WindowScoring
from moe_watch.backends.scoring_messages import Tokenize
from moe_watch.routing.errors import UserError


class TextEngine:
    """Engine whose tokens are code points, after a beginning token 1."""

    model = SimpleNamespace(name="made")

    def __init__(self, *, template: bool = True, fails: bool = False) -> None:
        self.has_chat_template = template
        render = self._fail if fails else self._render
        self.codec = SimpleNamespace(begin=1, render=render, encode=self._encode)

    def encode(self, text: str, *, turn: bool, first: bool) -> list[int]:
        assert not turn
        return self._encode(text, first=first)

    @staticmethod
    def _encode(text: str, *, first: bool, plain: bool = False) -> list[int]:
        assert not plain
        return [*([1] if first else []), *map(ord, text)]

    @staticmethod
    def _render(conversations: Any) -> list[str]:
        return ["".join(f"<{each['role'][0]}>{each['content']}" for each in messages) for messages in conversations]

    @staticmethod
    def _fail(conversations: Any) -> list[str]:
        raise UserError("the chat template of made fails (no system)", advice="use --raw")


SAID = [{"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]


def scoring(**options: bool) -> WindowScoring:
    return WindowScoring(TextEngine(**options))  # type: ignore[arg-type]  # the part that is used


def test_texts_and_conversations_keep_their_order() -> None:
    found = scoring().tokenize(Tokenize(texts=["a", SAID, "d", SAID]))
    conversation = list(map(ord, "<u>b<a>c"))  # the template writes what begins a text
    assert found.ids == [[1, ord("a")], conversation, [1, ord("d")], conversation]
    assert found.begin == 1


def test_a_model_without_a_template_takes_texts_only() -> None:
    plain = scoring(template=False)
    assert plain.tokenize(Tokenize(texts=["a"])).ids == [[1, ord("a")]]
    with pytest.raises(UserError, match="made has no chat template, and the texts have conversations: give"):
        plain.tokenize(Tokenize(texts=["a", SAID]))


def test_a_template_that_fails_has_advice_that_fits() -> None:
    with pytest.raises(UserError, match=r"fails \(no system\): give them as plain texts"):
        scoring(fails=True).tokenize(Tokenize(texts=[SAID]))
