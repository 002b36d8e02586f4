"""Output of commands. Names, messages and paths come from models and files, so control characters are made visible."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from msgspec import Struct


def say(line: str, *, err: bool = False) -> None:
    """Print one line on standard output, or on standard error. Control characters are shown, not obeyed."""
    from moe_watch.tui.text.sanitize import inert

    click.echo(inert(line), err=err)


def complain(message: str) -> None:
    """Print a message as one line on standard error."""
    say(f"moe-watch: {' '.join(message.split())}", err=True)


def print_result(result: Struct | None) -> None:
    """Print a result as one JSON object on one line of standard output; an empty object for None."""
    import json

    from msgspec import to_builtins

    click.echo(json.dumps({} if result is None else to_builtins(result), allow_nan=False))
