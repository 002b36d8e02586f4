"""Warnings that an engine logs while it loads a model, summarized as lines for the header."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO

LONGEST = 300
"""Characters of a line; texts from a model's file may have any length."""

VARIES = re.compile(r"'[^']*'|\"[^\"]*\"|\w+(?:\.\w+)+|\d+")
"""Parts in which messages of one kind differ: quoted texts, dotted names, numbers."""


def summarize(engine: str, logged: Iterable[str]) -> list[str]:
    """Return one line per kind of message: the first message, and the number that differ only in names or numbers.

    Args:
        engine: name of the engine or package.
        logged: lines as it logged them; lines without a letter are frames around others, and are left out.
    """
    kinds: dict[str, dict[str, None]] = {}
    for line in logged:
        plain = " ".join("".join(each if each.isprintable() else " " for each in line).split())
        if any(each.isalpha() for each in plain):
            kinds.setdefault(VARIES.sub("…", plain), {})[_shortened(plain)] = None
    return [f"{engine} logs: {next(iter(alike))}{_others(len(alike) - 1)}" for alike in kinds.values()]


def _shortened(line: str) -> str:
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


def _others(count: int) -> str:
    return f" (and {count:,} more like it)" if count else ""


def summarize_by_package(engine: str, logged: Iterable[tuple[str, str]]) -> list[str]:
    """Return the lines of `summarize` for the messages of each Python package.

    Args:
        engine: name of the engine, for messages whose package is not known.
        logged: pairs of a package and a line, as `captured_warnings` yields them.
    """
    lines: dict[str, list[str]] = {}
    for package, line in logged:
        lines.setdefault(package or engine, []).append(line)
    return [each for package in lines for each in summarize(package, lines[package])]


@contextmanager
def captured_warnings() -> Iterator[list[tuple[str, str]]]:
    """Capture the warnings of Python packages: `warnings.warn`, and log records of level WARNING and above.

    Yields:
        Pairs of a package, empty if it is not known, and a line.
    """
    logged: list[tuple[str, str]] = []
    handler = _Gather(logged)
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
        logged.append((_package_of(filename), str(message)))
        show(message, category, filename, lineno, file, line)

    warnings.showwarning = gather
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield logged
    finally:
        warnings.showwarning = show
        for logger in loggers:
            logger.removeHandler(handler)


def _apart() -> list[logging.Logger]:
    """Return loggers that do not propagate their records to the root, such as the logger of transformers."""
    known = (each for each in logging.Logger.manager.loggerDict.values() if isinstance(each, logging.Logger))
    return [each for each in known if not each.propagate]


def _package_of(filename: str) -> str:
    """Return the installed package of a source file; empty for other files."""
    _, is_installed, inside = filename.rpartition("site-packages/")
    return _distribution(inside.partition("/")[0].removesuffix(".py")) if is_installed else ""


def _distribution(module: str) -> str:
    return module.replace("_", "-")


class _Gather(logging.Handler):
    def __init__(self, logged: list[tuple[str, str]]) -> None:
        super().__init__(logging.WARNING)
        self._logged = logged

    def emit(self, record: logging.LogRecord) -> None:
        package = "" if record.name == "root" else _distribution(record.name.partition(".")[0])
        self._logged.append((package, record.getMessage()))
