"""Checks of the chat template: does a turn of the user reach the model?"""

from __future__ import annotations

from collections.abc import Sequence

from moe_watch.backends.protocol import Ready
from moe_watch.backends.text.turn_check import LEFT_OUT
from moe_watch.sessions.checking.results import CheckResult, failure, fine, warning

TEMPLATE, FORMAT = "template", "format"
LONGEST_QUOTE = 100
RAW = "give --raw, or another template"


def template_checks(ready: Ready, sent: str, said: Sequence[str], refusal: str) -> list[CheckResult]:
    """Check the chat template by what the model got for one turn.

    Args:
        ready: the loaded model.
        sent: text of the prompt's tokens.
        said: warnings of the format check.
        refusal: reason why the turn could not be rendered; empty if it was.
    """
    if refusal:
        return [failure(TEMPLATE, refusal, RAW)]
    if ready.template is None:
        return [fine(TEMPLATE, "none: prompts are sent as they are")]
    if left_out := next((each for each in said if LEFT_OUT in each), None):
        return [failure(TEMPLATE, left_out, RAW)]
    return [fine(TEMPLATE, f"a turn is sent as {_quoted(sent)}")]


def format_checks(said: Sequence[str], model: str, *, refused: bool) -> list[CheckResult]:
    """Return the warnings of the format check, one line each; no line for a prompt that was not rendered.

    Args:
        said: warnings about the template and the prompt of the trial.
        model: name of the model, quoted for a shell.
        refused: the prompt could not be rendered.
    """
    advice = f"the model answers, only worse; `moe-watch check {model} --show-prompt` shows the prompt as it is sent"
    found = [warning(FORMAT, each, advice) for each in said if LEFT_OUT not in each]
    return (
        found if found or refused else [fine(FORMAT, "no fault found in the prompt's special tokens and turn markers")]
    )


def _quoted(text: str) -> str:
    return repr(text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}…")
