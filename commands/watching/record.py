"""`moe-watch record`: record a run without a dashboard."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from moe_watch.commands.options import generation_options, model_choice, recording_options
from moe_watch.commands.output import complain
from moe_watch.commands.watching.ablate_option import ablate_option
from moe_watch.commands.watching.headless import finish, follow, require_whole
from moe_watch.commands.watching.pause_options import control_options
from moe_watch.commands.watching.settings import run_settings

if TYPE_CHECKING:
    from moe_watch.sessions.live.settings import RunSettings

DEFAULT_TOKENS = 1200
"""Length of a measurement: ten warm-up and fifty measured chunks of twenty tokens."""
STANDARD_OUTPUT = Path("-")


@click.command()
@model_choice
@generation_options
@ablate_option
@recording_options
@control_options
@click.option(
    "--on-full-context",
    type=click.Choice(["finish", "restart"]),
    default="finish",
    show_default=True,
    help="At the end of the context: finish, or continue in a fresh context with the same prompt.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
def record(as_json: bool, on_full_context: Literal["finish", "restart"], **options: Any) -> None:
    """Record a run of MODEL without a dashboard.

    MODEL is a folder, a .gguf file, a Hugging Face id, a name that `moe-watch models` lists, or pocket, the built-in
    small model.

    The default is 1,200 tokens. If the model ends its text, it is made to continue, and the token is marked (`--stop
    eos` ends the run there). The progress bar goes to standard error, the summary to standard output.

    `--output FILE.moe.jsonl.zst` compresses the session. `--output -` writes it to standard output, line by line during
    the run, and everything else to standard error. In a pipe there is no progress bar and no summary, as the reader may
    draw on the same terminal.
    """
    if options["tokens"] is None and options["stop"] != "eos" and options["teacher"] is None:
        options["tokens"] = DEFAULT_TOKENS
    streamed = options["output"] == STANDARD_OUTPUT
    if streamed:
        options["output"] = None
    settings = run_settings(options, stop="never", on_full_context=on_full_context, recording_required=True)
    if streamed:
        with _standard_output() as descriptor:
            _record(settings, as_json, descriptor)
    else:
        _record(settings, as_json, None)


def _record(settings: RunSettings, as_json: bool, stream: int | None) -> None:
    from moe_watch.sessions.live.environment import Surroundings
    from moe_watch.sessions.live.source import LiveSource

    source = LiveSource(settings, Surroundings(stream=stream))
    quiet = stream is not None and _has_a_reader(stream)
    summary = follow(source, total=settings.spec.tokens, quiet=quiet)
    if stream is not None and source.recording.problem:
        complain(source.recording.problem)
        raise click.exceptions.Exit(1)
    if as_json or not quiet:
        finish(source, summary, as_json=as_json)
    require_whole(source, summary)


def _has_a_reader(stream: int) -> bool:
    """Return whether the output is a pipe or socket to another program."""
    mode = os.fstat(stream).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


@contextmanager
def _standard_output() -> Iterator[int]:
    """Yield standard output as a descriptor for the session. Other output goes to standard error meanwhile."""
    sys.stdout.flush()
    output, kept = os.dup(1), os.dup(1)
    os.dup2(2, 1)
    try:
        yield output
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
