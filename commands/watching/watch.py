"""`moe-watch watch`: watch a model generate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from moe_watch.commands.options import generation_options, model_choice, recording_options
from moe_watch.commands.watching.ablate_option import ablate_option
from moe_watch.commands.watching.importance_option import importance_files, importance_option
from moe_watch.commands.watching.pause_options import control_options
from moe_watch.commands.watching.screen import require_terminal, show
from moe_watch.commands.watching.settings import run_settings
from moe_watch.routing.errors import UserError


@click.command()
@model_choice
@generation_options
@ablate_option
@recording_options
@control_options
@importance_option
@click.option("--no-record", is_flag=True, help="Do not record the run.")
@click.option(
    "--rate", type=float, default=30.0, show_default=True, help="Limit in tokens per second; 0 for as fast as possible."
)
@click.option("--multistep", is_flag=True, help="Pause after every chunk until you continue the run.")
def watch(
    no_record: bool = False,
    rate: float = 30.0,
    multistep: bool = False,
    importance: tuple[Path, ...] = (),
    **options: Any,
) -> None:
    """Watch MODEL generate.

    MODEL is a folder, a .gguf file, a Hugging Face id, a name that `moe-watch models` lists, or pocket, the built-in
    small model.

    Every run is recorded unless `--no-record` is given; `moe-watch replay` replays it. At the end of its text the model
    is made to continue, and at the end of the context the prompt is re-evaluated in a fresh context; both are marked.
    With `--stop eos` the run ends with the text, and `g` continues it.
    """
    if not 0 <= rate < float("inf"):
        raise UserError(f"--rate is {rate}", advice="use tokens per second, or 0 for as fast as possible")
    known = importance_files(importance)
    require_terminal(advice="use `moe-watch record`, which needs none")
    settings = run_settings(
        options,
        stop="never",
        rate=rate,
        on_full_context="restart",
        multistep=multistep,
        record=not no_record,
        attended=True,
    )

    from moe_watch.sessions.live.source import LiveSource

    show(LiveSource(settings), importance=known)
