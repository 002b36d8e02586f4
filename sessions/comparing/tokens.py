"""Comparison of two sessions token by token: agreement of the routing of equal tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import fmean

from moe_watch.routing.events import Event, Header, State, Token, Unknown
from moe_watch.routing.router.agreement import Agreement, RoutingRows
from moe_watch.routing.row_layout import RowLayout
from moe_watch.sessions.reading.multipart import RunReader
from moe_watch.sessions.reading.token_arrays import token_arrays
from moe_watch.sessions.reading.validation import ABSENT_ID
from moe_watch.sessions.text import routers_text

BATCH = 256
"""Number of tokens whose rows are compared at once."""


@dataclass(frozen=True, slots=True)
class CommonSurprisal:
    """Mean surprisal of the same tokens in two sessions, in nats."""

    first: float
    second: float
    tokens: int
    """Number of tokens that have a surprisal in both."""


@dataclass(frozen=True, slots=True)
class TokenComparison:
    """Common prefix of two sessions, and the agreement of their routing over it."""

    tokens: int
    """Number of equal tokens at equal positions; routing is compared over them."""
    ended: str
    """Reason that the prefix ends; empty if both sessions end there."""
    routing: Agreement | None
    not_comparable: str = ""
    """Reason that there is no `routing`."""
    surprisal: CommonSurprisal | None = None
    """Surprisal of these tokens; None if no token has it in both."""


def compare_tokens(a: Path, b: Path) -> TokenComparison | str:
    """Compare two sessions over their common prefix; return a reason instead if the prefix cannot be determined.

    Raises:
        UserError: one cannot be read.
    """
    with closing(RunReader(a)) as session_a, closing(RunReader(b)) as session_b:
        prefix = _CommonPrefix(_positions(session_a), _positions(session_b))
        why = _not_comparable(session_a.header, session_b.header)
        agreement = None if why else _agreement(session_a.header, session_b.header)
        surprisals: list[tuple[float, float]] = []
        for tokens_a, tokens_b in prefix.batches():
            surprisals += _surprisals(tokens_a, tokens_b)
            if agreement is not None:
                agreement.feed(_rows(tokens_a, session_a.header), _rows(tokens_b, session_b.header))
    if prefix.unknown:
        return prefix.unknown
    if agreement is not None and not prefix.tokens:
        agreement, why = None, prefix.ended
    return TokenComparison(prefix.tokens, prefix.ended, agreement, why, _common(surprisals))


def _surprisals(tokens_a: list[Token], tokens_b: list[Token]) -> list[tuple[float, float]]:
    """Return the surprisals of the same tokens in both sessions, in nats, where both have one."""
    pairs = zip(tokens_a, tokens_b, strict=True)
    return [(-a.logprob, -b.logprob) for a, b in pairs if a.logprob is not None and b.logprob is not None]


def _common(surprisals: list[tuple[float, float]]) -> CommonSurprisal | None:
    if not surprisals:
        return None
    first, second = zip(*surprisals, strict=True)
    return CommonSurprisal(fmean(first), fmean(second), len(surprisals))


@dataclass(frozen=True, slots=True)
class _Position:
    """A token and the number of its context."""

    token: Token
    context: int
    """Number of contexts before this one."""


class _CommonPrefix:
    """Reader of two runs side by side, up to their first different token."""

    def __init__(self, a: Iterator[_Position], b: Iterator[_Position]) -> None:
        self._pairs = zip_longest(a, b)
        self.tokens = 0
        self.ended = ""
        self._no_id = ""
        """The session that has no id for its first token; empty if both have one."""
        self._vocabularies = _VocabularyCheck()

    @property
    def unknown(self) -> str:
        """Reason that the common prefix cannot be determined; empty if it can."""
        if self._no_id and not self.tokens:
            return f"{self._no_id} holds no token ids, so equal tokens cannot be determined"
        return self._vocabularies.difference

    def batches(self) -> Iterator[tuple[list[Token], list[Token]]]:
        """Yield the equal tokens of both runs, in batches that are not empty."""
        batch: tuple[list[Token], list[Token]] = ([], [])
        for a, b in self._pairs:
            self.ended = self._why_not(a, b)
            if self.ended or a is None or b is None:
                break
            self.tokens += 1
            self._vocabularies.add(a.token, b.token)
            batch[0].append(a.token)
            batch[1].append(b.token)
            if len(batch[0]) == BATCH:
                yield batch
                batch = ([], [])
        if batch[0]:
            yield batch

    def _why_not(self, a: _Position | None, b: _Position | None) -> str:
        """Return the reason that two positions are not the same token in the same context; empty if they are."""
        at = self.tokens
        if a is None or b is None:
            return f"{'the first' if a is None else 'the second'} ends after {at} tokens"
        if a.token.i != at or b.token.i != at:
            return _missing(at, "the first" if a.token.i != at else "the second")
        if ABSENT_ID in (a.token.id, b.token.id):
            self._no_id = "the first" if a.token.id == ABSENT_ID else "the second"
            return f"{self._no_id} has no id for token {at}"
        if a.token.id != b.token.id:
            return f"the tokens differ from token {at} on: {a.token.text!r} and {b.token.text!r}"
        if a.context != b.context:
            return f"{'the first' if a.context > b.context else 'the second'} begins a fresh context at token {at}"
        return ""


class _VocabularyCheck:
    """Check for different vocabularies: most equal ids then have different texts.

    With one vocabulary two engines may still decode a token differently: a special token, or the space before a word.
    """

    def __init__(self) -> None:
        self._known = self._other = 0
        self._example = ""

    def add(self, a: Token, b: Token) -> None:
        """Count two tokens with the same id."""
        first, second = a.text.strip(), b.text.strip()
        if not (first and second):
            return
        self._known += 1
        if first != second:
            self._other += 1
            self._example = self._example or f"token {a.i} has id {a.id} in both, but texts {a.text!r} and {b.text!r}"

    @property
    def difference(self) -> str:
        """Reason that equal ids are not equal tokens; empty if they are."""
        return f"the vocabularies differ: {self._example}" if 2 * self._other > self._known else ""


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
    """Return the reason that rows of two models cannot be compared; empty if they can."""
    one, other = a.model, b.model
    dense = [which for which, model in (("first", one), ("second", other)) if model.is_dense]
    if dense:
        return f"{'both models are' if len(dense) == 2 else f'the {dense[0]} model is'} dense: no MoE layers to compare"
    if (one.experts, one.layers, one.k_by_layer) == (other.experts, other.layers, other.k_by_layer):
        return ""
    if one.layers == other.layers and one.experts == other.experts and len(set(one.k_by_layer)) > 1:
        return "the models select different numbers of experts in some layers"
    if shape_text(a) == shape_text(b):
        return f"the models differ in their MoE layers: {_some(one.layers)} and {_some(other.layers)}"
    return f"the models differ in shape: {shape_text(a)} and {shape_text(b)}"


def _some(layers: list[int]) -> str:
    return f"{', '.join(map(str, layers[:4]))}{', …' if len(layers) > 4 else ''}"


def shape_text(header: Header) -> str:
    """Return a model's shape in words."""
    model = header.model
    return routers_text(len(model.layers), model.experts, model.experts_per_token)


def _agreement(a: Header, b: Header) -> Agreement:
    model = a.model
    weights, margin = max(a.units.weights, b.units.weights), max(a.units.margin, b.units.margin)
    ordered = a.is_ordered and b.is_ordered
    return Agreement(len(model.layers), model.experts, RowLayout.of(model).k, weights, margin, ordered=ordered)


def _rows(tokens: list[Token], header: Header) -> RoutingRows:
    arrays = token_arrays(tokens, header)
    return RoutingRows(arrays.experts, arrays.weights, arrays.margin)
