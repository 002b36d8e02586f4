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


def by_package(engine: str, said: Iterable[tuple[str, str]]) -> list[str]:
    """Return the lines of `summed_up` for what each Python package said.

    Args:
        engine: its name, for what no package is known of.
        said: pairs of a package and a line, as `listening` yields them.
    """
    lines: dict[str, list[str]] = {}
    for package, line in said:
        lines.setdefault(package or engine, []).append(line)
    return [each for package in lines for each in summed_up(package, lines[package])]


@contextmanager
def listening() -> Iterator[list[tuple[str, str]]]:
    """Gather what Python packages warn of: `warnings.warn`, and log records of level WARNING and above.

    Yields:
        Pairs of a package, empty where it is not known, and a line.
    """
    said: list[tuple[str, str]] = []
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
        said.append((_package_of(filename), str(message)))
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


def _package_of(filename: str) -> str:
    """Return the installed package that a source file belongs to; empty for other files."""
    _, is_installed, inside = filename.rpartition("site-packages/")
    return _distribution(inside.partition("/")[0].removesuffix(".py")) if is_installed else ""


def _distribution(module: str) -> str:
    return module.replace("_", "-")


class _Gather(logging.Handler):
    def __init__(self, said: list[tuple[str, str]]) -> None:
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        package = "" if record.name == "root" else _distribution(record.name.partition(".")[0])
        self._said.append((package, record.getMessage()))
