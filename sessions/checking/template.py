"""Checks of the chat template: does a turn of the user reach the model?"""

from __future__ import annotations

from collections.abc import Sequence

from moe_watch.backends.protocol import Ready
from moe_watch.backends.text.turn_check import LEFT_OUT
from moe_watch.sessions.checking.results import CheckResult, failure, fine

TEMPLATE = "template"
LONGEST_QUOTE = 100
RAW = "give --raw, or another template"


def template_checks(ready: Ready, sent: str, warnings: Sequence[str], refusal: str) -> list[CheckResult]:
    """Check the chat template by what the model got for one turn.

    Args:
        ready: the loaded model.
        sent: text of the prompt's tokens.
        warnings: warnings of the run.
        refusal: reason why the turn could not be rendered; empty if it was.
    """
    if refusal:
        return [failure(TEMPLATE, refusal, RAW)]
    if ready.template is None:
        return [fine(TEMPLATE, "none: prompts are sent as they are")]
    if left_out := next((each for each in [*ready.warnings, *warnings] if LEFT_OUT in each), None):
        return [failure(TEMPLATE, left_out, RAW)]
    return [fine(TEMPLATE, f"a turn is sent as {_quoted(sent)}")]


def _quoted(text: str) -> str:
    return repr(text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}…")
