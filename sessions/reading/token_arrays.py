"""Tokens as arrays in natural units, for exports, notebooks and `verify`.

Shapes: `T` tokens, `L` MoE layers, `E` experts, `k` experts per token. Absent integers are `ABSENT` (-1), absent floats
are NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from moe_watch.routing.arrays import ABSENT, Flags, Floats, Ints, integers
from moe_watch.routing.events import Event, Header, Keyframe, State, Token, Unknown
from moe_watch.routing.row_layout import RowLayout
from moe_watch.routing.usage.counts import overlap
from moe_watch.sessions.reading.recompute import Beginnings

BATCH_ROWS = 65_536
"""Limit of a batch in tokens × layers, or in tokens × layers × experts if probabilities are recorded. The token that
reaches the limit is included."""
BATCH_CHARACTERS = 16_000_000
"""Limit of a batch in characters of text. The token that reaches the limit is included."""


@dataclass(frozen=True, slots=True)
class PredictionArrays:
    """Distribution over the vocabulary from which each token was sampled."""

    logprob: Floats
    """[T], nats."""
    top_margin: Floats
    """[T], largest minus second largest probability."""
    choice_gap: Floats
    """[T], largest probability minus that of the token."""
    would_stop: Flags
    """[T], the model chose end of text at this token, and the run continued."""


@dataclass(frozen=True, slots=True)
class TokenArrays:
    """Successive tokens, one array per quantity."""

    i: Ints
    """[T], token index."""
    t: Floats
    """[T], seconds since the run began."""
    phase: list[str]
    source: list[str]
    id: Ints
    """[T], `ABSENT` if it was not recorded."""
    text: list[str]
    prediction: PredictionArrays
    experts: Ints
    """[T, L, K], K the largest number of experts per token of a layer; layers with fewer are padded with `ABSENT`."""
    weights: Floats
    """[T, L, K], NaN where `experts` is `ABSENT`."""
    entropy: Floats
    """[T, L], router entropy over ln E."""
    margin: Floats
    """[T, L], router margin."""
    churn: Floats
    """[T, L], NaN if the token or the one before it was not observed."""
    probabilities: Floats | None
    """[T, L, E], router probabilities; None if no token has them."""

    def __len__(self) -> int:
        return len(self.i)


class TokenBatches:
    """Collector of a run's tokens into batches of bounded size. No token is missing within a batch.

    Args:
        header: header of the run.
    """

    def __init__(self, header: Header) -> None:
        self._header = header
        self._layers = max(1, len(header.model.layers))
        self._tokens: list[Token] = []
        self._rows = self._characters = 0
        self._beginnings = Beginnings()
        self._next = 0
        """Index of the next token if none is missing."""
        self._before: Ints | None = None
        """Experts `[1, L, k]` of the token before the batch; None if they are not known or it is in another context."""

    def feed(self, event: Event | Unknown) -> Iterator[TokenArrays]:
        """Take the next event; yield a batch if the event completes one."""
        begins = self._beginnings.feed(event)
        if isinstance(event, Token):
            if event.i != self._next:
                yield from self._break_off(None)
            self._next = event.i + 1
            self._tokens.append(event)
            self._rows += self._layers if event.probs is None else max(self._layers, len(event.probs))
            self._characters += len(event.text)
            if self._rows >= BATCH_ROWS or self._characters >= BATCH_CHARACTERS:
                yield from self.rest()
        elif isinstance(event, Keyframe) and begins:
            yield from self._break_off(_before(event, self._header))
            self._next = event.i
        elif isinstance(event, State) and event.state == "fresh_context":
            yield from self._break_off(None)

    def rest(self) -> Iterator[TokenArrays]:
        """Yield the last batch, if any tokens remain."""
        if self._tokens:
            arrays = token_arrays(self._tokens, self._header, self._before)
            self._tokens, self._rows, self._characters = [], 0, 0
            self._before = arrays.experts[-1:]
            yield arrays

    def _break_off(self, before: Ints | None) -> Iterator[TokenArrays]:
        """Yield the batch so far. The next batch follows a token with the experts `before`, if they are known."""
        yield from self.rest()
        self._before = before


def _before(frame: Keyframe, header: Header) -> Ints | None:
    """Return the experts `[1, L, k]` of the token before a keyframe."""
    experts = RowLayout.of(header.model).experts_before(frame)
    return None if experts is None else experts[None]


def token_arrays(tokens: Sequence[Token], header: Header, before: Ints | None = None) -> TokenArrays:
    """Convert successive tokens of one context to arrays.

    Args:
        tokens: at least one; valid by `moe_watch.sessions.reading.validation`.
        header: header of their run.
        before: experts `[1, L, k]` of the token before them; None if they start a context.
    """
    units, layout = header.units, RowLayout.of(header.model)
    layers, by_layer = layout.layers, (len(tokens), layout.layers)
    experts = layout.table(_steps([token.experts for token in tokens], layout.size))
    return TokenArrays(
        i=np.array([token.i for token in tokens], np.int64),
        t=np.array([token.t for token in tokens]),
        phase=[token.phase for token in tokens],
        source=[token.source for token in tokens],
        id=np.array([token.id for token in tokens], np.int64),
        text=[token.text for token in tokens],
        prediction=PredictionArrays(
            logprob=_floats([token.logprob for token in tokens]),
            top_margin=_floats([token.top_margin for token in tokens]),
            choice_gap=_floats([token.choice_gap for token in tokens]),
            would_stop=np.array([token.would_stop for token in tokens], np.bool_),
        ),
        experts=experts,
        weights=layout.table(_natural([token.weights for token in tokens], layout.size, units.weights), np.nan),
        entropy=_natural([token.entropy for token in tokens], layers, units.entropy).reshape(by_layer),
        margin=_natural([token.margin for token in tokens], layers, units.margin).reshape(by_layer),
        churn=_churn(experts, before),
        probabilities=_probabilities(tokens, header),
    )


def natural(steps: Ints, unit: float) -> Floats:
    """Convert integers of token events to natural units, `ABSENT` to NaN.

    If 1 is a whole number of units, they are divided by that number: 3 units of 0.0001 give exactly `0.0003`.
    """
    known = np.where(steps == ABSENT, np.nan, steps)
    whole = round(1 / unit)
    result: Floats = known / whole if 1 / whole == unit else known * unit
    return result


def _probabilities(tokens: Sequence[Token], header: Header) -> Floats | None:
    if all(token.probs is None for token in tokens):
        return None
    layers, experts = len(header.model.layers), header.model.experts
    found = _natural([token.probs for token in tokens], layers * experts, header.units.weights)
    return found.reshape(len(tokens), layers, experts)


def _churn(experts: Ints, before: Ints | None) -> Floats:
    """Return 1 − Jaccard similarity of each token's expert set and the one before it, `[T, L]`."""
    tokens, layers, chosen = experts.shape
    if not experts.size:
        return np.full((tokens, layers), np.nan)
    start = np.full_like(experts[:1], ABSENT) if before is None else before
    earlier = np.concatenate([start, experts[:-1]])
    return 1 - overlap(experts.reshape(-1, chosen), earlier.reshape(-1, chosen)).reshape(tokens, layers)


def _natural(rows: list[list[int | None] | None], width: int, unit: float) -> Floats:
    return natural(_steps(rows, width), unit)


def _steps(rows: Sequence[Sequence[int | None] | None], width: int) -> Ints:
    """Return rows of integers `[T, width]`; a missing row is all `ABSENT`."""
    nothing: list[int | None] = [None] * width
    flat = list(chain.from_iterable(nothing if row is None else row for row in rows))
    return integers(flat).reshape(len(rows), width)


def _floats(values: list[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in values])
