"""Check that a chat template passes the user's text on to the model."""

from __future__ import annotations

import json
from collections.abc import Sequence

from moe_watch.backends.engine import Engine

LONGEST_QUOTE = 60
LEFT_OUT = "the chat template leaves out or changes the user's text"
"""Beginning of the warning about such a template."""


def contains(engine: Engine, ids: Sequence[int], text: str) -> bool:
    """Return whether the tokens of a turn contain the user's text, as this tokenizer spells it.

    Templates may trim a text or quote it as JSON; tokenizers may change its characters.
    """
    sent = _squeezed(_decoded(engine, ids))
    return any(_squeezed(each) in sent for each in (text, *_spellings(engine, text)))


def _spellings(engine: Engine, text: str) -> list[str]:
    quoted = [json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True)]
    return [*quoted, _decoded(engine, engine.encode(text, turn=False, first=False))]


def _decoded(engine: Engine, ids: Sequence[int]) -> str:
    detokenizer = engine.detokenizer()
    return "".join(detokenizer.add(token) for token in ids)


def _squeezed(text: str) -> str:
    """Return the text without white space, which templates and tokenizers change."""
    return "".join(text.split())


def left_out(engine: Engine, ids: Sequence[int]) -> str:
    """Return the message that the user's text does not reach the model, with the text that does."""
    sent = _decoded(engine, ids)
    shown = sent if len(sent) <= LONGEST_QUOTE else f"{sent[:LONGEST_QUOTE]}…"
    return f"{LEFT_OUT}: the model gets {shown!r}"
