"""Conversion of an engine's raw routing to token events, in batches of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from math import isfinite, isnan
from typing import Any, cast

import msgspec
import numpy as np
import numpy.typing as npt

from moe_watch.backends.engine import RouterOutputs, SampledToken, Unobserved
from moe_watch.backends.tap_rows import RowFormat, ScoredRouting, rows_of
from moe_watch.routing.arrays import ABSENT, AnyInts
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import LEAST_LOGPROB, ModelInfo, Phase, Token, TokenSource
from moe_watch.routing.header import NO_GATE
from moe_watch.routing.router.gates import parse
from moe_watch.routing.router.observe import Observation, observe, observe_by_layer
from moe_watch.routing.row_layout import RowLayout

Array = npt.NDArray[Any]

NO_PREDICTION = "the model's logits are not numbers (NaN): damaged weights, or an overflow in their precision"

DECIMALS = 4
"""Decimals of log-probability and margins: the resolution of the other integers."""

MOST_AT_ONCE = 2**16
"""Router outputs (tokens × layers × experts) per batch of arithmetic: in float64 they still fit into a cache."""


class TokenFacts(msgspec.Struct, frozen=True, eq=False):
    """Token event without its routing."""

    i: int
    t: float
    source: TokenSource
    id: int
    text: str
    sampled: SampledToken | None = None
    """Prediction of the model, for generated tokens."""


def check_prediction(sampled: SampledToken) -> None:
    """Refuse a token that was sampled from logits that are not numbers.

    Raises:
        UserError: its log-probability is NaN.
    """
    if isnan(sampled.logprob):
        raise UserError(NO_PREDICTION, advice="try another file of the model, or another precision")


class Evaluated(msgspec.Struct, frozen=True, eq=False):
    """Tokens of one evaluation, and their routing, row by row."""

    tokens: Sequence[TokenFacts]
    routing: RouterOutputs


def captured(gate: str, *, sees_weights: bool = False) -> list[str]:
    """Return the quantities per token that are available with a gate. `logprob` includes the two margins beside it.

    Args:
        gate: rule that turns router logits into weights; `NO_GATE` of a dense model.
        sees_weights: the engine sees the applied weights, so that they need not be computed from the logits.
    """
    if gate == NO_GATE:
        return ["logprob"]
    known = parse(gate)
    if known is None:
        return ["experts", "logprob"]
    weights = ["weights"] if sees_weights or known.scale is not None else []
    return ["experts", *weights, "entropy", "margin", "logprob"]


class Observer:
    """Converter of one model's routing to token events."""

    def __init__(self, model: ModelInfo) -> None:
        self._model = model
        self._layout = RowLayout.of(model)
        self._at_once = max(1, MOST_AT_ONCE // max(1, len(model.layers) * model.experts))

    def tokens(self, steps: Sequence[Evaluated]) -> list[Token]:
        """Return the events of these steps, in order. The arithmetic is done for many tokens at once."""
        events: list[Token] = []
        waiting: list[Evaluated] = []
        for piece in self._pieces(steps):
            size = sum(len(step.tokens) for step in waiting) + len(piece.tokens)
            if size > self._at_once or (waiting and _has_weights(waiting[-1]) != _has_weights(piece)):
                events += self._observed(waiting)
                waiting = []
            waiting.append(piece)
        return events + self._observed(waiting)

    def _pieces(self, steps: Sequence[Evaluated]) -> Iterator[Evaluated]:
        """Yield the steps; a long prompt is split."""
        for step in steps:
            if len(step.tokens) <= self._at_once:
                yield step
                continue
            for start in range(0, len(step.tokens), self._at_once):
                stop = start + self._at_once
                yield Evaluated(step.tokens[start:stop], _cut(step.routing, start, stop))

    def _observed(self, steps: Sequence[Evaluated]) -> list[Token]:
        if not steps:
            return []
        if self._model.is_dense or all(isinstance(step.routing, Unobserved) for step in steps):
            absent: list[int | None] = [None] * self._layout.size
            return [_token(fact, absent, None, None, None) for step in steps for fact in step.tokens]
        observation = self._observe([step.routing for step in steps])
        columns = zip(
            _lists(self._layout.flat(observation.experts)),
            _lists(None if observation.weights is None else self._layout.flat(observation.weights)),
            _lists(observation.entropy),
            _lists(observation.margin),
            strict=False,
        )
        facts = (token for step in steps for token in step.tokens)
        return [_token(fact, *row) for fact, row in zip(facts, columns, strict=False)]

    def _observe(self, routings: Sequence[RouterOutputs]) -> Observation:
        recorded = rows_of(routings)
        seen = None if recorded is None else self._observe_rows(*recorded)
        if seen is not None:
            return seen
        experts, scores = self._experts(routings), self._scores(routings)
        logits, weights = (None, None) if scores is not None else (self._logits(routings), self._weights(routings))
        if self._layout.is_even:
            return observe(logits, experts, self._model.gate, weights, scored=scores)
        return observe_by_layer(logits, experts, self._model.gate, weights, k=self._layout.k, scored=scores)

    def _observe_rows(self, rows: Array, form: RowFormat) -> Observation | None:
        """Observe rows [T, L, W]; None if they are not in order."""
        if form.observe is not None and (seen := form.observe(rows)) is not None:
            return seen
        if not form.is_in_order(rows):
            return None
        scores, experts = form.scores_in(rows), form.experts_in(rows)
        if form.is_scored:
            return observe(None, experts, self._model.gate, scored=scores)
        return observe(scores, experts, self._model.gate)

    def _experts(self, routings: Sequence[RouterOutputs]) -> Array:
        """Return the selected experts [T, L, K] of all steps."""
        return self._stack([routing.experts for routing in routings], routings, self._layout.width, ABSENT)

    def _logits(self, routings: Sequence[RouterOutputs]) -> Array | None:
        """Return the router logits [T, L, E] of all steps; None if the gate is not known."""
        if parse(self._model.gate) is None:
            return None
        return self._stack([routing.logits for routing in routings], routings, self._model.experts, np.nan)

    def _scores(self, routings: Sequence[RouterOutputs]) -> Array | None:
        """Return the router scores [T, L, E] of all steps; None unless all steps have them."""
        rows = [routing.scores for routing in routings if isinstance(routing, ScoredRouting)]
        return self._stack(rows, routings, self._model.experts, np.nan) if len(rows) == len(routings) else None

    def _weights(self, routings: Sequence[RouterOutputs]) -> Array | None:
        """Return the applied weights [T, L, K] of all steps; None if the engine does not see them."""
        if not all(routing.weights for routing in routings):
            return None
        rows = [routing.weights for routing in routings]
        return self._stack(rows, routings, self._layout.width, np.nan)

    def _stack(
        self, rows: Sequence[Sequence[Array | None]], routings: Sequence[RouterOutputs], width: int, missing: float
    ) -> Array:
        """Stack the rows of all steps to [T, L, width]; absent rows are filled with `missing`."""
        layers = len(self._model.layers)
        if all(piece is None for step in rows for piece in step):
            return np.full((sum(routing.tokens for routing in routings), layers, width), missing)
        pieces = [
            np.full((routing.tokens, width), missing) if piece is None else _widened(piece, width, missing)
            for step, routing in zip(rows, routings, strict=True)
            for piece in step
        ]
        if all(len(piece) == 1 for piece in pieces):  # successive generated tokens
            return np.concatenate(pieces).reshape(-1, layers, width)
        return np.stack([np.concatenate(pieces[position::layers]) for position in range(layers)], axis=1)


def _has_weights(step: Evaluated) -> bool:
    """Return whether the engine saw the applied weights."""
    return bool(step.routing.weights)


def _widened(piece: Array, width: int, missing: float) -> Array:
    """Pad rows `[T, k]` of a layer with fewer experts per token to `[T, width]`."""
    if piece.shape[1] == width:
        return piece
    holds_both = np.result_type(piece.dtype, np.min_scalar_type(missing))  # ids may be unsigned, and ABSENT is -1
    found = np.full((len(piece), width), missing, holds_both)
    found[:, : piece.shape[1]] = piece
    return found


def _cut(routing: RouterOutputs, start: int, stop: int) -> RouterOutputs:
    """Return the routing of tokens `start` to `stop`."""
    if isinstance(routing, ScoredRouting):
        return routing.cut(start, stop)

    def cut(rows: Sequence[Array | None]) -> list[Array | None]:
        return [None if layer is None else layer[start:stop] for layer in rows]

    tokens = min(stop, routing.tokens) - start
    return RouterOutputs(tokens, cut(routing.experts), cut(routing.logits), cut(routing.weights))


def _lists(values: AnyInts | None) -> Iterable[list[int | None] | None]:
    """Yield a quantity [T, …] as one flat list per token, null for `ABSENT`; endless None if it was not observed."""
    if values is None:
        return repeat(None)
    rows = values.reshape(len(values), -1)
    lists = cast("list[list[int | None]]", rows.tolist())
    for token, place in zip(*(where.tolist() for where in np.nonzero(rows == ABSENT)), strict=True):
        lists[token][place] = None
    return lists


def _token(
    fact: TokenFacts,
    experts: list[int | None] | None,
    weights: list[int | None] | None,
    entropy: list[int | None] | None,
    margin: list[int | None] | None,
) -> Token:
    phase: Phase = "decode" if fact.source == "generated" else "prefill"
    sampled = fact.sampled
    return Token(
        i=fact.i,
        t=fact.t,
        phase=phase,
        source=fact.source,
        id=fact.id,
        text=fact.text,
        logprob=_rounded(sampled.logprob) if sampled and sampled.logprob >= LEAST_LOGPROB else None,
        top_margin=_rounded(sampled.top_margin) if sampled else None,
        choice_gap=_rounded(sampled.choice_gap) if sampled else None,
        would_stop=sampled is not None and sampled.would_stop,
        experts=experts or [],
        weights=weights,
        entropy=entropy,
        margin=margin,
    )


def _rounded(value: float) -> float | None:
    """Round a value; None for NaN and infinity, which JSON cannot hold: screen and file then agree."""
    return round(value, DECIMALS) if isfinite(value) else None
