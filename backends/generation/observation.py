"""From an engine's raw routing to token events, many tokens at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from math import isfinite
from typing import Any, cast

import msgspec
import numpy as np
import numpy.typing as npt

from moe_watch.backends.engine import RouterOutputs, SampledToken, Unobserved
from moe_watch.backends.tap_rows import RowFormat, ScoredRouting, rows_of
from moe_watch.routing.arrays import ABSENT, AnyInts
from moe_watch.routing.events import LEAST_LOGPROB, ModelInfo, Phase, Token, TokenSource
from moe_watch.routing.router.gates import parse
from moe_watch.routing.router.observe import Observation, observe, observe_by_layer
from moe_watch.routing.row_layout import RowLayout

Array = npt.NDArray[Any]

DECIMALS = 4
"""Of log-probability and margins: a step of the integers beside them."""

MOST_AT_ONCE = 2**16
"""Router outputs (tokens × layers × experts) in one piece of arithmetic: in float64 they still fit into a cache."""


class TokenFacts(msgspec.Struct, frozen=True, eq=False):
    """A token event without its routing."""

    i: int
    t: float
    source: TokenSource
    id: int
    text: str
    drawn: SampledToken | None = None
    """For generated tokens: what the model predicted."""


class Evaluated(msgspec.Struct, frozen=True, eq=False):
    """Tokens that one step evaluated, and their routing, row by row."""

    tokens: Sequence[TokenFacts]
    routing: RouterOutputs


def captured(gate: str, *, sees_weights: bool = False) -> list[str]:
    """The per-token quantities that such a router lets us have. `logprob` stands for the two margins beside it, too.

    Args:
        gate: how the router turns logits into weights.
        sees_weights: the engine sees those that are applied, so that they need not follow from the logits.
    """
    known = parse(gate)
    if known is None:
        return ["experts", "logprob"]
    weights = ["weights"] if sees_weights or known.scale is not None else []
    return ["experts", *weights, "entropy", "margin", "logprob"]


class Observer:
    """Makes token events of one model."""

    def __init__(self, model: ModelInfo) -> None:
        self._model = model
        self._layout = RowLayout.of(model)
        self._at_once = max(1, MOST_AT_ONCE // (len(model.layers) * model.experts))

    def tokens(self, steps: Sequence[Evaluated]) -> list[Token]:
        """The events of these steps, in order. The arithmetic is done for many of them at once."""
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
        """The same, a long prompt cut into pieces."""
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
        if all(isinstance(step.routing, Unobserved) for step in steps):
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
        """Of rows [T, L, W]; None if they are not in order."""
        if form.observe is not None and (seen := form.observe(rows)) is not None:
            return seen
        if not form.is_in_order(rows):
            return None
        scores, experts = form.scores_in(rows), form.experts_in(rows)
        if form.is_scored:
            return observe(None, experts, self._model.gate, scored=scores)
        return observe(scores, experts, self._model.gate)

    def _experts(self, routings: Sequence[RouterOutputs]) -> Array:
        """Selected experts [T, L, K] of all steps together."""
        return self._stack([routing.experts for routing in routings], routings, self._layout.width, ABSENT)

    def _logits(self, routings: Sequence[RouterOutputs]) -> Array | None:
        """Router logits [T, L, E] of all steps together; None if it is not known what they mean."""
        if parse(self._model.gate) is None:
            return None
        return self._stack([routing.logits for routing in routings], routings, self._model.experts, np.nan)

    def _scores(self, routings: Sequence[RouterOutputs]) -> Array | None:
        """Router scores [T, L, E] of all steps together; None if they do not all show them."""
        rows = [routing.scores for routing in routings if isinstance(routing, ScoredRouting)]
        return self._stack(rows, routings, self._model.experts, np.nan) if len(rows) == len(routings) else None

    def _weights(self, routings: Sequence[RouterOutputs]) -> Array | None:
        """Applied weights [T, L, K] of all steps together; None if the engine does not see them."""
        if not all(routing.weights for routing in routings):
            return None
        rows = [routing.weights for routing in routings]
        return self._stack(rows, routings, self._layout.width, np.nan)

    def _stack(
        self, rows: Sequence[Sequence[Array | None]], routings: Sequence[RouterOutputs], width: int, missing: float
    ) -> Array:
        """[T, L, width] of all steps together, `missing` where there is nothing."""
        layers = len(self._model.layers)
        if all(piece is None for step in rows for piece in step):
            return np.full((sum(routing.tokens for routing in routings), layers, width), missing)
        pieces = [
            np.full((routing.tokens, width), missing) if piece is None else _widened(piece, width, missing)
            for step, routing in zip(rows, routings, strict=True)
            for piece in step
        ]
        if all(len(piece) == 1 for piece in pieces):  # generated tokens, one after the other
            return np.concatenate(pieces).reshape(-1, layers, width)
        return np.stack([np.concatenate(pieces[position::layers]) for position in range(layers)], axis=1)


def _has_weights(step: Evaluated) -> bool:
    """The engine saw the weights that were applied."""
    return bool(step.routing.weights)


def _widened(piece: Array, width: int, missing: float) -> Array:
    """Rows `[T, k]` of a layer that selects fewer experts than others, filled up to `[T, width]`."""
    if piece.shape[1] == width:
        return piece
    holds_both = np.result_type(piece.dtype, np.min_scalar_type(missing))  # ids may come unsigned, and ABSENT is -1
    found = np.full((len(piece), width), missing, holds_both)
    found[:, : piece.shape[1]] = piece
    return found


def _cut(routing: RouterOutputs, start: int, stop: int) -> RouterOutputs:
    """Of some of its tokens only."""
    if isinstance(routing, ScoredRouting):
        return routing.cut(start, stop)

    def cut(rows: Sequence[Array | None]) -> list[Array | None]:
        return [None if layer is None else layer[start:stop] for layer in rows]

    tokens = min(stop, routing.tokens) - start
    return RouterOutputs(tokens, cut(routing.experts), cut(routing.logits), cut(routing.weights))


def _lists(values: AnyInts | None) -> Iterable[list[int | None] | None]:
    """A quantity [T, …] as one flat event list per token, null for `ABSENT`; None for ever if it was not observed."""
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
    drawn = fact.drawn
    return Token(
        i=fact.i,
        t=fact.t,
        phase=phase,
        source=fact.source,
        id=fact.id,
        text=fact.text,
        logprob=_rounded(drawn.logprob) if drawn and drawn.logprob >= LEAST_LOGPROB else None,
        top_margin=_rounded(drawn.top_margin) if drawn else None,
        choice_gap=_rounded(drawn.choice_gap) if drawn else None,
        would_stop=drawn is not None and drawn.would_stop,
        experts=experts or [],
        weights=weights,
        entropy=entropy,
        margin=margin,
    )


def _rounded(value: float) -> float | None:
    """None for what is no number, which JSON cannot hold: a recording says what the screen said."""
    return round(value, DECIMALS) if isfinite(value) else None
