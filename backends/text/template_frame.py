"""Frame of a chat template: the text that it writes around a user's text, and after an answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from moe_watch.backends.engine import Codec, Messages
from moe_watch.backends.text.tokenizer import TemplateFailure
from moe_watch.routing.events import TemplateSource

PROBE = "Name a colour, please."
"""Text that a template is checked with while a model is loaded; plain words that no template has reason to change."""
ANSWER = "It is blue, I think."

MARKER = re.compile(r"<[|｜]?[^<>\s]{1,40}>|<<[A-Z/]{2,20}>>|\[/?[A-Z_]{2,30}\]")
"""Marker as chat templates write them: `<|im_start|>`, `<start_of_turn>`, `[INST]`."""


@dataclass(frozen=True, slots=True)
class TemplateFrame:
    """Text that a template writes around a conversation."""

    turn: str
    """First turn with `PROBE` as the user's text, up to the start of the answer."""
    end: str
    """Text after a past answer; empty if it is unknown."""
    bounds: frozenset[str]
    """Begin-of-text and end-of-text tokens."""

    @property
    def markers(self) -> tuple[str, ...]:
        """Turn markers in brackets, in order; else the words next to the user's text; empty if there are none."""
        before, _, after = self.turn.partition(PROBE)
        found = dict.fromkeys(MARKER.findall(f"{before}\n{after}"))
        return tuple(each for each in found if each not in self.bounds) or (*before.split()[-1:], *after.split()[:1])

    @property
    def end_marker(self) -> str:
        """Marker that ends an answer; empty if there is none in brackets."""
        found = MARKER.match(self.end.lstrip())
        return "" if found is None else found[0]


def frame_of(codec: Codec) -> TemplateFrame | None:
    """Return the frame of a model's chat template; None if the model has none, or if it fails."""
    return None if (source := codec.template) is None else _frame(codec, source)


@lru_cache(maxsize=1)
def _frame(codec: Codec, _source: TemplateSource) -> TemplateFrame | None:
    """Render a template once per model; `_source` separates a replaced template from the model's."""
    asked: Messages = [{"role": "user", "content": PROBE}]
    answered = [*asked, {"role": "assistant", "content": ANSWER}]
    try:
        turn, past = codec.render([asked, answered])
    except TemplateFailure:
        return _without_answer(codec, asked)
    return TemplateFrame(turn, past.partition(ANSWER)[2], _bounds(codec))


def _without_answer(codec: Codec, asked: Messages) -> TemplateFrame | None:
    """Return the frame of a template that refuses a conversation which ends with an answer."""
    try:
        return TemplateFrame(codec.render([asked])[0], "", _bounds(codec))
    except TemplateFailure:
        return None


def _bounds(codec: Codec) -> frozenset[str]:
    begin = [] if codec.begin is None else [codec.begin]
    return frozenset(codec.decode([token]) for token in (*begin, *codec.ends))
