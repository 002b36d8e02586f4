"""First tokens of a run, and checks that it can begin. They run before the present run is ended for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from moe_watch.backends.engine import Detokenizer, Engine
from moe_watch.backends.generation.forks import check_plan
from moe_watch.backends.protocol import Start
from moe_watch.backends.run_spec import RunSpec, TeacherTokens
from moe_watch.backends.sampling import check_sampling
from moe_watch.backends.text.first_turn import prompt_tokens
from moe_watch.routing.errors import UserError
from moe_watch.routing.router.masks import ExpertMask

BROKEN = "\N{REPLACEMENT CHARACTER}"
"""Replacement of bytes that are not a character; engines differ in how many they insert."""


def first_tokens(engine: Engine, start: Start) -> list[int]:
    """Return the token ids of a run's prompt.

    Raises:
        UserError: the run cannot begin.
    """
    spec = start.spec
    check_sampling(start.sampling)
    engine.check_mask(ExpertMask.from_rows(spec.mask))
    if spec.forks is not None:
        check_plan(spec.forks, engine)
    if spec.teacher is not None:
        _check_teacher(engine, spec)
        return spec.teacher.tokens[0].ids
    prompt = prompt_tokens(engine, spec)
    if not prompt and spec.prompt:
        raise UserError(
            f"the tokenizer of {engine.model.name} returns no tokens for the prompt",
            advice="give another prompt, or a model file that contains its tokenizer",
        )
    _check_prompt(prompt, engine.context_length)
    return prompt


def _check_prompt(prompt: Sequence[int], room: int) -> None:
    if not prompt:
        raise UserError("the prompt is empty", advice="give at least one token to begin with")
    if len(prompt) >= room:
        raise UserError(
            f"the prompt has {len(prompt):,} tokens, the context holds {room:,}", advice="shorten the prompt"
        )


# -- teacher forcing


def _check_teacher(engine: Engine, spec: RunSpec) -> None:
    """Refuse tokens that have another meaning for this model, or do not fit into its context."""
    if spec.injections is not None or spec.forks is not None:
        raise UserError("teacher forcing allows no injections and no forks", advice="remove one of the two")
    _checked_contexts(spec.teacher_tokens, engine, must_fit=True)


def session_texts(engine: Engine, tokens: Sequence[TeacherTokens]) -> list[list[int]]:
    """Return the token ids of a session, one list per context; a turn that keeps the whole context continues its list.

    Raises:
        UserError: they have another meaning for this model.
    """
    texts: list[list[int]] = []
    before = 0
    for context in _checked_contexts(tokens, engine, must_fit=False):
        new = [token for piece in context.pieces for token in piece.ids]
        if texts and len(context.kept) == before:
            texts[-1] += new
        else:
            texts.append(new)
        before = len(context.ids)
    return texts


def _checked_contexts(tokens: Sequence[TeacherTokens], engine: Engine, *, must_fit: bool) -> list[TeacherContext]:
    """Return the contexts of a session whose tokens mean the same for this model.

    Args:
        tokens: tokens of the session.
        engine: a loaded model.
        must_fit: each context must fit into the model's.

    Raises:
        UserError: they do not, or the session does not begin with a prompt.
    """
    if not tokens or tokens[0].source != "prompt":
        raise UserError("the teacher session does not begin with a prompt", advice="give another session")
    found = _contexts(tokens)
    for context in found:
        _check_vocabulary(context.pieces, engine)
        if must_fit:
            _check_room(context, engine)
        _check_text(context, engine.detokenizer())
    return found


@dataclass(slots=True)
class TeacherContext:
    """Tokens of one context of a teacher, up to where it is cut."""

    kept: list[int]
    """Tokens of the context before that remain."""
    pieces: list[TeacherTokens] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        """All tokens in order."""
        return self.kept + [token for piece in self.pieces for token in piece.ids]


def _contexts(teacher: Sequence[TeacherTokens]) -> list[TeacherContext]:
    """Split the tokens into contexts; each begins with a prompt, or where the context was cut for a turn.

    Raises:
        UserError: a turn keeps more tokens than there are.
    """
    contexts: list[TeacherContext] = []
    for tokens in teacher:
        if tokens.turn is not None:
            before = contexts[-1].ids
            if tokens.turn.kept > len(before):
                raise UserError(
                    f"the teacher session keeps {tokens.turn.kept:,} tokens of a context of {len(before):,}",
                    advice="give another session",
                )
            contexts.append(TeacherContext(before[: tokens.turn.kept]))
        elif tokens.source == "prompt":
            contexts.append(TeacherContext([]))
        contexts[-1].pieces.append(tokens)
    return contexts


def _check_vocabulary(context: Sequence[TeacherTokens], engine: Engine) -> None:
    low, high = min(min(piece.ids) for piece in context), max(max(piece.ids) for piece in context)
    if low < 0 or high >= engine.vocabulary:
        raise UserError(
            f"the teacher session has token {low if low < 0 else high}, "
            f"the vocabulary of {engine.model.name} ends at {engine.vocabulary - 1}",
            advice="give a session of a model with the same tokenizer",
        )


def _check_room(context: TeacherContext, engine: Engine) -> None:
    tokens = len(context.ids)
    if tokens > engine.context_length:
        raise UserError(
            f"the teacher session has {tokens:,} tokens in one context, "
            f"that of {engine.model.name} holds {engine.context_length:,}",
            advice="give a shorter session",
        )


def _check_text(context: TeacherContext, detokenizer: Detokenizer) -> None:
    """Compare the texts of whole contexts: engines differ in the token that completes a character."""
    for token in context.kept:
        detokenizer.add(token)
    ours = _readable("".join(detokenizer.add(token) for piece in context.pieces for token in piece.ids))
    theirs = _readable("".join(piece.text for piece in context.pieces))
    if ours == theirs:
        return
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    raise UserError(
        f"the teacher session has the text {theirs[at : at + 12]!a}, and this model's tokenizer decodes "
        f"the same tokens to {ours[at : at + 12]!a}",
        advice="give a session of a model with the same tokenizer",
    )


def _readable(text: str) -> str:
    return text.replace(BROKEN, "")
