"""Tokenizer of the embedded model, read from its `tokenizer.json` without transformers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer


class TokenizerFile:
    """Tokenizer of the `tokenizers` library, with the methods of mlx-lm's wrapper that `TextCodec` needs.

    It is for files without a chat template and without Python code. Other models load through mlx-lm, because
    transformers changes some tokenizers by their config.

    Args:
        folder: folder with `tokenizer.json` and `tokenizer_config.json`.
        ends: ids of further end-of-text tokens, from the model's config.
    """

    has_chat_template = False

    def __init__(self, folder: Path, ends: Iterable[int]) -> None:
        self.backend_tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        config = json.loads((folder / "tokenizer_config.json").read_bytes())
        self.eos_token_ids = {*ends, self.backend_tokenizer.token_to_id(config["eos_token"])}
        self._names = {name: config.get(name) for name in ("bos_token", "eos_token")}

    def variables(self) -> dict[str, object]:
        """Return the variables that a chat template of the user can use."""
        return {**self._names, "tools": None, "documents": None}

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool = False) -> list[int]:
        self.backend_tokenizer.encode_special_tokens = split_special_tokens
        return list(self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return str(self.backend_tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))
