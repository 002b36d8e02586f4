"""The real program in a real terminal, told to leave from outside: whole files that say how they ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from moe_watch.sessions.reading.reader import read_session
from tests.e2e.terminal import Terminal
from tests.processes import LONG

pytestmark = pytest.mark.model

ROOT = Path(__file__).parents[2]
WATCH = ("watch", "pocket", "--prompt", "def parse_", "--seed", "7", "--stop", "never")
RECORD = ("record", "pocket", "--prompt", "def parse_", "--seed", "7")
ENDLESS = (*RECORD, "--tokens", "100000", "--on-full-context", "restart")


@pytest.fixture
def session(tmp_path):
    return tmp_path / "seen.moe.jsonl"


def recorded(path):
    """All events of a file that must be whole."""
    assert path.read_bytes().endswith(b"\n")
    reader = read_session(path)
    events = list(reader)
    assert not reader.torn
    return events


def states(path):
    return [(event.state, event.why) for event in recorded(path) if type(event).__name__ == "State"]


def has_tokens(path):
    return path.exists() and path.read_bytes().count(b'"event":"token"') > 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("command", [WATCH, ENDLESS], ids=["watch", "record"])
def test_told_to_leave(session, command, number):
    with Terminal(*command, "--output", str(session)) as terminal:
        terminal.wait_for(lambda _text: has_tokens(session))
        os.kill(terminal.process.pid, number)
        assert terminal.wait_for_exit() == 0
        terminal.wait_for(lambda text: str(session)[-12:] in text.replace("\n", ""))
    assert states(session)[-1] == ("finished", "user")


@pytest.mark.parametrize("command", [WATCH, ENDLESS], ids=["watch", "record"])
def test_closed_terminal(session, command):
    with Terminal(*command, "--output", str(session)) as terminal:
        terminal.wait_for(lambda _text: has_tokens(session))
        terminal.hang_up()
        terminal.process.wait(timeout=LONG)
    assert states(session)[-1] == ("finished", "user")


# The signal comes as soon as there is a file, which the run's thread begins long before the dashboard is mounted.
EARLY = """
import os, signal, sys, threading, time
from pathlib import Path
import moe_watch.tui.app
mounted = moe_watch.tui.app.MoeWatchApp.on_mount
async def late(self):
    os.kill(os.getpid(), int(sys.argv[1]))
    time.sleep(0.3)
    await mounted(self)
moe_watch.tui.app.MoeWatchApp.on_mount = late
from moe_watch import main
main(sys.argv[2:])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_told_to_leave_before_there_is_a_dashboard(session, number):
    program = (sys.executable, "-c", EARLY, str(int(number)))
    with Terminal(*WATCH, "--output", str(session), program=program) as terminal:
        assert terminal.wait_for_exit() == 0
        assert "Traceback" not in terminal.text
    assert not session.exists() or states(session)[-1] == ("finished", "user")


def test_reader_of_standard_output_gone(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "moe_watch", *ENDLESS, "--output", "-"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    first = [json.loads(process.stdout.readline())["event"] for _ in range(30)]
    process.stdout.close()
    errors = process.stderr.read().decode().splitlines()
    assert process.wait(timeout=LONG) == 1
    assert first[0] == "session"
    assert "token" in first
    (line,) = errors
    assert line.startswith("moe-watch: the reader of the output has closed it; nothing is recorded since token ")


def test_standard_output_holds_the_session_and_nothing_else(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "moe_watch", *RECORD, "--tokens", "50", "--json", "--output", "-"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    path = tmp_path / "piped.moe.jsonl"
    path.write_bytes(done.stdout)
    assert states(path)[-1] == ("finished", "length")
    assert json.loads(done.stderr)["tokens"]["generated"] == 50
