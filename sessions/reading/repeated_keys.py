"""Keys that stand twice in one JSON object. Readers differ in which of the two they take, so neither is taken.

Nearly all lines are as moe-watch wrote them. Such a line has as many quotation marks as what was read of it has when it
is written again: a key more shows. Only where these numbers differ are the keys compared.
"""

from __future__ import annotations

import json
from typing import Any

from moe_watch.routing.events import Event, Token, to_json

_QUOTE, _BACKSLASH, _ESCAPED = b'"', b"\\", b'\\"'
_ALWAYS = 7
"""Keys of every token: event, i, t, phase, source, id, text."""
_TEXTS = 4
"""Values of a token that are text: event, phase, source, text."""


def repeated_key(line: bytes, event: Event) -> str | None:
    """Return a key that stands twice in an object of a line, if there is one.

    Args:
        line: JSON.
        event: what was read of it.

    Raises:
        RecursionError: it is nested too deeply.
    """
    expected = _quotes_of_token(event) if isinstance(event, Token) else _quotes(to_json(event))
    return None if _quotes(line) == expected else _look(line)


def _quotes(line: bytes) -> int:
    """Quotation marks around keys and texts; one less for each text that ends with a backslash."""
    return line.count(_QUOTE) - (line.count(_ESCAPED) if _BACKSLASH in line else 0)  # most have none; one byte is fast


def _quotes_of_token(token: Token) -> int:
    """The same of a token's line, without writing it."""
    prediction = (token.logprob, token.top_margin, token.choice_gap)
    optional = (*prediction, token.weights, token.entropy, token.margin, token.probs)
    keys = _ALWAYS + len(optional) - optional.count(None) + bool(token.experts) + token.would_stop
    return 2 * (keys + _TEXTS) - token.text.endswith("\\")


def _look(line: bytes) -> str | None:
    found: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                found.append(key)
            seen.add(key)

    json.loads(line, object_pairs_hook=note, parse_int=str, parse_float=str)
    return found[0] if found else None
