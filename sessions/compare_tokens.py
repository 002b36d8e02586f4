"""Two sessions token by token: where both took the same tokens, whether they routed them alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from routing.agreement import Agreement, Rows
from routing.events import Event, Header, State, Token, Unknown
from sessions.parts import RunReader
from sessions.token_arrays import token_arrays

BATCH = 256
"""Tokens whose rows are compared at once."""


@dataclass(frozen=True, slots=True)
class TokenComparison:
    """What two sessions have in common from their beginnings on."""

    tokens: int
    """So many tokens are the same, at the same positions; routing is compared over them."""
    ended: str
    """Why not more of them; empty if both sessions end there."""
    routing: Agreement | None
    not_comparable: str = ""
    """Why there is no `routing`."""


def compare_tokens(a: Path, b: Path) -> TokenComparison:
    """Compare two sessions over the tokens that both begin with.

    Raises:
        UserError: one cannot be read.
    """
    with closing(RunReader(a)) as session_a, closing(RunReader(b)) as session_b:
        walk = _Walk(_positions(session_a), _positions(session_b))
        why = _not_comparable(session_a.header, session_b.header)
        agreement = None if why else _agreement(session_a.header, session_b.header)
        for tokens_a, tokens_b in walk.batches():
            if agreement is not None:
                agreement.add(_rows(tokens_a, session_a.header), _rows(tokens_b, session_b.header))
    if agreement is not None and not walk.tokens:
        agreement, why = None, walk.ended
    return TokenComparison(walk.tokens, walk.ended, agreement, why)


@dataclass(frozen=True, slots=True)
class _Position:
    """A token and where its context begins."""

    token: Token
    context: int
    """How many contexts the run had before this one."""


class _Walk:
    """Goes through two runs side by side for as long as their tokens are the same."""

    def __init__(self, a: Iterator[_Position], b: Iterator[_Position]) -> None:
        self._pairs = zip_longest(a, b)
        self.tokens = 0
        self.ended = ""

    def batches(self) -> Iterator[tuple[list[Token], list[Token]]]:
        """Tokens that are the same, of both runs, in batches that are not empty."""
        batch: tuple[list[Token], list[Token]] = ([], [])
        for a, b in self._pairs:
            self.ended = self._why_not(a, b)
            if self.ended or a is None or b is None:
                break
            self.tokens += 1
            batch[0].append(a.token)
            batch[1].append(b.token)
            if len(batch[0]) == BATCH:
                yield batch
                batch = ([], [])
        if batch[0]:
            yield batch

    def _why_not(self, a: _Position | None, b: _Position | None) -> str:
        """Why these two are not the same token in the same context; empty if they are."""
        at = self.tokens
        if a is None or b is None:
            return f"{'the first' if a is None else 'the second'} ends after {at} tokens"
        if a.token.i != at or b.token.i != at:
            return _missing(at, "the first" if a.token.i != at else "the second")
        if a.token.id != b.token.id:
            return f"the tokens differ from token {at} on: {a.token.text!r} and {b.token.text!r}"
        if a.context != b.context:
            return f"{'the first' if a.context > b.context else 'the second'} begins a fresh context at token {at}"
        return ""


def _missing(at: int, which: str) -> str:
    return f"{which} begins in the middle of its run" if at == 0 else f"{which} lacks token {at}"


def _positions(events: Iterable[Event | Unknown]) -> Iterator[_Position]:
    context = 0
    for event in events:
        if isinstance(event, State) and event.state == "fresh_context":
            context += 1
        elif isinstance(event, Token):
            yield _Position(event, context)


def _not_comparable(a: Header, b: Header) -> str:
    """Why rows of two models cannot be set side by side; empty if they can."""
    one, other = a.model, b.model
    if (shape_text(a), one.layers) == (shape_text(b), other.layers):
        return ""
    if shape_text(a) == shape_text(b):
        return f"the models' MoE layers are not the same ones: {_some(one.layers)} and {_some(other.layers)}"
    return f"the models differ in shape: {shape_text(a)} and {shape_text(b)}"


def _some(layers: list[int]) -> str:
    return f"{', '.join(map(str, layers[:4]))}{', …' if len(layers) > 4 else ''}"


def shape_text(header: Header) -> str:
    """A model's shape in words."""
    model = header.model
    return f"{len(model.layers)} layers × {model.experts} experts, top-{model.experts_per_token}"


def _agreement(a: Header, b: Header) -> Agreement:
    model = a.model
    weights, margin = max(a.units.weights, b.units.weights), max(a.units.margin, b.units.margin)
    return Agreement(len(model.layers), model.experts, model.experts_per_token, weights, margin)


def _rows(tokens: list[Token], header: Header) -> Rows:
    arrays = token_arrays(tokens, header)
    return Rows(arrays.experts, arrays.weights, arrays.margin)
