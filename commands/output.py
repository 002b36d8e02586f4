"""What commands print. Names, messages and paths come from models and files, so nothing in them may act."""

from __future__ import annotations

import click


def say(line: str, *, err: bool = False) -> None:
    """Print one line on standard output, or on standard error; control characters are shown, not obeyed."""
    from moe_watch.tui.text.sanitize import inert

    click.echo(inert(line), err=err)


def complain(message: str) -> None:
    """Print what is wrong, as one line on standard error."""
    say(f"moe-watch: {' '.join(message.split())}", err=True)
