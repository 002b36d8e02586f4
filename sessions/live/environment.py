"""What a live run takes from the world around it: a worker, clocks, a place for its file. Tests give their own."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from moe_watch.backends.protocol import Command, Message
from moe_watch.backends.worker.process import WorkerProcess
from moe_watch.sessions.paths import sessions_directory
from moe_watch.vitals.provider import Provider


class Worker(Protocol):
    """What a live run needs of `moe_watch.backends.worker.process.WorkerProcess`."""

    @property
    def pid(self) -> int: ...
    def send(self, command: Command) -> None: ...
    def close(self) -> None: ...


WorkerFactory = Callable[[Callable[[Message], None]], Worker]
"""Starts a worker; its messages, in order, go to the callable, on any thread."""


def _draw_seed() -> int:
    return secrets.randbelow(1 << 31)  # llama.cpp's seeds are 32 bits, and the highest one means `any`


def _local_time() -> datetime:
    return datetime.now().astimezone()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a live run takes from the world around it."""

    worker: WorkerFactory = WorkerProcess
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = _local_time
    draw_seed: Callable[[], int] = _draw_seed
    folder: Path = field(default_factory=sessions_directory)
    """For recordings without a given name."""
    providers: Sequence[Provider] | None = None
    """Sources of vitals; None for this machine's own."""
    stream: int | None = None
    """A descriptor to record to instead of a file; closed in the end. The run ends when nobody reads it any more."""
