"""Warnings that an engine logs while it loads a model, as lines for the header."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO

LONGEST = 300
"""Characters of a line; what comes from a model's file may be of any length."""

VARIES = re.compile(r"'[^']*'|\"[^\"]*\"|\w+(?:\.\w+)+|\d+")
"""Parts in which messages of one kind differ: quoted texts, names with dots, numbers."""


def summed_up(engine: str, said: Iterable[str]) -> list[str]:
    """Return one line per kind of message: the first of them, and how many others differ in names or numbers only.

    Args:
        engine: its name.
        said: lines as it logged them; those without a letter frame others, and are left out.
    """
    kinds: dict[str, dict[str, None]] = {}
    for line in said:
        plain = " ".join("".join(each if each.isprintable() else " " for each in line).split())
        if any(each.isalpha() for each in plain):
            kinds.setdefault(VARIES.sub("…", plain), {})[_shortened(plain)] = None
    return [f"{engine} says: {next(iter(alike))}{_others(len(alike) - 1)}" for alike in kinds.values()]


def _shortened(line: str) -> str:
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


def _others(count: int) -> str:
    return f" (and {count:,} more like it)" if count else ""


@contextmanager
def listening() -> Iterator[list[str]]:
    """Gather what Python packages warn of: `warnings.warn`, and log records of level WARNING and above."""
    said: list[str] = []
    handler = _Gather(said)
    loggers = [logging.getLogger(), *_apart()]
    show = warnings.showwarning

    def gather(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        said.append(str(message))
        show(message, category, filename, lineno, file, line)

    warnings.showwarning = gather
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield said
    finally:
        warnings.showwarning = show
        for logger in loggers:
            logger.removeHandler(handler)


def _apart() -> list[logging.Logger]:
    """Loggers that do not hand their records on to the root, such as transformers'."""
    known = (each for each in logging.Logger.manager.loggerDict.values() if isinstance(each, logging.Logger))
    return [each for each in known if not each.propagate]


class _Gather(logging.Handler):
    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append(record.getMessage())
