"""`moe-watch replay`: replay a session."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moe_watch.commands.watching.headless import finish, follow
from moe_watch.commands.watching.importance_option import check_importance, importance_files, importance_option
from moe_watch.commands.watching.screen import require_terminal, show
from moe_watch.routing.errors import UserError

if TYPE_CHECKING:
    from moe_watch.routing.header import ModelInfo
    from moe_watch.sessions.reading.store import Store

SPEEDS = (0.25, 16.0)
STANDARD_INPUT = Path("-")
TERMINAL = "/dev/tty"


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--speed",
    type=float,
    default=1.0,
    show_default=True,
    help=f"Playback speed, {SPEEDS[0]:g} to {SPEEDS[1]:g}; 0 for as fast as possible.",
)
@click.option(
    "--follow", "-f", "following", is_flag=True, help="Begin at the end, and follow a session that is still recording."
)
@importance_option
@click.option("--headless", is_flag=True, help="Compute the summary without a dashboard.")
@click.option("--json", "as_json", is_flag=True, help="With --headless: print the summary as one JSON object.")
def replay(
    file: Path, speed: float, following: bool, importance: tuple[Path, ...], headless: bool, as_json: bool
) -> None:
    """Replay FILE: a session, its name in `moe-watch sessions`, or - for a session from a pipe.

    All numbers are recomputed from the recorded tokens. Waits of more than two seconds are cut to two seconds.
    """
    if speed != 0 and not SPEEDS[0] <= speed <= SPEEDS[1]:
        raise UserError(
            f"--speed is {speed:g}", advice=f"use {SPEEDS[0]:g} to {SPEEDS[1]:g}, or 0 for as fast as possible"
        )
    if as_json and not headless:
        raise UserError("--json without --headless", advice="add --headless")
    if importance and headless:
        raise UserError("--importance with --headless", advice="leave out one of them")
    known = importance_files(importance)

    from moe_watch.sessions.library.lookup import session_file
    from moe_watch.sessions.replaying.source import ReplaySource

    piped = _piped(keyboard=not headless) if file == STANDARD_INPUT else None
    if not headless:
        require_terminal(advice="use --headless")
    session = session_file(file) if piped is None else piped
    if not headless:
        if known and isinstance(session, Path):
            check_importance(known, _model_of(session))
        show(ReplaySource(session, speed=speed, follow=following), importance=known)
        return
    source = ReplaySource(session, speed=0, follow=following)
    finish(source, follow(source, total=None), as_json=as_json)


def _model_of(session: Path) -> ModelInfo:
    from moe_watch.sessions.reading.reader import read_session

    reader = read_session(session)
    try:
        return reader.header.model
    finally:
        reader.close()


def _piped(*, keyboard: bool) -> Store:
    """Return the session from standard input, and connect standard input to the terminal if `keyboard`.

    Raises:
        UserError: standard input is no pipe, or there is no terminal.
    """
    from moe_watch.sessions.reading.store import STANDARD_INPUT as NAME
    from moe_watch.sessions.reading.store import Spool

    if os.isatty(0):
        raise UserError("standard input is a terminal, not a session", advice="pipe a session into it, or give a file")
    try:
        descriptor = os.dup(0)
    except OSError as error:
        raise UserError("standard input is closed", advice="pipe a session into it, or give a file") from error
    if keyboard:
        _take_keys_from_the_terminal()
    return Spool(descriptor, NAME)


def _take_keys_from_the_terminal() -> None:
    try:
        terminal = os.open(TERMINAL, os.O_RDWR)
    except OSError as error:
        raise UserError("there is no terminal to read keys from", advice="use --headless") from error
    os.dup2(terminal, 0)
    os.close(terminal)
