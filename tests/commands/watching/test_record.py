"""`record` on the real pocket model, with flags that change the run."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from moe_watch.commands.app import run
from moe_watch.routing.events import State
from moe_watch.sessions.reading.reader import read_session

pytestmark = pytest.mark.model

CONTEXT = 256


@pytest.mark.parametrize(("flags", "expected"), [((), ("finished", "context")), (("restart",), ("finished", "length"))])
def test_at_the_end_of_the_context(tmp_path, capsys, flags, expected):
    output = tmp_path / "long.moe.jsonl"
    choice = [part for flag in flags for part in ("--on-full-context", flag)]
    length = ["--context", str(CONTEXT), "--prompt", "x = 1\n" * 50, "--tokens", "80"]
    assert run(["record", "pocket", *length, *choice, "--seed", "7", "--json", "--output", str(output)]) == 0
    tokens = json.loads(capsys.readouterr().out)["tokens"]
    states = [event for event in read_session(output) if isinstance(event, State)]
    assert (states[-1].state, states[-1].why) == expected
    assert [event.state for event in states[:-1]] == ["fresh_context"] * len(flags)
    assert sum(tokens.values()) == CONTEXT if not flags else tokens["generated"] == 80


def streamed(stdout: int, folder: Path) -> tuple[bytes, bytes]:
    """Record a session to standard output beside a terminal; return the output on the terminal, and the session."""
    screen, terminal = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "-m", "moe_watch", "record", "pocket", "--prompt", "x", "--tokens", "3", "--output", "-"],
        stdout=stdout,
        stderr=terminal,
        env={**os.environ, "HOME": str(folder), "TERM": "xterm", "COLUMNS": "200"},
    )
    os.close(terminal)
    seen = drained(screen)  # first: a terminal that is not read blocks its writer
    written = b"" if done.stdout is None else done.stdout.read()
    assert done.wait() == 0
    return seen, written


def drained(screen: int) -> bytes:
    """Return all output on a terminal with a closed other side."""
    found = b""
    with contextlib.suppress(OSError):  # end of file on Linux
        while data := os.read(screen, 65536):
            found += data
    os.close(screen)
    return found


def test_a_pipes_reader_has_the_terminal_for_itself(tmp_path):
    """The reader may be the dashboard, and a progress bar or a summary would be drawn over it."""
    seen, written = streamed(subprocess.PIPE, tmp_path)
    assert seen == b""
    assert written.count(b'"event":"token"') == 5


def test_beside_a_file_the_terminal_gets_the_summary(tmp_path):
    with (tmp_path / "out").open("wb") as file:
        seen, _ = streamed(file.fileno(), tmp_path)
    assert b"starting" in seen
    assert b"3 tokens generated, 2 of prompt" in seen
    assert (tmp_path / "out").read_bytes().count(b'"event":"token"') == 5
