"""Terminal and recording after a signal ends the program."""

from __future__ import annotations

import os
import signal
import sys

import psutil
import pytest

from moe_watch.routing.events import State
from moe_watch.sessions.reading.reader import read_session
from tests.e2e.terminal import Terminal
from tests.processes import LONG, wait_until
from tests.tui.leaving import LEFT

ALTERNATE_SCREEN = b"\x1b[?1049h"
MAIN_SCREEN = b"\x1b[?1049l"
NO_MOUSE = b"\x1b[?1003l"


class Recorded:
    """Writer that passes bytes to a terminal emulator and stores them."""

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


# The screen when the terminal closes, the keys that open it, and its text.
STATES = {
    "streaming": ("", ""),
    "paused": (" ", "paused"),
    "help": ("?", "esc closes"),
    "a question": ("G", "Injected into the context"),
    "every action": ("\x10", "Search for commands"),
}


def close_terminal(terminal):
    """Close the only other end of a terminal, as closing its window does."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, terminal._master)
    os.close(null)


def assert_left(terminal, folder):
    terminal.process.wait(timeout=LONG)
    assert (folder / "left").read_text() == LEFT
    assert (last_state(folder).state, last_state(folder).why) == ("finished", "user")


@pytest.mark.parametrize("how", [(), ("--deaf",)], ids=["told", "not-told"])
@pytest.mark.parametrize("state", STATES)
def test_a_terminal_that_is_closed_ends_the_recording_too(dashboard, tmp_path, state):
    keys, shown = STATES[state]
    dashboard.press(keys)
    dashboard.wait_for(shown)
    close_terminal(dashboard)
    assert_left(dashboard, tmp_path)


@pytest.mark.parametrize("how", [("--slow",), ("--slow", "--deaf")], ids=["told", "not-told"])
@pytest.mark.parametrize("state", ["streaming", "paused"])
def test_a_terminal_that_is_closed_while_the_run_ends_leaves_no_process(dashboard, tmp_path, state):
    keys, shown = STATES[state]
    dashboard.press(keys)
    dashboard.wait_for(shown)
    dashboard.press("q")
    wait_until((tmp_path / "closing").exists, "the worker is being closed")
    close_terminal(dashboard)
    os.kill(dashboard.process.pid, signal.SIGCONT)  # the system sends it as well; sent here, it arrives in time
    (tmp_path / "go").touch()
    assert_left(dashboard, tmp_path)


def test_being_continued_without_having_been_suspended_redraws_and_starts_no_second_reader(dashboard, tmp_path):
    process = psutil.Process(dashboard.process.pid)
    before = process.num_threads()
    for _ in range(3):
        written = len(dashboard._stream.bytes)
        process.send_signal(signal.SIGCONT)
        dashboard.wait_for(lambda _, at=written: ALTERNATE_SCREEN in dashboard._stream.bytes[at:])
        dashboard.wait_for("STREAM")
    assert process.num_threads() <= before
    dashboard.press("q")
    assert dashboard.wait_for_exit() == 0
    assert_left(dashboard, tmp_path)


# Suspended


@pytest.fixture
def shell(tmp_path):
    """A shell with the dashboard as its job."""
    with Terminal("-i", program=("sh",), env={"PS1": "$ ", "ENV": ""}) as terminal:
        terminal.press(f"{sys.executable} -m tests.tui.leaving {tmp_path}\n")
        terminal.wait_for("chunk 3")
        yield terminal


def test_ctrl_z_suspends_and_fg_goes_on(shell, tmp_path):
    shell.press("\x1a")
    shell.wait_for(lambda text: "Stopped" in text and "STREAM" not in text)
    shell.press("bg; echo in the background\n")  # it may not use the terminal, and is stopped again
    shell.wait_for("\nin the background")
    shell.press("fg\n")
    shell.wait_for("STREAM")
    shell.press("?")
    shell.wait_for("esc closes")
    shell.press("?")
    shell.wait_for(lambda text: "esc closes" not in text)
    shell.press("q")
    shell.wait_for(LEFT)
    assert (last_state(tmp_path).state, last_state(tmp_path).why) == ("finished", "user")


def test_without_a_shell_ctrl_z_says_why_not(dashboard):
    dashboard.press("\x1a")
    dashboard.wait_for("not started from a shell")
