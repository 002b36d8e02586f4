"""Text to tokens and back, with Hugging Face tokenizers: chat turns, and detokenising as tokens come."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from backends.chat_template import ChatTemplate, Messages
from backends.engine import Detokenizer
from routing.errors import UserError


class TextCodec:
    """One model's tokenizer and chat template.

    Args:
        tokenizer: mlx-lm's wrapper of a Hugging Face tokenizer.
        name: the model's, for messages.
        template: finds the chat template; None if the tokenizer renders conversations by code of its own library.
    """

    def __init__(self, tokenizer: Any, name: str, template: Callable[[], ChatTemplate | None]) -> None:
        self._tokenizer = tokenizer
        self._name = name
        self._template = template

    @property
    def has_chat_template(self) -> bool:
        return bool(self._tokenizer.has_chat_template)

    @property
    def ends(self) -> frozenset[int]:
        """Ids of end-of-text tokens."""
        return frozenset(self._tokenizer.eos_token_ids)

    def encode(self, text: str, *, first: bool) -> list[int]:
        """Text as it is; `first` adds what the tokenizer puts in front of a text."""
        return list(self._tokenizer.encode(text, add_special_tokens=first))

    def encode_turn(self, text: str) -> list[int]:
        """A conversation's first turn, up to where the model answers."""
        return self.encode(self._render([{"role": "user", "content": text}]), first=False)

    def encode_next_turn(self, text: str, last: int | None) -> list[int]:
        """A further turn: ends the model's answer as its template does, asks, up to where the model answers again.

        Args:
            text: what the user says.
            last: the token that the context ends with; an end-of-text that is there already is not repeated.
        """
        answer = secrets.token_hex(8)
        conversation = [
            {"role": "user", "content": "-"},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": text},
        ]
        _, found, following = self._render(conversation).partition(answer)
        if not found:
            raise UserError(f"the chat template of {self._name} leaves answers out", advice="inject the text raw")
        ids = self.encode(following, first=False)
        return ids[1:] if ids and last in self.ends and ids[0] == last else ids

    def _render(self, messages: Messages) -> str:
        try:
            template = self._template()
            if template is not None:
                return template.render(messages)
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program of the model's own, and may raise anything
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"the chat template of {self._name} fails ({reason})", advice="use --raw") from error
        return str(text)

    def detokenizer(self) -> Detokenizer:
        """Incremental, for one context."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        return StreamDetokenizer(backend) if backend is not None else SegmentDetokenizer(self._tokenizer.detokenizer)


class StreamDetokenizer:
    """For tokenizers of the `tokenizers` library."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._stream = _new_stream()

    def add(self, token: int) -> str:
        try:
            text = self._stream.step(self._tokenizer, token)
        except Exception:  # the library raises nothing narrower where earlier text no longer decodes to the same
            self._stream = _new_stream()
            text = self._stream.step(self._tokenizer, token)
        return text or ""


def _new_stream() -> Any:
    from tokenizers.decoders import DecodeStream

    return DecodeStream(skip_special_tokens=False)


class SegmentDetokenizer:
    """For other tokenizers, by mlx-lm."""

    def __init__(self, detokenizer: Any) -> None:
        self._detokenizer = detokenizer

    def add(self, token: int) -> str:
        self._detokenizer.add_token(token)
        return str(self._detokenizer.last_segment)
