"""Abilities of a terminal: a real pseudo-terminal that reports its cursor as a given terminal would."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from moe_watch.tui.terminal.abilities import DRAWN, TerminalAbilities, terminal_abilities
from moe_watch.tui.terminal.checks import terminal_checks

TRUE = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}


@contextmanager
def terminal(width: Callable[[str], int] | None, size: tuple[int, int] = (120, 40)) -> Iterator[io.TextIOWrapper]:
    """A terminal that draws a character `width` cells wide; None for one that never answers."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))

    def answer() -> None:
        said = b""
        while True:
            try:
                part = os.read(master, 1024)
            except OSError:
                return
            said += part
            while (asked := re.search(rb"\r([^\r]*)\x1b\[6n", said)) is not None:
                if width is not None:
                    column = 1 + sum(map(width, asked[1].decode()))
                    os.write(master, f"\x1b[12;{column}R".encode())
                said = said[asked.end() :]

    threading.Thread(target=answer, daemon=True).start()
    with open(slave, "r+b", buffering=0) as raw, io.TextIOWrapper(raw, encoding="utf-8") as stream:
        yield stream
    os.close(master)


def abilities(environment: dict[str, str], width: Callable[[str], int] | None = lambda _: 1, **options: object):
    with terminal(width, **options) as stream:
        before = termios.tcgetattr(stream.fileno())
        found = terminal_abilities(environment, stream, stream)
        assert termios.tcgetattr(stream.fileno()) == before
    return found


def statuses(found: TerminalAbilities) -> dict[str, tuple[str, str]]:
    return {check.name: (check.status, check.value) for check in terminal_checks(found)}


def test_a_modern_terminal() -> None:
    found = abilities(TRUE)
    assert (found.columns, found.rows, found.colours) == (120, 40, "truecolor")
    assert found.widths == {kind: len(text) for kind, text in DRAWN.items()}
    assert {status for status, _ in statuses(found).values()} == {"ok"}


def test_wide_ambiguous_characters_are_found() -> None:
    found = abilities(TRUE, lambda character: 2 if character in "⟶◆" else 1)
    assert found.wrong_widths == ["arrows"]
    assert statuses(found)["characters"] == ("warning", "arrows: 4 cells for 2")


def test_a_terminal_that_does_not_answer() -> None:
    found = abilities(TRUE, None)
    assert found.widths is None
    assert statuses(found)["characters"][0] == "ok"
    assert "not measured" in statuses(found)["characters"][1]


@pytest.mark.parametrize(
    ("environment", "depth", "status"),
    [
        (TRUE, "truecolor", "ok"),
        ({"TERM": "xterm-256color"}, "256", "ok"),
        ({"TERM": "xterm"}, "16", "warning"),
        (TRUE | {"NO_COLOR": ""}, "none", "warning"),
    ],
)
def test_colours(environment: dict[str, str], depth: str, status: str) -> None:
    found = abilities(environment)
    assert found.colours == depth
    assert statuses(found)["colours"][0] == status


@pytest.mark.parametrize(
    ("size", "status"), [((59, 24), "fail"), ((60, 15), "fail"), ((79, 24), "warning"), ((80, 24), "ok")]
)
def test_size(size: tuple[int, int], status: str) -> None:
    assert statuses(abilities(TRUE, size=size))["terminal"] == (status, f"{size[0]}×{size[1]}")


def test_an_encoding_without_the_panels_characters() -> None:
    found = TerminalAbilities(is_terminal=True, columns=80, rows=24, colours="256", encoding="ascii")
    assert statuses(found)["characters"] == ("fail", "the encoding ascii lacks the characters of the panels")


@pytest.mark.parametrize("environment", [TRUE, {"TERM": "dumb"}])
def test_no_terminal(environment: dict[str, str]) -> None:
    found = terminal_abilities(environment, io.StringIO(), io.StringIO())
    assert not found.is_terminal
    assert list(statuses(found)) == ["terminal"]
