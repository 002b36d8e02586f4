"""Detection of repeated keys in a JSON object. JSON readers differ in which value they use, so the line is refused.

A line of moe-watch has the same number of quotation marks as its event encoded again; a repeated key adds to it. The
keys are compared only if the numbers differ.
"""

from __future__ import annotations

import json

from moe_watch.routing.events import Event, Token, to_json

_QUOTE, _BACKSLASH, _ESCAPED = b'"', b"\\", b'\\"'
_ALWAYS = 7
"""Number of keys of every token: event, i, t, phase, source, id, text."""
_TEXTS = 4
"""Number of values of a token that are text: event, phase, source, text."""


def repeated_key(line: bytes, event: Event) -> str | None:
    """Return a key that occurs twice in an object of a line, None if there is none.

    Args:
        line: JSON.
        event: the line's event.

    Raises:
        RecursionError: the line is nested too deeply.
    """
    expected = _quotes_of_token(event) if isinstance(event, Token) else _quotes(to_json(event))
    return None if _quotes(line) == expected else _look(line)


def _quotes(line: bytes) -> int:
    """Count the quotation marks around keys and texts, minus one for each text that ends with a backslash."""
    return line.count(_QUOTE) - (line.count(_ESCAPED) if _BACKSLASH in line else 0)  # fast: most lines have none


def _quotes_of_token(token: Token) -> int:
    """Return the same count for a token, without encoding it."""
    prediction = (token.logprob, token.top_margin, token.choice_gap)
    optional = (*prediction, token.weights, token.entropy, token.margin, token.probs)
    keys = _ALWAYS + len(optional) - optional.count(None) + bool(token.experts) + token.would_stop
    return 2 * (keys + _TEXTS) - token.text.endswith("\\")


def _look(line: bytes) -> str | None:
    found: list[str] = []

    def note(pairs: list[tuple[str, object]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                found.append(key)
            seen.add(key)

    json.loads(line, object_pairs_hook=note, parse_int=str, parse_float=str)
    return found[0] if found else None
