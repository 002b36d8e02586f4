"""Next turn of a conversation: the whole of it is rendered, and the context keeps the tokens that it begins with.

A template may write the past of a conversation otherwise than it was sent and answered: without the model's thoughts,
or with other spaces. Such tokens are cut from the context, and the rest of the rendered conversation is evaluated.
docs/templates.md, "The next turn".
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Protocol

from moe_watch.backends.engine import Codec, Engine
from moe_watch.backends.generation.emitter import Emitter
from moe_watch.backends.generation.injections import Injection, Turn
from moe_watch.backends.protocol import Perturb
from moe_watch.backends.run_spec import TeacherTokens
from moe_watch.backends.text.common_prefix import common_prefix
from moe_watch.backends.text.dialogue import Dialogue
from moe_watch.routing.errors import UserError


class Tokenizing(Protocol):
    """Part of an engine that tokenizes text for its context."""

    @property
    def codec(self) -> Codec: ...

    @property
    def context_length(self) -> int: ...

    def encode(self, text: str, *, turn: bool, first: bool) -> list[int]: ...


def prepare_turn(perturb: Perturb, dialogue: Dialogue, engine: Tokenizing) -> Injection:
    """Render and tokenize the whole conversation with a further turn, and compare it with the context.

    Raises:
        UserError: the template fails, or the conversation does not fit into the context.
    """
    probe = secrets.token_hex(8)
    conversations = [dialogue.with_turn(perturb.text), dialogue.with_turn(perturb.text, answer=probe)]
    text, probed = engine.codec.render(conversations)
    whole = engine.encode(text, turn=False, first=False)
    if len(whole) >= engine.context_length:
        raise UserError(
            f"the whole conversation has {len(whole):,} tokens, and the context holds {engine.context_length:,}",
            advice="begin another one",
        )
    kept = min(
        common_prefix(dialogue.ids, whole), len(whole) - 1
    )  # the last token is evaluated: it predicts the answer
    following = engine.encode(probed.partition(probe)[2] or perturb.text, turn=False, first=False)
    turn = Turn(
        whole=whole,
        kept=kept,
        cut=len(dialogue.ids) - kept,
        said=max(0, len(whole) - len(following)),
        # An end-of-text token that the template writes otherwise is no text of the conversation.
        rewrites=len(dialogue.ids) - kept > dialogue.final_ends,
    )
    return Injection(perturb, "turn", turn.new, turn=turn)


def recorded_injection(tokens: TeacherTokens, dialogue: Dialogue, *, at_once: bool) -> Injection:
    """Return the injection of a recorded session that these tokens are."""
    perturb = Perturb(text=tokens.text, source="schedule", at_once=at_once)
    return Injection(perturb, "raw", tokens.ids, turn=_recorded_turn(tokens, dialogue))


def _recorded_turn(tokens: TeacherTokens, dialogue: Dialogue) -> Turn | None:
    """Return the turn of a recorded session that these tokens are; None if they were appended."""
    if tokens.turn is None:
        return None
    kept = tokens.turn.kept
    return Turn(
        whole=[*dialogue.ids[:kept], *tokens.ids],
        kept=kept,
        cut=len(dialogue.ids) - kept,
        said=kept + tokens.turn.again,
        rewrites=tokens.turn.begins_context,
        is_recorded=True,
    )


def cut_context(injection: Injection, engine: Engine, emitter: Emitter) -> Injection:
    """Cut the context to the tokens that it shares with the rendered conversation.

    If text of the conversation is evaluated again, a new context begins with the tokens that are kept. An engine whose
    caches cannot be cut evaluates everything in an empty context.

    Returns:
        The injection, with the tokens that remain to be evaluated.
    """
    turn = injection.turn
    if turn is None or (turn.cut == 0 and not turn.rewrites):
        return injection
    if turn.kept == 0 or not engine.truncate(turn.kept):
        engine.reset()
        if turn.is_recorded:
            _evaluate_unseen(turn.whole[: turn.kept], engine)
        else:
            turn = replace(turn, kept=0, cut=turn.cut + turn.kept, rewrites=True)
    if turn.rewrites:
        emitter.state("fresh_context", why="turn")
    emitter.rewind(engine.detokenizer(), turn.kept)
    return replace(injection, ids=turn.new, turn=turn)


def _evaluate_unseen(ids: list[int], engine: Engine) -> None:
    """Evaluate tokens whose routing the run has shown already."""
    if ids:
        for _ in engine.prefill(ids, lambda _: None):
            pass
