"""kill -9 at any moment: every file opens, holds whole lines, and all that anybody was shown."""

from __future__ import annotations

import os
import random
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from moe_watch.backends.protocol import Start
from moe_watch.routing.events import Sampling, Token
from moe_watch.sessions.live.settings import RunSettings
from moe_watch.sessions.live.source import LiveSource
from moe_watch.sessions.reading.reader import read_session
from tests.processes import LONG, is_gone, wait_until
from tests.run_specs import run_settings
from tests.sessions.kit import NOW, ManualClock, ScriptedWorker, Stage

ROOT = Path(__file__).parents[3]
KILLS = 200
LONGEST_LIFE = 0.04
SHOWN = struct.Struct("<q")
"""Index of a token that a run has shown."""


class Rushing(ScriptedWorker):
    """Generates without end, about as fast as tokens can be recorded."""

    clock = staticmethod(time.monotonic)

    def send(self, command):
        super().send(command)
        while isinstance(command, Start):
            self.generate(2)
            time.sleep(0.0002)


class Ticking(ManualClock):
    """Two milliseconds pass at every look, of which recording an event takes one at least."""

    def __call__(self):
        self.advance(0.002)
        return super().__call__()


class Timed(Rushing):
    """The same by a clock that is no faster on a machine that has no time."""

    clock = Ticking()


def serve_runs(worker):
    """For each path on standard input: fork a process that records a run there, and print its id.

    Forked, because a fresh interpreter for each run would take most of the time.
    """
    RunSettings().header("def", Sampling(seed=7), worker.ready, NOW)  # what it asks the system is remembered
    for line in sys.stdin:
        child = os.fork()
        if not child:
            record(Path(line.strip()), worker)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()


def record(path, worker):
    """Run a live source from worker to file, and tell of every token that comes out of it on descriptor 2."""
    stage = Stage(path.parent, lambda say: Detached(worker(say)))
    around = replace(stage.around, clock=worker.clock)
    source = LiveSource(run_settings(prompt="def", chunk_size=4, output=path), around)
    source.start()
    while True:
        time.sleep(0.001)
        for item in source.drain():
            if isinstance(item, Token):
                os.write(2, SHOWN.pack(item.i))


class Detached:
    """A scripted worker that takes its commands on a thread of its own, as a process would."""

    def __init__(self, worker):
        self.worker, self.pid = worker, worker.pid

    def send(self, command):
        threading.Thread(target=self.worker.send, args=(command,), daemon=True).start()

    def close(self):
        self.worker.close()


class Runs:
    """Runs that can be killed."""

    def __init__(self, worker):
        self.reading, writing = os.pipe()
        code = f"from tests.sessions.recording.test_crash import *; serve_runs({worker.__name__})"
        self.server = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=writing
        )
        os.close(writing)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.kill()
        self.server.communicate()
        os.close(self.reading)

    def begin(self, path):
        self.server.stdin.write(f"{path}\n".encode())
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def kill(self, run, after, *, tokens=0):
        """Let it live for so many seconds, once it has shown so many tokens; returns the tokens it showed in all."""
        shown = b""
        while len(shown) < tokens * SHOWN.size:
            more = self._read(LONG)
            assert more, f"{len(shown) // SHOWN.size} tokens, and no more"
            shown += more
        deadline = time.monotonic() + after
        while (left := deadline - time.monotonic()) > 0:
            shown += self._read(left)
        os.kill(run, signal.SIGKILL)
        wait_until(lambda: is_gone(run), "the end of a killed process")
        while more := self._read(0):
            shown += more
        return [i for (i,) in SHOWN.iter_unpack(shown)]

    def _read(self, seconds):
        return os.read(self.reading, 1 << 20) if select.select([self.reading], [], [], seconds)[0] else b""


def tokens_in(path):
    """Indices of the tokens of a file that ends with a whole line, or was cut inside its last one."""
    session = read_session(path)
    tokens = [event.i for event in session if isinstance(event, Token)]
    assert bool(session.torn) == (not path.read_bytes().endswith(b"\n"))
    assert tokens == list(range(len(tokens)))
    return tokens


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_two_hundred_moments(tmp_path):
    rng = random.Random(7)
    with Runs(Rushing) as runs:
        for number in range(KILLS):
            path = tmp_path / f"{number}.moe.jsonl"
            shown = runs.kill(runs.begin(path), rng.uniform(0, LONGEST_LIFE), tokens=number % 2)
            if not path.exists() or not path.stat().st_size:
                assert not shown
                continue
            kept = tokens_in(path)
            assert shown == kept[: len(shown)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_while_compressing(tmp_path):
    """All is there but what came in the last quarter of a second, which is 125 tokens at most."""
    rng = random.Random(7)
    with Runs(Timed) as runs:
        for number in range(4):
            path = tmp_path / f"{number}.moe.jsonl.zst"
            shown = runs.kill(runs.begin(path), 0, tokens=rng.randrange(200, 400))
            data = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
            unpacked = path.with_suffix("")
            unpacked.write_bytes(data)
            kept = tokens_in(unpacked)
            old = shown[:-130]
            assert len(old) >= 70
            assert kept[: len(old)] == old
