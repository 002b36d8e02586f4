"""Hugging Face tokenizers: chat turns as token ids, and incremental detokenizers."""

from __future__ import annotations

import codecs
import os
import secrets
from collections.abc import Callable, Sequence
from functools import cached_property
from hashlib import sha256
from typing import Any

from msgspec.structs import replace

from moe_watch.backends.engine import Detokenizer, Messages
from moe_watch.backends.text.chat_template import ChatTemplate, TemplateError, awaits_answer
from moe_watch.backends.text.special_tokens import SpecialTokens
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import TemplateSource

BROKEN = "\N{REPLACEMENT CHARACTER}"
LONGEST_CHARACTER = 4
"""Bytes of a character in UTF-8."""


class TemplateFailure(UserError):  # noqa: N818 - named like the others
    """A chat template that fails on a conversation."""

    def __init__(self, whose: str, reason: str) -> None:
        super().__init__(f"the chat template {whose} fails ({reason})", advice="use --raw")
        self.reason = reason
        """The template's own message, or that of the library."""


class TextCodec:
    """Tokenizer and chat template of one model.

    Args:
        tokenizer: mlx-lm's wrapper of a Hugging Face tokenizer.
        name: name of the model, for messages.
        template: function that returns the chat template; None if the tokenizer's library renders by its own code.
        special: special tokens of the vocabulary.
    """

    def __init__(
        self, tokenizer: Any, name: str, template: Callable[[], ChatTemplate | None], special: SpecialTokens
    ) -> None:
        self._tokenizer = tokenizer
        self._name = name
        self._template = template
        self._special = special
        self._file: str | None = None
        """Name of the file of the user that has the chat template."""

    @property
    def has_chat_template(self) -> bool:
        return self._file is not None or bool(self._tokenizer.has_chat_template)

    @property
    def template(self) -> TemplateSource | None:
        """Origin of the chat template; None without one."""
        if not self.has_chat_template:
            return None
        found = self._template()
        if found is None:
            return TemplateSource(origin="library")
        origin = (
            TemplateSource(origin="model") if self._file is None else TemplateSource(origin="file", name=self._file)
        )
        return replace(origin, sha256=sha256(found.source.encode(errors="replace")).hexdigest())

    def replace_template(self, source: str, name: str) -> None:
        """Use another chat template: its Jinja source, and the name of its file."""
        template = ChatTemplate(source, self._special.variables())
        self._template, self._file = lambda: template, name

    @cached_property
    def begin(self) -> int | None:
        """Id of the token that the tokenizer puts in front of every text; None if it puts none there."""
        ids = self.encode("a", first=True)
        return ids[0] if len(ids) > len(self.encode("a", first=False)) and self._special.has(ids[0]) else None

    def is_special(self, token: int) -> bool:
        """Return whether a token is one of the vocabulary's special or added tokens."""
        return self._special.has(token)

    @property
    def ends(self) -> frozenset[int]:
        """Ids of end-of-text tokens."""
        return frozenset(self._tokenizer.eos_token_ids)

    def encode(self, text: str, *, first: bool, plain: bool = False) -> list[int]:
        """Return the token ids of raw text; `first` adds the special tokens that begin a text.

        With `plain`, special tokens that are written in the text are plain text.
        """
        options = {"split_special_tokens": True} if plain else {}
        return list(self._tokenizer.encode(text, add_special_tokens=first, **options))

    def decode(self, ids: list[int]) -> str:
        """Return the text of these tokens, including special ones; negative ids are skipped."""
        return str(self._tokenizer.decode([token for token in ids if token >= 0], skip_special_tokens=False))

    def encode_turn(self, text: str) -> list[int]:
        """Return the token ids of a conversation's first turn, up to the start of the model's answer."""
        return self.encode(self.render([[{"role": "user", "content": text}]])[0], first=False)

    def encode_next_turn(self, text: str, last: int | None) -> list[int]:
        """Return the token ids of a further turn: the template's end of an answer, the user's text, the next answer.

        Args:
            text: text of the user.
            last: last token of the context; an end-of-text token that is already there is not repeated.

        Raises:
            UserError: the template fails, or leaves answers out.
        """
        answer = secrets.token_hex(8)
        conversation = [
            {"role": "user", "content": "-"},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": text},
        ]
        _, found, following = self.render([conversation])[0].partition(answer)
        if not found:
            raise UserError(f"the chat template of {self._name} leaves out answers", advice="inject the text raw")
        ids = self.encode(following, first=False)
        return ids[1:] if ids and last in self.ends and ids[0] == last else ids

    def render(self, conversations: Sequence[Messages]) -> list[str]:
        """Return the text of each conversation as the chat template writes it.

        After a message of the user the beginning of the model's answer follows.

        Raises:
            TemplateFailure: the template fails.
        """
        try:
            template = self._template()
            if template is None:
                return [self._rendered(messages) for messages in conversations]
            return [_checked(text) for text in template.render_each(conversations)]
        except Exception as error:  # a template is a program, and may raise anything
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise TemplateFailure(f"of {self._name}" if self._file is None else self._file, reason) from error

    def _rendered(self, messages: Messages) -> str:
        asks = awaits_answer(messages)
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks))

    def detokenizer(self) -> Detokenizer:
        """Return an incremental detokenizer for one context."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        return StreamDetokenizer(backend) if backend is not None else SegmentDetokenizer(self._tokenizer.detokenizer)


def _checked(text: str | TemplateError) -> str:
    if isinstance(text, TemplateError):
        raise text
    return text


class StreamDetokenizer:
    """Detokenizer for tokenizers of the `tokenizers` library.

    Byte tokens are joined here, because the library replaces all bytes of a sequence if one of them is invalid. Other
    tokens are decoded together with the tokens before them, which decide about spaces.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._bytes = _byte_tokens(tokenizer)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._context: list[int] = []
        """Tokens of the text that was returned last."""
        self._pending: list[int] = []
        """Tokens after it, which end inside a character."""

    def add(self, token: int) -> str:
        byte = self._bytes.get(token)
        if byte is None:
            broken = self._utf8.decode(b"", final=True)
            return broken + self._whole(token)
        self._context = [next(iter(self._bytes))]  # a byte's text needs no space, and ends no word
        return self._utf8.decode(bytes([byte]))

    def _whole(self, token: int) -> str:
        self._pending.append(token)
        text = self._decode(self._context + self._pending)
        if not text.endswith(BROKEN):
            return self._return(len(self._pending), text)
        if len(self._pending) < LONGEST_CHARACTER:
            return ""
        return self._return(1, self._decode(self._context + self._pending[:1]))  # no character is this long

    def _return(self, tokens: int, text: str) -> str:
        """Return the text that the first pending tokens add to the text of the context."""
        before = os.path.commonprefix([self._decode(self._context), text])  # noqa: RUF071 - of characters
        self._context, self._pending = self._pending[:tokens], self._pending[tokens:]
        return text[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False)) if ids else ""


def _byte_tokens(tokenizer: Any) -> dict[int, int]:
    """Return the byte of each byte token (such as `<0x0A>`) by token id, with the byte of a letter first."""
    if tokenizer.decoder is None or b'"ByteFallback"' not in tokenizer.decoder.__getstate__():
        return {}
    ids = {tokenizer.token_to_id(f"<0x{byte:02X}>"): byte for byte in (ord("a"), *range(256))}
    return {token: byte for token, byte in ids.items() if token is not None}


class SegmentDetokenizer:
    """Detokenizer for other tokenizers, by mlx-lm."""

    def __init__(self, detokenizer: Any) -> None:
        self._detokenizer = detokenizer

    def add(self, token: int) -> str:
        self._detokenizer.add_token(token)
        return str(self._detokenizer.last_segment)
