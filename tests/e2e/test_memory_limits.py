"""Runs with too little memory: `ulimit -v`, and a control group with a limit. One line says why, and what to do."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed")
pytest.importorskip("mlx_lm", reason="the MLX engine is not installed")

from moe_watch.routing.events import State, Token
from moe_watch.sessions.reading.reader import read_session
from tests.backends.model_files.test_load_failures import write_large_folder, write_large_gguf
from tests.processes import LONG, is_gone, wait_until, worker_of

pytestmark = [pytest.mark.model, pytest.mark.skipif(sys.platform != "linux", reason="limits as on Linux")]

ROOT = Path(__file__).parents[2]
FITS = "`moe-watch memory MODEL` lists what fits"
GROUPS = Path("/sys/fs/cgroup")
LIMITED = 2_500_000_000
"""Address space in bytes: more than a worker needs, and less than the weights of the large model (3.2 GB)."""
TINY = 300_000_000
"""Less than an engine's libraries need."""


def record(model: str, output: Path, *options: str, limit: int) -> subprocess.CompletedProcess[str]:
    """Record with a limit on the address space of the program, which its worker inherits."""
    return subprocess.run(
        [sys.executable, "-m", "moe_watch", "record", model, "--tokens", "30", "--output", str(output), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LONG,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )


@pytest.mark.parametrize("write", [write_large_gguf, write_large_folder], ids=["llama.cpp", "mlx"])
def test_a_model_that_exceeds_ulimit_v_says_so(write: Callable[[Path], Path], tmp_path: Path) -> None:
    model, output = tmp_path / "large.gguf", tmp_path / "run.moe.jsonl"
    done = record(str(write(model)), output, limit=LIMITED)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert FITS in line
    assert "free memory, or give a smaller model" in line
    assert not output.exists()


@pytest.mark.parametrize("engine", ["llama.cpp", "mlx"])
def test_an_engine_that_does_not_start_under_ulimit_v_says_so(engine: str, tmp_path: Path) -> None:
    done = record("pocket", tmp_path / "run.moe.jsonl", "--backend", engine, limit=TINY)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert FITS in line
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize("engine", ["llama.cpp", "mlx"])
def test_a_limit_that_suffices_changes_nothing(engine: str, tmp_path: Path) -> None:
    output = tmp_path / "run.moe.jsonl"
    done = record("pocket", output, "--backend", engine, limit=LIMITED)
    assert done.returncode == 0, done.stderr
    assert sum(isinstance(event, Token) and event.source == "generated" for event in read_session(output)) == 30


# -- control groups


class Group:
    """Control group with a memory limit, of either version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        is_second = (folder / "memory.events").exists()
        self._limit = folder / ("memory.max" if is_second else "memory.limit_in_bytes")
        self._used = folder / ("memory.current" if is_second else "memory.usage_in_bytes")

    def join(self) -> None:
        """Move this process into the group; between fork and exec."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def limit_to(self, more: int) -> None:
        """Limit the memory to the present usage and `more` bytes."""
        self._limit.write_text(str(int(self._used.read_text()) + more))


def parents() -> Iterator[Path]:
    """Yield the folders in which a group with a memory limit may be created."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield GROUPS / "memory" / path.lstrip("/")
            yield GROUPS / "memory"
        elif number == "0" and not controllers:
            yield GROUPS / path.lstrip("/")


def is_removed(group: Path) -> bool:
    """Remove a group, which the kernel refuses while a process of it is ending."""
    try:
        group.rmdir()
    except OSError:
        return False
    return True


@pytest.fixture
def group() -> Iterator[Group]:
    reasons = []
    for parent in parents() if Path("/proc/self/cgroup").exists() else ():
        folder = parent / f"moe-watch-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError as error:
            reasons.append(f"{parent}: {error.strerror}")
            continue
        if (folder / "memory.limit_in_bytes").exists() or (folder / "memory.max").exists():
            yield Group(folder)
            wait_until(partial(is_removed, folder), "an empty group")
            return
        folder.rmdir()
        reasons.append(f"{parent}: no memory controller")
    pytest.skip(f"no control group can be created here ({'; '.join(reasons) or 'the kernel has none'})")


HOG = "import time\nheld = []\nwhile True:\n    held.append(bytearray(1_000_000))\n    time.sleep(0.02)"
"""Process that takes memory slowly, so that the OOM killer acts once."""


def offer(pid: int, score: int) -> None:
    """Make a process a likely choice of the OOM killer; the first one at 1000."""
    Path(f"/proc/{pid}/oom_score_adj").write_text(str(score))


@pytest.mark.parametrize("engine", ["llama.cpp", "mlx"])
def test_the_oom_killer_of_a_group_is_named_and_the_recording_whole(engine: str, tmp_path: Path, group: Group) -> None:
    output = tmp_path / "run.moe.jsonl"
    endless = ("--tokens", "100000", "--on-full-context", "restart", "--backend", engine)
    recording = subprocess.Popen(
        [sys.executable, "-m", "moe_watch", "record", "pocket", "--output", str(output), *endless],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=group.join,
    )
    hog = None
    try:
        wait_until(
            lambda: recording.poll() is not None or (output.exists() and output.read_bytes().count(b'"token"') > 20),
            "tokens in the file",
        )
        assert recording.poll() is None, recording.stderr.read().decode()
        worker = worker_of(recording.pid)
        offer(worker.pid, 1000)
        group.limit_to(20_000_000)
        hog = subprocess.Popen([sys.executable, "-c", HOG], preexec_fn=group.join)
        offer(hog.pid, 500)
        wait_until(lambda: is_gone(worker.pid), "the end of the worker")
        hog.kill()
        _, errors = recording.communicate(timeout=LONG)
    finally:
        for process in (recording, hog):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
    line = errors.decode()
    assert recording.returncode == 1, line
    assert "was killed by the OOM killer (kills in its control group, whose memory limit is " in line
    assert re.search(r" MB: [12], 0 at its start\)", line)
    assert FITS in line
    assert "Traceback" not in line
    reader = read_session(output)
    events = list(reader)
    assert not reader.torn
    state = [event for event in events if isinstance(event, State)][-1]
    assert (state.state, "OOM killer" in state.message) == ("error", True)
    tokens = [event.i for event in events if isinstance(event, Token)]
    assert tokens == list(range(len(tokens)))
    assert f"recorded to {output}" in line
