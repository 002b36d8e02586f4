"""Prompt as a model is sent it, token by token, before it is sent."""

from __future__ import annotations

from collections.abc import Sequence

from moe_watch.backends.engine import Engine
from moe_watch.backends.protocol import PromptToken, RenderedPrompt
from moe_watch.backends.run_spec import RunSpec
from moe_watch.backends.text.first_turn import is_turn, prompt_tokens
from moe_watch.backends.text.format_check import prompt_warnings, template_warnings


def rendered_prompt(engine: Engine, spec: RunSpec) -> RenderedPrompt:
    """Return the prompt of a run, with the warnings of the format check. Nothing is evaluated.

    Raises:
        UserError: the prompt cannot be sent.
    """
    ids = prompt_tokens(engine, spec)
    uses_template = is_turn(engine.codec, spec)
    return RenderedPrompt(
        tokens=shown_tokens(engine, ids),
        template=engine.codec.template if uses_template else None,
        warnings=[*(template_warnings(engine) if uses_template else ()), *prompt_warnings(engine, spec, ids)],
    )


def shown_tokens(engine: Engine, ids: Sequence[int]) -> list[PromptToken]:
    """Return tokens with their texts, as a context that begins with them has them."""
    detokenizer = engine.detokenizer()
    return [PromptToken(token, detokenizer.add(token), engine.codec.is_special(token)) for token in ids]
