"""Compiling what runs for every token with the machine's own C compiler, once; it stays in the user's cache."""

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
"""Seconds for a compiler that takes one."""


class CannotCompile(Exception):  # noqa: N818 - a finding, after which Python does the work
    """There is no compiled tap, and this is why."""


def compiled_tap() -> ctypes.CDLL:
    """callback.c, compiled, from the cache if it is there.

    Raises:
        CannotCompile: there is no C compiler, it fails, or what it made cannot be loaded.
    """
    return _compiled(TAP)


def compiled_logits() -> ctypes.CDLL:
    """logits.c, likewise.

    Raises:
        CannotCompile: as for `compiled_tap`.
    """
    return _compiled(LOGITS)


def compiled_observation() -> ctypes.CDLL:
    """observation.c, likewise.

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
        with tempfile.TemporaryDirectory() as own:  # what is loaded stays loaded without its file
            return ctypes.CDLL(str(_compile_into(Path(own), source.stem, command, source)))
    except OSError as error:
        raise CannotCompile(error.strerror or str(error)) from error


def compiler() -> list[str]:
    """The command that `$CC` names, or `cc`.

    Raises:
        CannotCompile: there is none.
    """
    command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(command[0]) is None:
        raise CannotCompile(f"no C compiler ({command[0]}) was found")
    return command


def _name(source: Path, command: list[str]) -> str:
    """Return the name of what exactly this source, compiler, machine and llama.cpp give, without its ending."""
    made_of = [source.read_text(), VERSION, platform.system(), platform.machine(), *command, *FLAGS, *LIBRARIES]
    key = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:16]
    return f"llama_{source.stem}-{key}"


def _compile_into(folder: Path, name: str, command: list[str], source: Path) -> Path:
    """Compile beside its place, and move it there whole: another process may be about to load it."""
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
        return code_cache.keep(made, folder, name)
