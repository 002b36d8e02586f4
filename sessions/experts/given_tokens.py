"""Windows of given tokens for an ablation, from a corpus or from a recorded session."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np

from moe_watch.routing.arrays import Floats
from moe_watch.routing.errors import UserError
from moe_watch.routing.stats.token_blocks import BLOCK, FEWEST_BLOCKS, block_sizes
from moe_watch.sessions.library.lookup import session_file
from moe_watch.sessions.live.shared_worker import KeptWorker
from moe_watch.sessions.live.teacher_forcing import teacher_script
from moe_watch.sessions.scoring.corpus import read_corpus
from moe_watch.sessions.scoring.windows import FEWEST_TOKENS, windows
from moe_watch.sessions.text import plural, whole_text

FEWEST_WINDOWS = 2
BATCH = 32
"""Examples of a corpus that are tokenized at once."""


@dataclass(frozen=True, slots=True)
class GivenTokens:
    """Tokens to evaluate, in windows."""

    kind: Literal["corpus", "session"]
    name: str
    """Path of the file as the user named it."""
    windows: list[list[int]]
    length: int
    """Largest number of tokens of a window."""

    @property
    def predicted(self) -> int:
        """Number of tokens that are predicted: all except the first of each window."""
        return sum(len(window) - 1 for window in self.windows)

    @property
    def sha256(self) -> str:
        """SHA-256 of the token ids of all windows, with a separator between windows."""
        digest = sha256()
        for window in self.windows:
            digest.update(np.array([*window, -1], "<i8").tobytes())
        return digest.hexdigest()

    @property
    def blocks(self) -> list[list[int]]:
        """Predicted tokens of each block of each window."""
        return [block_sizes(len(window) - 1) for window in self.windows]

    @property
    def block_tokens(self) -> Floats:
        """Predicted tokens of each block of all windows [B]."""
        return np.array([size for sizes in self.blocks for size in sizes], np.float64)


def corpus_tokens(worker: KeptWorker, path: Path, length: int, most: int) -> GivenTokens:
    """Return the tokens of a corpus, example by example.

    Args:
        worker: tokenizes the corpus.
        path: file of the corpus.
        length: largest number of tokens of a window.
        most: largest number of tokens.

    Raises:
        UserError: the corpus cannot be read, or is too short.
    """
    examples = read_corpus(path).examples
    texts: list[list[int]] = []
    begin: int | None = None
    for at in range(0, len(examples), BATCH):
        answer = worker.tokenize([example.text for example in examples[at : at + BATCH]])
        texts += answer.ids
        begin = answer.begin
        if sum(map(len, texts)) >= most:
            break
    return _given("corpus", path, texts, begin, length, most)


def session_tokens(worker: KeptWorker, path: Path, length: int, most: int) -> GivenTokens:
    """Return the tokens of a recorded session, prompt included, context by context.

    Args:
        worker: has the model that evaluates the tokens.
        path: file or name of the session.
        length: largest number of tokens of a window.
        most: largest number of tokens.

    Raises:
        UserError: the session cannot be read, is of another tokenizer, or is too short.
    """
    answer = worker.check_session(teacher_script(session_file(path)).tokens)
    return _given("session", path, answer.ids, answer.begin, length, most)


def _given(
    kind: Literal["corpus", "session"],
    path: Path,
    texts: Iterable[Sequence[int]],
    begin: int | None,
    length: int,
    most: int,
) -> GivenTokens:
    found = GivenTokens(kind, whole_text(str(path)), _limited(texts, begin, length, most), length)
    if len(found.windows) < FEWEST_WINDOWS or len(found.block_tokens) < FEWEST_BLOCKS:
        tokens = plural(sum(map(len, found.windows)), "token")
        raise UserError(
            f"{path}: {tokens} in {plural(len(found.windows), 'window')} of at most {length}, and an ablation needs"
            f" {FEWEST_WINDOWS} windows and {FEWEST_BLOCKS} blocks of {BLOCK} tokens",
            advice="give a longer text, or a smaller --window",
        )
    return found


def _limited(texts: Iterable[Sequence[int]], begin: int | None, length: int, most: int) -> list[list[int]]:
    """Return the windows of texts, up to a number of tokens; the last window is cut."""
    found: list[list[int]] = []
    left = most
    for ids in texts:
        for window in windows(ids, length, begin):
            if left < FEWEST_TOKENS:
                return found
            found.append(window[:left])
            left -= len(found[-1])
    return found
