"""Training text of pocket: the source of the Python standard library that runs this script.

The corpus is a pure function of the interpreter's exact version, so the version and the SHA-256 of
the text are written into pocket's configuration and checked when the recipe is run again.
"""

from __future__ import annotations

import hashlib
import pathlib
import random
import sysconfig
from dataclasses import dataclass

LEFT_OUT = frozenset(
    {"test", "tests", "idle_test", "site-packages", "__pycache__", "encodings", "lib2to3", "pydoc_data"}
)
"""Excluded folders: tests, installed packages and lookup tables."""

HELD_OUT_SHARE = 0.03


@dataclass(frozen=True)
class Corpus:
    """Whole source files, split by file into training and held-out text."""

    training: tuple[str, ...]
    held_out: tuple[str, ...]
    sha256: str

    @property
    def megabytes(self) -> float:
        """Size of all text as UTF-8, in MB of 1,000,000 bytes."""
        return sum(len(text.encode()) for text in self.training + self.held_out) / 1e6


def read_corpus(library: pathlib.Path | None = None, *, seed: int = 0) -> Corpus:
    """Read every module of the standard library under `library`, shuffled and split by `seed`."""
    library = library or pathlib.Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(path for path in library.rglob("*.py") if LEFT_OUT.isdisjoint(path.relative_to(library).parts))
    digest = hashlib.sha256()
    texts = []
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        name = path.relative_to(library).as_posix()
        digest.update(f"{name}\n{len(text)}\n".encode() + text.encode())
        texts.append(text)
    random.Random(seed).shuffle(texts)
    held_out = max(1, round(len(texts) * HELD_OUT_SHARE))
    return Corpus(tuple(texts[held_out:]), tuple(texts[:held_out]), digest.hexdigest())
