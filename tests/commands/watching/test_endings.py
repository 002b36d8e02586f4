"""Exit of the program outside of commands: one line or none, and never a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from moe_watch.commands.app import BAD_INPUT, INTERRUPTED, run

ROOT = Path(__file__).parents[3]

CTRL_C_WHILE_IMPORTING = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "moe_watch.commands.app":
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores
sys.meta_path.insert(0, Interrupting())
import moe_watch
moe_watch.main(["--version"])
"""


def test_ctrl_c_before_commands_are_there_is_silent():
    done = subprocess.run(
        [sys.executable, "-c", CTRL_C_WHILE_IMPORTING], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "", "")


def test_a_lack_of_memory_is_one_line(capsys, monkeypatch, golden_path):
    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("moe_watch.sessions.fitting.file_fit.fit_file", exhausted)
    assert run(["fit", str(golden_path)]) == BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "moe-watch: not enough memory: free memory, or give a smaller model or --context"
        " (`moe-watch memory MODEL` lists what fits), or a shorter recording"
    )


def test_a_library_without_room_in_the_address_space_is_one_line(capsys, monkeypatch, golden_path):
    """NumPy's text around the loader's message under `ulimit -v 100000` has 90 lines."""

    def exhausted(*_: object) -> None:
        raise ImportError(
            "IMPORTANT:\n\nOriginal error was: libquadmath.so: failed to map segment from shared object\n"
        )

    monkeypatch.setattr("moe_watch.sessions.fitting.file_fit.fit_file", exhausted)
    assert run(["fit", str(golden_path)]) == BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("moe-watch: not enough memory: ")
