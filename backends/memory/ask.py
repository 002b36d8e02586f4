"""Question to an engine, in a separate process: the memory that a model takes with these options."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence

import msgspec

from moe_watch.backends.engine_sizes import EngineSizes, FailedSizes, SizesAnswer, SizesItem, SizesRequest
from moe_watch.backends.system.python_process import command, environment
from moe_watch.backends.worker.process import ENVIRONMENT, exit_cause
from moe_watch.routing.errors import UserError

LONGEST_WAIT = 300.0
"""Seconds; a model with a vocabulary of 152,064 tokens takes 0.7 s."""

LOG_TAIL = 65536
"""Bytes that are read from the end of the child's log."""


def ask_engine(engine: str, items: Sequence[SizesItem]) -> list[EngineSizes | FailedSizes]:
    """Return the sizes for each item, in order.

    If the engine ends its process on one of several items, each is asked in a separate process.

    Raises:
        UserError: the engine cannot start, or ends its process on the only item.
    """
    try:
        return _ask(engine, items)
    except UserError as error:
        if len(items) == 1:
            raise
        return [_alone(engine, item, error) for item in items]


def _alone(engine: str, item: SizesItem, _: UserError) -> EngineSizes | FailedSizes:
    try:
        [found] = _ask(engine, [item])
    except UserError as error:
        return FailedSizes(what=error.what, advice=error.advice)
    return found


def _ask(engine: str, items: Sequence[SizesItem]) -> list[EngineSizes | FailedSizes]:
    with tempfile.TemporaryFile() as log:
        try:
            run = subprocess.run(
                command("moe_watch.backends.memory.child"),
                input=msgspec.json.encode(SizesRequest(engine=engine, items=list(items))),
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment() | ENVIRONMENT,
                timeout=LONGEST_WAIT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise UserError(f"{engine} does not answer within {LONGEST_WAIT:.0f} s", advice="try again") from error
        log.seek(max(0, log.seek(0, 2) - LOG_TAIL))
        said = log.read().decode(errors="replace")
    if run.returncode:
        raise UserError(f"the process that asks {engine} {_reason(run.returncode, said)}")
    return msgspec.json.decode(run.stdout, type=SizesAnswer).sizes


def _reason(status: int, log: str) -> str:
    """Return how the process ended, with the last line of its log if it is a Python error."""
    last = next(reversed(log.split("\n")[-2:-1]), "")
    return f"exited ({last})" if status > 0 and last else exit_cause(status, log)
