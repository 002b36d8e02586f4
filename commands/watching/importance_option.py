"""Option of files with the importance of experts, which the dashboard shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moe_watch.commands.options import Command

if TYPE_CHECKING:
    from moe_watch.routing.header import ModelInfo
    from moe_watch.sessions.experts.importance import ImportanceFile


def importance_option(command: Command) -> Command:
    """Add `--importance`."""
    return click.option(
        "--importance",
        type=click.Path(path_type=Path),
        metavar="FILE",
        multiple=True,
        help="JSON file of `profile` or `ablate` for this model: key h shows its saliency or damage; can be repeated. "
        "Default: the model's files in the data directory.",
    )(command)


def importance_files(paths: Sequence[Path]) -> list[tuple[str, ImportanceFile]]:
    """Read the files, with their names.

    Raises:
        UserError: a file cannot be read, or is of neither kind.
    """
    if not paths:
        return []

    from moe_watch.sessions.experts.importance import read_importance

    return [(path.name, read_importance(path)) for path in paths]


def check_importance(files: Sequence[tuple[str, ImportanceFile]], model: ModelInfo) -> None:
    """Refuse files of another model.

    Raises:
        UserError: a file is of another model.
    """
    from moe_watch.sessions.experts.importance import importance_of

    importance_of(files, model)
