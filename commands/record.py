"""`moe-watch record`: the same run as `watch`, without a screen."""

from __future__ import annotations

from typing import Any

import click

from commands.headless import finish, follow, require_whole
from commands.options import generation_options, model_choice, recording_options
from commands.settings import run_settings

DEFAULT_TOKENS = 1200
"""What a measurement takes: ten warm-up and fifty measured chunks of twenty."""


@click.command(short_help="Record a model without a screen.")
@model_choice
@generation_options
@recording_options
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
def record(as_json: bool, **options: Any) -> None:
    """Record MODEL generating, without a screen: a folder, a Hugging Face id, or pocket, the small model inside.

    Generates 1,200 tokens unless told otherwise; where the model ends its text it is told to go on, and the place is
    marked (`--stop eos` ends there). The progress bar goes to standard error, the summary to standard output.
    """
    if options["tokens"] is None and options["stop"] != "eos":
        options["tokens"] = DEFAULT_TOKENS
    settings = run_settings(options, stop="never", recording_required=True)

    from sessions.live import LiveSource

    source = LiveSource(settings)
    summary = follow(source, total=settings.tokens)
    finish(source, summary, as_json=as_json)
    require_whole(source, summary)
