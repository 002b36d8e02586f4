"""What a run begins with, and whether it can begin: asked before the one under way is ended for it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from moe_watch.backends.engine import Detokenizer, Engine
from moe_watch.backends.generation.forks import check_plan
from moe_watch.backends.protocol import Start, TeacherTokens
from moe_watch.backends.sampling import check_sampling
from moe_watch.routing.errors import UserError

BROKEN = "\N{REPLACEMENT CHARACTER}"
"""Stands where bytes make no character; how many there are is up to the engine."""


def first_tokens(engine: Engine, start: Start) -> list[int]:
    """The token ids of a run's prompt.

    Raises:
        UserError: the run cannot begin, and why.
    """
    check_sampling(start.sampling)
    if start.forks is not None:
        check_plan(start.forks, engine)
    if start.teacher:
        _check_teacher(engine, start)
        return start.teacher[0].ids
    prompt = engine.encode(start.prompt, turn=is_turn(engine, start), first=True)
    if not prompt and start.prompt:
        raise UserError(
            f"the tokenizer of {engine.model.name} makes no tokens of the prompt",
            advice="give another prompt, or a model file that holds its tokenizer",
        )
    _check_prompt(prompt, engine.context_length)
    return prompt


def is_turn(engine: Engine, start: Start) -> bool:
    """Return whether the model's chat template wraps the prompt."""
    return engine.has_chat_template and not start.raw and not start.teacher


def _check_prompt(prompt: Sequence[int], room: int) -> None:
    if not prompt:
        raise UserError("the prompt is empty", advice="give at least one token to begin with")
    if len(prompt) >= room:
        raise UserError(
            f"the prompt has {len(prompt):,} tokens, the context holds {room:,}", advice="shorten the prompt"
        )


# -- another session's tokens


def _check_teacher(engine: Engine, start: Start) -> None:
    """Refuse tokens that this model would read otherwise, or cannot hold."""
    if start.perturb is not None or start.forks is not None:
        raise UserError("a run that takes another session's tokens is not perturbed", advice="leave one of the two out")
    if start.teacher[0].source != "prompt":
        raise UserError("the session to take tokens from does not begin with a prompt", advice="give another session")
    for context in _contexts(start.teacher):
        _check_vocabulary(context, engine)
        _check_room(context, engine)
        _check_text(context, engine.detokenizer())


def _contexts(teacher: Sequence[TeacherTokens]) -> list[list[TeacherTokens]]:
    """Each of them begins with a prompt."""
    number = 0

    def context(tokens: TeacherTokens) -> int:
        nonlocal number
        number += tokens.source == "prompt"
        return number

    return [list(pieces) for _, pieces in groupby(teacher, context)]


def _check_vocabulary(context: Sequence[TeacherTokens], engine: Engine) -> None:
    low, high = min(min(piece.ids) for piece in context), max(max(piece.ids) for piece in context)
    if low < 0 or high >= engine.vocabulary:
        raise UserError(
            f"the session to take tokens from has token {low if low < 0 else high}, "
            f"the vocabulary of {engine.model.name} ends at {engine.vocabulary - 1}",
            advice="give a session of a model with the same tokenizer",
        )


def _check_room(context: Sequence[TeacherTokens], engine: Engine) -> None:
    tokens = sum(len(piece.ids) for piece in context)
    if tokens > engine.context_length:
        raise UserError(
            f"the session to take tokens from has {tokens:,} tokens in one context, "
            f"that of {engine.model.name} holds {engine.context_length:,}",
            advice="give a shorter session",
        )


def _check_text(context: Sequence[TeacherTokens], detokenizer: Detokenizer) -> None:
    """Ids are compared by what they stand for; where a character ends is up to the engine, so whole contexts are."""
    ours = _readable("".join(detokenizer.add(token) for piece in context for token in piece.ids))
    theirs = _readable("".join(piece.text for piece in context))
    if ours == theirs:
        return
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    raise UserError(
        f"the session to take tokens from reads {theirs[at : at + 12]!a} where this model's tokenizer makes "
        f"{ours[at : at + 12]!a} of the same tokens",
        advice="give a session of a model with the same tokenizer",
    )


def _readable(text: str) -> str:
    return text.replace(BROKEN, "")
