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

from backends.llama_library import VERSION

TAP, LOGITS, OBSERVATION = (Path(__file__).with_name(f"llama_{name}.c") for name in ("tap", "logits", "observation"))
FLAGS = ("-std=c11", "-O3", "-fno-trapping-math", "-shared", "-fPIC")
LIBRARIES = ("-lm",)
PATIENCE = 60.0
"""Seconds for a compiler that takes one."""


class CannotCompile(Exception):  # noqa: N818 - a finding, after which Python does the work
    """There is no compiled tap, and this is why."""


def compiled_tap() -> ctypes.CDLL:
    """llama_tap.c, compiled, from the cache if it is there.

    Raises:
        CannotCompile: there is no C compiler, it fails, or what it made cannot be loaded.
    """
    return _compiled(TAP)


def compiled_logits() -> ctypes.CDLL:
    """llama_logits.c, likewise.

    Raises:
        CannotCompile: as for `compiled_tap`.
    """
    return _compiled(LOGITS)


def compiled_observation() -> ctypes.CDLL:
    """llama_observation.c, likewise.

    Raises:
        CannotCompile: as for `compiled_tap`.
    """
    return _compiled(OBSERVATION)


def _compiled(source: Path) -> ctypes.CDLL:
    command = compiler()
    path = _cached(source, command)
    try:
        if not path.exists():
            _compile(command, source, path)
        return ctypes.CDLL(str(path))
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


def _cached(source: Path, command: list[str]) -> Path:
    """Where that of exactly this source, compiler, machine and llama.cpp lies."""
    made_of = [source.read_text(), VERSION, platform.system(), platform.machine(), *command, *FLAGS, *LIBRARIES]
    key = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:16]
    return platformdirs.user_cache_path("moe-watch", appauthor=False) / f"{source.stem}-{key}.so"


def _compile(command: list[str], source: Path, path: Path) -> None:
    """Compile beside its place, and move it there whole: another process may be about to load it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
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
        made.replace(path)
