"""Question to an installed engine, in a separate process: how is it built? Imports nothing heavy."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from contextlib import suppress

import msgspec

from moe_watch.backends.engine_build import BuildAnswer, EngineBuild
from moe_watch.backends.system.python_process import command, environment
from moe_watch.backends.worker.process import ENVIRONMENT, exit_cause
from moe_watch.routing.errors import UserError

LONGEST_WAIT = 90.0
"""Seconds. Importing an engine takes one or two; compiling the callback may take up to 60."""
LOG_TAIL = 65536
"""Bytes that are read from the end of the process's log."""
ADVICE = "install it again"


def engine_build(engine: str, *, seconds: float = LONGEST_WAIT) -> EngineBuild:
    """Return the build of an installed engine.

    Args:
        engine: name in `moe_watch.backends.model_files.catalog.ENGINES`.
        seconds: longest wait for the answer; the process is killed then.

    Raises:
        UserError: the library cannot be imported, crashes, does not answer, or cannot be observed.
    """
    lifeline_in, lifeline_out = os.pipe()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command("moe_watch.backends.worker.build_child", engine, lifeline_in),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=(lifeline_in,),
            env=environment() | ENVIRONMENT,
            process_group=0,  # Ctrl-C in the terminal is for the parent
        )
        os.close(lifeline_in)
        try:
            answer, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"it does not answer within {seconds:g} s", advice=ADVICE) from error
        finally:
            _kill(process)
            os.close(lifeline_out)
        log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL))
        said = log.read().decode(errors="replace")
    if process.returncode:
        raise UserError(f"the process that imports it {exit_cause(process.returncode, said)}", advice=ADVICE)
    return _build_of(answer)


def _build_of(answer: bytes) -> EngineBuild:
    found = msgspec.json.decode(answer, type=BuildAnswer)
    if found.build is None:
        raise UserError(found.problem, advice=ADVICE)
    return found.build


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and a compiler that it started; wait for it."""
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
