"""What becomes of terminal and recording when the program is told to leave from outside."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from routing.events import State
from sessions.reader import read_session
from tests.e2e.terminal import Terminal
from tests.processes import LONG
from tests.tui.leaving import LEFT

ALTERNATE_SCREEN = b"\x1b[?1049h"
MAIN_SCREEN = b"\x1b[?1049l"
NO_MOUSE = b"\x1b[?1003l"


class Recorded:
    """Hands bytes on to a terminal emulator and keeps them."""

    def __init__(self, stream) -> None:
        self.bytes = b""
        self._stream = stream

    def feed(self, data: bytes) -> None:
        self.bytes += data
        self._stream.feed(data)


@pytest.fixture
def how():
    """Arguments of the program."""
    return ()


@pytest.fixture
def dashboard(tmp_path, how):
    """The program in its terminal, some chunks into the run."""
    with Terminal(str(tmp_path), *how, program=(sys.executable, "-m", "tests.tui.leaving")) as terminal:
        terminal._stream = Recorded(terminal._stream)
        terminal.wait_for("chunk 3")
        yield terminal


def last_state(folder):
    (path,) = folder.glob("*.moe.jsonl")
    return [event for event in read_session(path) if isinstance(event, State)][-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_to_leave_restores_the_terminal_and_ends_the_recording(dashboard, tmp_path, number):
    os.kill(dashboard.process.pid, number)
    assert dashboard.wait_for_exit() == 0
    written = dashboard._stream.bytes
    assert written.rindex(MAIN_SCREEN) > written.rindex(ALTERNATE_SCREEN)
    assert NO_MOUSE in written
    assert LEFT.encode() in written[written.rindex(MAIN_SCREEN) :]
    assert (last_state(tmp_path).state, last_state(tmp_path).why) == ("finished", "user")


@pytest.mark.parametrize("how", [(), ("--deaf",)], ids=["told", "not-told"])
def test_a_terminal_that_is_closed_ends_the_recording_too(dashboard, tmp_path):
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, dashboard._master)  # closes the terminal's only other end
    os.close(null)
    dashboard.process.wait(timeout=LONG)
    assert (tmp_path / "left").read_text() == LEFT
    assert (last_state(tmp_path).state, last_state(tmp_path).why) == ("finished", "user")
