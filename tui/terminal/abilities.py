"""Abilities of a terminal: size, colours, encoding, and the width of the characters that the panels draw with."""

from __future__ import annotations

import os
import re
import select
import sys
import termios
import time
import tty
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, TextIO, TypeGuard

from textual import constants

LEAST_WIDTH, LEAST_HEIGHT = 60, 16
"""Smallest terminal that the dashboard draws in, in cells."""
FULL_WIDTH, FULL_HEIGHT = 80, 24
"""Smallest terminal with all parts of the dashboard."""

ColourDepth = Literal["truecolor", "256", "16", "none"]
DEPTHS: dict[str | None, ColourDepth] = {"truecolor": "truecolor", "256": "256", "standard": "16", "windows": "16"}
"""Colour depth by rich's name of the colour system."""

DRAWN: dict[str, str] = {"blocks": "█▁▒", "braille": "⠁⣿", "lines": "─┊╵", "arrows": "⟶◆"}
"""Characters of the panels by kind. Each must be one cell wide, as the layout assumes."""
ANSWER_SECONDS = 0.5
"""Longest wait for the terminal to report the cursor's position; over a slow connection it takes some 0.2 s."""
POSITION = re.compile(rb"\x1b\[\d+;(\d+)R")
"""Cursor position report (ECMA-48 CPR)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TerminalAbilities:
    """Abilities of the terminal of this process."""

    is_terminal: bool
    """Standard input and output are a terminal that can draw."""
    columns: int = 0
    rows: int = 0
    colours: ColourDepth = "none"
    without_colours: str = ""
    """Reason why no colours are used; empty if they are, or if there is no terminal."""
    encoding: str = ""
    """Encoding of standard output."""
    widths: Mapping[str, int] | None = None
    """Measured width of each string of `DRAWN`, in cells, by kind; None if the terminal did not answer, or was not
    asked."""

    @property
    def encodes_panels(self) -> bool:
        """The encoding has all characters of the panels."""
        try:
            "".join(DRAWN.values()).encode(self.encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            return False
        return True

    @property
    def wrong_widths(self) -> list[str]:
        """Kinds of characters that are not one cell wide each."""
        measured = self.widths or {}
        return [kind for kind, width in measured.items() if width != len(DRAWN[kind])]


def terminal_abilities(
    environment: Mapping[str, str] = os.environ,
    source: TextIO | None = None,
    target: TextIO | None = None,
    *,
    measure: bool = True,
) -> TerminalAbilities:
    """Return the abilities of a terminal.

    Args:
        environment: variables of the process.
        source: the terminal's input; None for the process's standard input, which a running dashboard has replaced.
        target: the terminal's output; None for the process's standard output.
        measure: write the panels' characters and ask for their width. Not while a screen is drawn.
    """
    read, write = source or sys.__stdin__, target or sys.__stdout__
    encoding = getattr(write, "encoding", None) or ""
    if not (_is_terminal(read) and _is_terminal(write)) or environment.get("TERM") == "dumb":
        return TerminalAbilities(is_terminal=False, encoding=encoding)
    columns, rows = _size(write)
    depth, reason = _colours(environment)
    found = TerminalAbilities(
        is_terminal=True, columns=columns, rows=rows, colours=depth, without_colours=reason, encoding=encoding
    )
    if not measure or not found.encodes_panels:
        return found
    return replace(found, widths=_measured(read.fileno(), write.fileno(), encoding))


def _is_terminal(stream: TextIO | None) -> TypeGuard[TextIO]:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def _size(stream: TextIO) -> tuple[int, int]:
    try:
        columns, rows = os.get_terminal_size(stream.fileno())
    except OSError:
        return 0, 0
    return columns, rows


def _colours(environment: Mapping[str, str]) -> tuple[ColourDepth, str]:
    """Return the colour depth that textual uses, and the reason if it uses none."""
    if "NO_COLOR" in environment:
        return "none", "NO_COLOR is set"
    from rich.console import Console

    system = constants.COLOR_SYSTEM if constants.COLOR_SYSTEM != "auto" else None
    console = Console(force_terminal=True, color_system=system or "auto", _environ=environment)  # type: ignore[arg-type]
    depth = DEPTHS.get(console.color_system, "none")
    return depth, "" if depth != "none" else f"TERM is {environment.get('TERM', 'not set')}"


# -- widths


def _measured(read: int, write: int, encoding: str) -> dict[str, int] | None:
    """Return the width of each string of `DRAWN` in cells; None if the terminal does not report its cursor.

    Each string is written at the beginning of the line, and the cursor's column is asked for; the line is erased.
    """
    with suppress(termios.error, OSError):
        before = termios.tcgetattr(read)
        tty.setcbreak(read, termios.TCSADRAIN)
        try:
            widths: dict[str, int] = {}
            for kind, text in DRAWN.items():
                os.write(write, b"\r" + text.encode(encoding) + b"\x1b[6n")
                column = _column(read)
                os.write(write, b"\r\x1b[K")
                if column is None:
                    return None
                widths[kind] = column - 1
            return widths
        finally:
            termios.tcsetattr(read, termios.TCSADRAIN, before)
    return None


def _column(read: int) -> int | None:
    """Return the column in the terminal's next report of its cursor; None if none comes. Keys typed before are lost."""
    said, deadline = b"", time.monotonic() + ANSWER_SECONDS
    while (left := deadline - time.monotonic()) > 0 and len(said) < 4096:
        if not select.select([read], [], [], left)[0]:
            break
        part = os.read(read, 64)
        if not part:
            break
        said += part
        if (found := POSITION.search(said)) is not None:
            return int(found[1])
    return None
