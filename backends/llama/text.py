"""Tokenizer of llama.cpp with the methods that `TextCodec` needs, and an incremental detokenizer."""

from __future__ import annotations

import codecs
import ctypes
from typing import Any

from llama_cpp import llama_cpp as lib

from moe_watch.backends.text.chat_template import ChatTemplate

SPECIAL = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_USER_DEFINED
"""Attributes of the tokens of special tokens, and of tokens added to the vocabulary."""

LONGEST_PIECE = 256
"""Bytes of the first buffer for a token; longer tokens need a second call."""


class LlamaTokenizer:
    """Vocabulary and chat template of a model, with the methods of a Hugging Face tokenizer.

    Args:
        model: the loaded model, which must outlive this object.
    """

    def __init__(self, model: Any) -> None:
        self._vocab = lib.llama_model_get_vocab(model)
        self.vocabulary = int(lib.llama_vocab_n_tokens(self._vocab))
        self.eos_token_ids = {token for token in range(self.vocabulary) if lib.llama_vocab_is_eog(self._vocab, token)}
        self._pieces: dict[tuple[int, bool], bytes] = {}
        """Cache of pieces, because every generated token needs one."""
        template = lib.llama_model_chat_template(model, None)
        self._template = template.decode(errors="replace") if template else None

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None

    @property
    def begin(self) -> int:
        """Token that a text may begin with: the begin-of-text token if there is one, else token 0."""
        return max(0, int(lib.llama_vocab_bos(self._vocab)))

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool = False) -> list[int]:
        """Return the token ids of a text.

        Args:
            text: the text.
            add_special_tokens: add the special tokens that begin and end a text.
            split_special_tokens: read special tokens that are written in the text as plain text.
        """
        data = text.encode(errors="replace")
        parse = not split_special_tokens
        room = len(data) + 2  # and the special tokens that begin and end a text
        while True:
            ids = (lib.llama_token * room)()
            count = lib.llama_tokenize(self._vocab, data, len(data), ids, room, add_special_tokens, parse)
            if count >= 0:
                return list(ids[:count])
            room = -count

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        """Return the text of these tokens."""
        kept = (token for token in ids if not (skip_special_tokens and self.has(token)))
        return b"".join(map(self.piece, kept)).decode(errors="replace")

    def jinja_template(self) -> ChatTemplate | None:
        """Return the chat template, with the special tokens that it may write; None if the model has none."""
        if self._template is None:
            return None
        return ChatTemplate(self._template, self.variables())

    def variables(self) -> dict[str, object]:
        """Return the variables that a chat template can use beside the messages."""
        begin, end = lib.llama_vocab_bos(self._vocab), lib.llama_vocab_eos(self._vocab)
        absent = dict.fromkeys(("functions", "function_call", "tools", "tool_choice", "documents"))
        return {**absent, "bos_token": self._special(begin), "eos_token": self._special(end)}

    def has(self, token: int) -> bool:
        """Return whether a token is special, or was added to the vocabulary."""
        return bool(lib.llama_vocab_get_attr(self._vocab, token) & SPECIAL)

    def _special(self, token: int) -> str:
        return self.piece(token).decode(errors="replace") if token >= 0 else ""

    def piece(self, token: int, *, strip: bool = False) -> bytes:
        """Return the bytes of a token; special tokens as they are written. `strip` removes a leading space."""
        known = self._pieces.get((token, strip))
        if known is None:
            known = self._pieces[token, strip] = self._piece(token, strip=strip)
        return known

    def _piece(self, token: int, *, strip: bool) -> bytes:
        room = LONGEST_PIECE
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = lib.llama_token_to_piece(self._vocab, token, buffer, room, int(strip), True)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    @property
    def adds_space(self) -> bool:
        """The tokenizer puts a space in front of a text, as SentencePiece does."""
        ids = self.encode("a", add_special_tokens=False)
        return bool(ids) and self.piece(ids[0]).startswith(b" ")


class ByteDetokenizer:
    """Detokenizer that joins the bytes of successive tokens; a character is returned with the last of its bytes."""

    def __init__(self, tokenizer: LlamaTokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._strips = tokenizer.adds_space

    def add(self, token: int) -> str:
        piece = self._tokenizer.piece(token, strip=self._strips)
        self._strips = False
        return self._decoder.decode(piece)
