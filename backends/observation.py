"""From an engine's raw routing to token events, many tokens at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backends.engine import Drawn, Routing
from routing.arrays import ABSENT, AnyInts, nullable
from routing.events import ModelInfo, Phase, Token, TokenSource
from routing.gates import parse
from routing.observe import Observation, observe

Array = npt.NDArray[Any]

DECIMALS = 4
"""Of log-probability and margins: a step of the integers beside them."""


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """A token event without its routing."""

    i: int
    t: float
    source: TokenSource
    id: int
    text: str
    drawn: Drawn | None = None
    """For generated tokens: what the model predicted."""


@dataclass(frozen=True, slots=True, eq=False)
class Evaluated:
    """Tokens that one step evaluated, and their routing, row by row."""

    tokens: Sequence[TokenFacts]
    routing: Routing


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

    def tokens(self, steps: Sequence[Evaluated]) -> list[Token]:
        """The events of these steps, in order. The arithmetic is done once for all of them."""
        routings = [step.routing for step in steps]
        observation = observe(
            self._logits(routings), self._experts(routings), self._model.gate, self._weights(routings)
        )
        facts = [token for step in steps for token in step.tokens]
        return [_token(fact, observation, row) for row, fact in enumerate(facts)]

    def _experts(self, routings: Sequence[Routing]) -> Array:
        """Selected experts [T, L, k] of all steps together."""
        return self._stack([routing.experts for routing in routings], routings, self._model.experts_per_token, ABSENT)

    def _logits(self, routings: Sequence[Routing]) -> Array | None:
        """Router logits [T, L, E] of all steps together; None if it is not known what they mean."""
        if parse(self._model.gate) is None:
            return None
        return self._stack([routing.logits for routing in routings], routings, self._model.experts, np.nan)

    def _weights(self, routings: Sequence[Routing]) -> Array | None:
        """Applied weights [T, L, k] of all steps together; None if the engine does not see them."""
        if not all(routing.weights for routing in routings):
            return None
        rows = [routing.weights for routing in routings]
        return self._stack(rows, routings, self._model.experts_per_token, np.nan)

    def _stack(
        self, rows: Sequence[Sequence[Array | None]], routings: Sequence[Routing], width: int, missing: float
    ) -> Array:
        def layer(position: int) -> Array:
            return np.concatenate(
                [
                    np.full((routing.tokens, width), missing) if step[position] is None else step[position]
                    for step, routing in zip(rows, routings, strict=True)
                ]
            )

        return np.stack([layer(position) for position in range(len(self._model.layers))], axis=1)


def _token(fact: TokenFacts, observation: Observation, row: int) -> Token:
    phase: Phase = "decode" if fact.source == "generated" else "prefill"
    drawn = fact.drawn
    return Token(
        i=fact.i,
        t=fact.t,
        phase=phase,
        source=fact.source,
        id=fact.id,
        text=fact.text,
        logprob=round(drawn.logprob, DECIMALS) if drawn else None,
        top_margin=round(drawn.top_margin, DECIMALS) if drawn else None,
        choice_gap=round(drawn.choice_gap, DECIMALS) if drawn else None,
        would_stop=drawn is not None and drawn.would_stop,
        experts=nullable(observation.experts[row]),
        weights=_row(observation.weights, row),
        entropy=_row(observation.entropy, row),
        margin=_row(observation.margin, row),
    )


def _row(values: AnyInts | None, row: int) -> list[int | None] | None:
    return None if values is None else nullable(values[row])
