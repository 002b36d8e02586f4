"""kill -9 of the real program and of its worker: what was written stays, and opens."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moe_watch.routing.events import State, Token
from moe_watch.sessions.reading.reader import read_session
from tests.processes import LONG, wait_until, worker_of

pytestmark = pytest.mark.model

ROOT = Path(__file__).parents[2]
RECORD = ("record", "pocket", "--prompt", "def parse_", "--seed", "7")
ENDLESS = (*RECORD, "--tokens", "100000", "--on-full-context", "restart")


@pytest.fixture
def session(tmp_path):
    return tmp_path / "seen.moe.jsonl"


@pytest.fixture
def recording(session):
    """`record`, with some tokens in its file."""
    process = subprocess.Popen(
        [sys.executable, "-m", "moe_watch", *ENDLESS, "--output", str(session)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        wait_until(lambda: process.poll() is not None or has_tokens(session), "tokens in the file")
        assert process.poll() is None, process.stderr.read().decode()
        yield process
    finally:
        process.kill()
        process.communicate()


def has_tokens(path):
    return path.exists() and path.read_bytes().count(b'"event":"token"') > 20


def test_program_killed(recording, session):
    worker = worker_of(recording.pid)
    time.sleep(random.Random(7).uniform(0, 0.5))
    whole = session.read_bytes().rpartition(b"\n")[0].count(b"\n")
    recording.send_signal(signal.SIGKILL)
    recording.wait(timeout=LONG)
    worker.wait(timeout=LONG)
    reader = read_session(session)
    events = list(reader)
    tokens = [event.i for event in events if isinstance(event, Token)]
    assert len(events) >= whole
    assert tokens == list(range(len(tokens)))
    assert not any(isinstance(event, State) for event in events)


def test_worker_killed(recording, session):
    worker_of(recording.pid).send_signal(signal.SIGKILL)
    output, errors = recording.communicate(timeout=LONG)
    assert recording.returncode == 1
    assert b"was killed by the system (SIGKILL): out of memory?" in errors
    assert b"Traceback" not in output + errors
    reader = read_session(session)
    (state,) = [event for event in reader if isinstance(event, State)]
    assert not reader.torn
    assert state.state == "error"
    assert "SIGKILL" in state.message


# The kernel's limit on a file's size stands for a full disk; there is room again once the file was made whole.
LIMITED = """
import os, resource, sys
from moe_watch import main
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
cut = os.ftruncate
def make_room(descriptor, size):
    cut(descriptor, size)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
os.ftruncate = make_room
main(sys.argv[1:])
"""


def test_full_disk_under_the_real_program(session):
    arguments = (*RECORD, "--tokens", "300", "--json", "--output", str(session))
    done = subprocess.run([sys.executable, "-c", LIMITED, *arguments], cwd=ROOT, capture_output=True, check=True)
    summary = json.loads(done.stdout)
    first, second = read_session(session), read_session(session.with_name("seen.2.moe.jsonl"))
    assert session.stat().st_size <= 40_000
    assert second.header.continues.file == session.name
    tokens = [[event.i for event in part if isinstance(event, Token)] for part in (first, second)]
    assert second.header.continues.i == len(tokens[0]) > 20
    assert tokens[0] + tokens[1] == list(range(sum(summary["tokens"].values())))
    assert summary["tokens"]["generated"] == 300
