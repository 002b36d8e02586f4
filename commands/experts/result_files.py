"""Places of a finished profile or ablation: the file that the user named, and the dashboard's copy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from moe_watch.commands.output import complain, say

if TYPE_CHECKING:
    from moe_watch.sessions.results.ablation import AblationReport
    from moe_watch.sessions.results.profile import ExpertProfile


def kept_for_dashboard(measured: ExpertProfile | AblationReport, named: str, *, another_k: bool) -> bool:
    """Store a result where the dashboard finds it, and return whether that was done; a failure is a complaint.

    Args:
        measured: the result.
        named: its kind in messages.
        another_k: it was measured with another number of experts per token, which the model does not have otherwise.
    """
    from moe_watch.sessions.experts.stored_importance import keep_importance

    if another_k:
        return False
    try:
        return keep_importance(measured)
    except OSError as error:
        complain(f"the dashboard will not show this {named}: it cannot be stored ({error.strerror or error})")
        return False


def say_places(named: str, output: Path | None, *, kept: bool) -> None:
    """Print on standard error where a result is."""
    if output is not None:
        say(f"the {named} is {output}{'; the dashboard shows it from now on' if kept else ''}", err=True)
    elif kept:
        say(f"the dashboard shows this {named} from now on", err=True)
