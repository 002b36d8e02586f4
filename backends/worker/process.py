"""Handle of the worker process in its parent. Has no heavy imports."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

from moe_watch.backends.protocol import Command, Failed, Message, Shutdown, Stop, decode_message, encode
from moe_watch.backends.system import out_of_memory
from moe_watch.backends.system.oom_kills import oom_kills
from moe_watch.backends.system.python_process import command, environment

PATIENCE = 1.0
"""Seconds a worker gets for each step of its exit: by itself, terminated, killed. It needs no cleanup."""

LOG_LINES = 20
LOG_TAIL = 65536
"""Bytes read back from the end of the log: a crash writes the stacks of all threads after its cause."""

CRASHES = frozenset({"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGTRAP"})

ABORTED = re.compile(r"^\S+\.(?:[chm]|[ch]pp|cuh?|mm):\d+: (.+)$", re.MULTILINE)
"""Last message of ggml, `FILE:LINE: GGML_ASSERT(…) failed`, before it aborts the process."""
UNCAUGHT = re.compile(r"^terminate called .*'(\S+)'(?:\s+what\(\):\s+(.+))?$", re.MULTILINE)
"""Last message of the C++ runtime: class and text of the exception."""
TRUNCATED = "the model's file was cut short while it was mapped, or its disk failed: restore the file and start again"
"""Cause of a SIGBUS: a page of a mapped file has nothing behind it."""
ANOTHER = "try another version of the engine, or another model"
"""Advice for a crash that is not out of memory."""

ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "GGML_NO_BACKTRACE": "1",  # it would start a debugger
}


class WorkerProcess:
    """Worker process with pipes for commands and messages.

    A plain `Popen` and not `multiprocessing.Process`: spawning the latter needs the real `sys.stderr`, which a
    running dashboard has replaced.

    Args:
        on_message: called with every message, in order, on a thread of this object. If the worker dies, the last
            message is a fatal `Failed` that names the cause.
        log: file for its output; a temporary file by default.
    """

    def __init__(self, on_message: Callable[[Message], None], *, log: Path | None = None) -> None:
        self._on_message = on_message
        self._log: IO[bytes] = tempfile.TemporaryFile() if log is None else _create(log)  # noqa: SIM115
        self._closing = False
        self._has_failed = False
        self._sending = threading.Lock()
        self._oom_kills = oom_kills()
        self._process, self._commands, self._messages, self._lifeline = _spawn(self._log)
        self._reader = threading.Thread(target=self._read, name="worker messages", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, command: Command) -> None:
        """Send a command. Does nothing if the worker is dead: its death is reported as a message."""
        with self._sending, contextlib.suppress(OSError):
            self._commands.send_bytes(encode(command))
        if isinstance(command, Stop | Shutdown):
            self._wake()

    def close(self) -> None:
        """Shut the worker down, by force if necessary, and wait for it. Safe to call twice, from any thread."""
        self._closing = True
        self.send(Shutdown())
        self._end()
        if threading.current_thread() is not self._reader:
            self._reader.join(PATIENCE)
        with self._sending:
            if not self._commands.closed:
                self._commands.close()
                os.close(self._lifeline)
        self._log.close()

    def _wake(self) -> None:
        """Continue a worker that was suspended (SIGSTOP, debugger): a suspended one cannot exit."""
        self._process.send_signal(signal.SIGCONT)

    def _end(self) -> int:
        """Wait for the process to exit, by force after `PATIENCE`; returns its exit status."""
        for force in (self._process.terminate, self._process.kill):
            try:
                return self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                force()
        return self._process.wait()

    def _read(self) -> None:
        with self._messages, contextlib.suppress(EOFError, OSError):
            while True:
                self._pass_on(decode_message(self._messages.recv_bytes()))
        status = self._end()
        if not self._closing and not self._has_failed:
            self._pass_on(self._death(status))

    def _pass_on(self, message: Message) -> None:
        self._has_failed |= isinstance(message, Failed) and message.fatal
        self._on_message(message)

    def _death(self, status: int) -> Failed:
        log = self._log_tail()
        evidence = oom_kills().since(self._oom_kills) if status == -signal.SIGKILL else ""
        cause = exit_cause(status, log, evidence)
        return Failed(message=f"the model's process {cause}", log=log.splitlines()[-LOG_LINES:])

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            size = os.fstat(self._log.fileno()).st_size
            return os.pread(self._log.fileno(), LOG_TAIL, max(0, size - LOG_TAIL)).decode("utf-8", "replace")
        return ""


def _create(log: Path) -> IO[bytes]:
    """Create an empty log that only its owner can read."""
    return open(os.open(log, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "r+b")


def _spawn(log: IO[bytes]) -> tuple[subprocess.Popen[bytes], Connection, Connection, int]:
    """Start the process.

    Returns:
        The process, the writing end for commands, the reading end for messages, and the writing end of its lifeline.
    """
    commands_in, commands_out = os.pipe()
    messages_in, messages_out = os.pipe()
    lifeline_in, lifeline_out = os.pipe()
    inherited = (commands_in, messages_out, lifeline_in)
    process = subprocess.Popen(
        command("moe_watch.backends.worker.main", *inherited),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=inherited,
        env=environment() | ENVIRONMENT,
        process_group=0,  # Ctrl-C in the terminal is for the parent, also before the worker can ignore it
    )
    for descriptor in inherited:
        os.close(descriptor)
    commands, messages = Connection(commands_out, readable=False), Connection(messages_in, writable=False)
    return process, commands, messages, lifeline_out


def exit_cause(status: int, log: str = "", evidence: str = "") -> str:
    """Describe an exit status of `Popen`, with advice if the cause is known.

    Args:
        status: exit status.
        log: end of the process's output.
        evidence: evidence that the OOM killer has ended it; empty if there is none.
    """
    if status >= 0:
        return f"exited with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    if name == "SIGKILL" and evidence:
        return f"was killed {evidence}: {out_of_memory.SMALLER}"
    if name == "SIGKILL":
        advice = out_of_memory.SMALLER
        return f"was killed by the system ({name}): out of memory? {advice[0].upper()}{advice[1:]}"
    if name not in CRASHES:
        return f"was ended by {name}"
    why = _last_words(log)
    crashed = f"crashed ({name})" if why is None else f"crashed ({name}: {why})"
    limit = out_of_memory.address_space_limit()
    if limit is not None:  # libraries crash where an allocation fails that they do not check
        limited = f"with its address space limited to {limit / 1e6:,.0f} MB (`ulimit -v`)"
        return f"{crashed} {limited}: raise the limit, or {out_of_memory.SMALLER}"
    if name == "SIGBUS" and why is None:
        return f"{crashed}: {TRUNCATED}"
    if why is None:
        return crashed
    return f"{crashed}: {out_of_memory.SMALLER if out_of_memory.SAID.search(why) else ANOTHER}"


def _last_words(log: str) -> str | None:
    """Return the cause of a crash as ggml or the C++ runtime wrote it; None if they wrote none."""
    if uncaught := UNCAUGHT.findall(log):
        kind, what = uncaught[-1]
        return str(what or kind)
    aborted = ABORTED.findall(log)
    return str(aborted[-1]) if aborted else None
