"""Dependencies of a live run that tests replace: worker, clocks, folder."""

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
    """Worker of a live run, such as `moe_watch.backends.worker.process.WorkerProcess`."""

    @property
    def pid(self) -> int: ...
    def send(self, command: Command) -> None: ...
    def close(self) -> None: ...


WorkerFactory = Callable[[Callable[[Message], None]], Worker]
"""Starts a worker that calls the function with each message, in order, on any thread."""


def _draw_seed() -> int:
    return secrets.randbelow(1 << 31)  # llama.cpp's seeds have 32 bits, and the highest one means `any`


def _local_time() -> datetime:
    return datetime.now().astimezone()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Dependencies of a live run."""

    worker: WorkerFactory = WorkerProcess
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = _local_time
    draw_seed: Callable[[], int] = _draw_seed
    folder: Path = field(default_factory=sessions_directory)
    """Folder for recordings without a given name."""
    providers: Sequence[Provider] | None = None
    """Providers of vitals; None for the providers of this machine."""
    stream: int | None = None
    """Descriptor to record to instead of a file; closed at the end. The run ends when its reader closes it."""
