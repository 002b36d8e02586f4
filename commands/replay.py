"""`moe-watch replay`: a recorded session once more."""

from __future__ import annotations

from pathlib import Path

import click

from commands.headless import finish, follow
from commands.screen import require_terminal, show
from routing.errors import UserError

SPEEDS = (0.25, 16.0)


@click.command(short_help="Watch a recorded session again.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--speed", type=float, default=1.0, show_default=True, help="Factor on recorded time; 0 is as fast as it goes."
)
@click.option("--headless", is_flag=True, help="Compute the summary without a screen.")
@click.option("--json", "as_json", is_flag=True, help="With --headless: print the summary as one JSON object.")
def replay(file: Path, speed: float, headless: bool, as_json: bool) -> None:
    """Play FILE, a session that moe-watch recorded. Every number is computed again from the recorded tokens."""
    if speed != 0 and not SPEEDS[0] <= speed <= SPEEDS[1]:
        raise UserError(f"--speed is {speed:g}", advice=f"use {SPEEDS[0]:g} to {SPEEDS[1]:g}, or 0 for no waiting")
    if as_json and not headless:
        raise UserError("--json without --headless", advice="add --headless")

    from sessions.replay import ReplaySource

    if not headless:
        require_terminal(advice="use --headless")
        show(ReplaySource(file, speed=speed))
        return
    source = ReplaySource(file, speed=0)
    finish(source, follow(source, total=None), as_json=as_json)
