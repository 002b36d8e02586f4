"""Compiler of the C code that runs for every token: compiled once with the machine's compiler, kept in the cache."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import platformdirs

from moe_watch.backends.llama.bindings import VERSION
from moe_watch.backends.system import code_cache

HERE = Path(__file__).parent
TAP, LOGITS, OBSERVATION = HERE / "tap" / "callback.c", HERE / "logits.c", HERE / "tap" / "observation.c"
FLAGS = ("-std=c11", "-O3", "-fno-trapping-math", "-shared", "-fPIC")
LIBRARIES = ("-lm",)
PATIENCE = 60.0
"""Seconds for a compiler, which takes about one."""


class CannotCompile(Exception):  # noqa: N818 - not an error: Python does the work
    """Reason why there is no compiled library."""


def compiled_tap() -> ctypes.CDLL:
    """Return callback.c, compiled; from the cache if it is there.

    Raises:
        CannotCompile: there is no C compiler, it fails, or its output cannot be loaded.
    """
    return _compiled(TAP)


def compiled_logits() -> ctypes.CDLL:
    """Return logits.c, compiled; from the cache if it is there.

    Raises:
        CannotCompile: as for `compiled_tap`.
    """
    return _compiled(LOGITS)


def compiled_observation() -> ctypes.CDLL:
    """Return observation.c, compiled; from the cache if it is there.

    Raises:
        CannotCompile: as for `compiled_tap`.
    """
    return _compiled(OBSERVATION)


def _compiled(source: Path) -> ctypes.CDLL:
    command = compiler()
    try:
        folder = platformdirs.user_cache_path("moe-watch", appauthor=False)
        if code_cache.is_private(folder):
            name = _name(source, command)
            path = code_cache.find(folder, name) or _compile_into(folder, name, command, source)
            return ctypes.CDLL(str(path))
        with tempfile.TemporaryDirectory() as own:  # a loaded library stays loaded without its file
            return ctypes.CDLL(str(_compile_into(Path(own), source.stem, command, source)))
    except OSError as error:
        raise CannotCompile(error.strerror or str(error)) from error


def compiler() -> list[str]:
    """Return the command in `$CC`, or `cc`.

    Raises:
        CannotCompile: the command is not on the PATH.
    """
    command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(command[0]) is None:
        raise CannotCompile(f"no C compiler ({command[0]}) was found")
    return command


def _name(source: Path, command: list[str]) -> str:
    """Return the library's name without suffix; it identifies source, compiler, machine and llama.cpp version."""
    inputs = [source.read_text(), VERSION, platform.system(), platform.machine(), *command, *FLAGS, *LIBRARIES]
    key = hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:16]
    return f"llama_{source.stem}-{key}"


def _compile_into(folder: Path, name: str, command: list[str], source: Path) -> Path:
    """Compile in a temporary folder and move the result atomically: another process may load it at the same time."""
    with tempfile.TemporaryDirectory(dir=folder) as beside:
        made = Path(beside) / "made.so"
        try:
            subprocess.run(
                [*command, *FLAGS, "-o", str(made), str(source), *LIBRARIES],
                check=True,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
        except subprocess.CalledProcessError as error:
            reason = next(iter(error.stderr.splitlines()), f"exit status {error.returncode}")
            raise CannotCompile(f"{command[0]} failed: {reason}") from error
        except subprocess.TimeoutExpired as error:
            raise CannotCompile(f"{command[0]} did not finish in {PATIENCE:g} s") from error
        return code_cache.store(made, folder, name)
