"""Incremental detokenizers: no byte and no space is lost, and bytes without a character are marked."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models

from moe_watch.backends.model_files.catalog import locate
from moe_watch.backends.text.tokenizer import BROKEN, StreamDetokenizer
from moe_watch.backends.text.tokenizer_file import TokenizerFile
from tests.backends.tiny import byte_tokenizer

WORDS = ["▁dog", "▁", "dog", "▁Hello", ",", "é", "▁naïve", BROKEN]


def byte_fallback() -> Tokenizer:
    """As Llama's and Gemma's: words with their space, and a token for each byte."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
    vocabulary = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


FALLBACK = byte_fallback()


def pieces(tokenizer: Tokenizer, tokens: list[str]) -> list[str]:
    detokenizer = StreamDetokenizer(tokenizer)
    return [detokenizer.add(tokenizer.token_to_id(token)) for token in tokens]


def as_bytes(text: str) -> Iterator[str]:
    return (f"<0x{byte:02X}>" for byte in text.encode())


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["<0x0A>", "<0xE4>", "<0xBD>", "▁dog"], ["\n", "", "", f"{BROKEN} dog"]),
        (["<0xE4>", "<0xBD>", "<0xA0>", "▁dog"], ["", "", "你", " dog"]),
        (["<0xE4>", "<0x0A>", "dog"], ["", f"{BROKEN}\n", "dog"]),
        (["<0x0A>", "<0x0A>", "▁dog"], ["\n", "\n", " dog"]),
        (["<0xFF>", "<0x0A>", "<0xC3>", "<0xA9>"], [BROKEN, "\n", "", "é"]),
        (["▁Hello", ",", "▁dog"], ["Hello", ",", " dog"]),
        (["<s>", "▁Hello", "</s>", "▁dog"], ["<s>", " Hello", "</s>", " dog"]),
        (["▁dog", "<0xC3>", "</s>", "▁dog"], ["dog", "", f"{BROKEN}</s>", " dog"]),
        (["▁", "<0x0A>", "▁", "dog"], ["", "\n", " ", "dog"]),
        (["▁dog", BROKEN, "▁dog"], ["dog", "", f"{BROKEN} dog"]),
    ],
)
def test_bytes_that_make_no_character_leave_a_mark_and_nothing_else_changes(
    tokens: list[str], expected: list[str]
) -> None:
    assert pieces(FALLBACK, tokens) == expected


def test_any_text_comes_whole_from_bytes_and_words() -> None:
    draw = random.Random(0)
    for _ in range(300):
        parts = [draw.choice(["dog", "▁dog", "é", ",", *"\n你é🙂a"]) for _ in range(12)]
        tokens = [t for part in parts for t in (as_bytes(part) if len(part) == 1 and part not in "é," else [part])]
        text = "".join(parts).replace("▁", " ")
        assert "".join(pieces(FALLBACK, tokens)) == text.removeprefix(" ")


def test_broken_bytes_of_a_byte_level_tokenizer_do_not_hold_up_what_follows() -> None:
    """Any bytes: each whole character arrives, in its place, after any number of broken ones."""
    tokenizer, draw = byte_tokenizer(), random.Random(0)
    for _ in range(300):
        raw = bytes(draw.choice([0xE4, 0x80, 0xFF, 0xC3, 0x61, *"你🙂é".encode()]) for _ in range(12)) + b"!"
        detokenizer = StreamDetokenizer(tokenizer)
        text = "".join(detokenizer.add(ids_of_bytes(tokenizer)[byte]) for byte in raw)
        assert text.replace(BROKEN, "") == raw.decode(errors="ignore")
        assert (BROKEN in text) == (BROKEN in raw.decode(errors="replace"))


@cache
def ids_of_bytes(tokenizer: Tokenizer) -> dict[int, int]:
    """The token of each byte in GPT-2's alphabet: printable ones are themselves, the others 256 and up."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = dict(zip(printable, map(chr, printable), strict=True))
    letters |= {byte: chr(256 + rank) for rank, byte in enumerate(sorted({*range(256)} - {*printable}))}
    return {byte: tokenizer.token_to_id(letter) for byte, letter in letters.items()}


def test_special_tokens_in_a_plain_text_are_letters() -> None:
    """On the embedded model, whose tokenizer is read without transformers; the next text is not affected."""
    pocket = TokenizerFile(locate("pocket", "mlx").path or Path(), [])
    begin = pocket.encode("<s>", add_special_tokens=False)
    plain = pocket.encode("<s>", add_special_tokens=False, split_special_tokens=True)
    assert len(begin) == 1 < len(plain)
    assert pocket.decode(plain, skip_special_tokens=True) == "<s>"
    assert pocket.encode("<s>", add_special_tokens=False) == begin
