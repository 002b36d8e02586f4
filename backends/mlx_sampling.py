"""Drawing the next token with MLX, and what the model thought of it; all of it in the forward pass's own graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.sample_utils import make_sampler

from backends.sampling import Choice, check_sampling
from routing.events import Sampling


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The same, lazy."""

    token: Any
    """[1], input of the next forward pass"""
    facts: Any
    """[4]: logprob, top_margin, choice_gap, would_stop"""

    def read(self) -> Choice:
        """Waits for the pass that predicts it."""
        logprob, top_margin, choice_gap, would_stop = self.facts.tolist()
        return Choice(self.token.item(), logprob, top_margin, choice_gap, bool(would_stop))


class NextToken:
    """How tokens are drawn from logits [1, V].

    Args:
        sampling: temperature, top_p, top_k, and whether end-of-text may be drawn. The seed is not set here.
        ends: ids of end-of-text tokens.
        vocabulary: V.

    Raises:
        UserError: a value is out of range.
    """

    def __init__(self, sampling: Sampling, ends: frozenset[int], vocabulary: int) -> None:
        check_sampling(sampling)
        self._draw = make_sampler(
            temp=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k if sampling.top_k < vocabulary else 0,
        )
        self._ends = mx.array([token in ends for token in range(vocabulary)])
        self._never_stops = sampling.stop == "never"

    def predict(self, logits: Any) -> Prediction:
        """Draw from logits [1, V]; nothing is evaluated here."""
        logits = logits.astype(mx.float32)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        token = self._draw(logprobs)
        would_stop = mx.zeros((1,), mx.bool_)
        if self._never_stops:
            would_stop = self._ends[token]
            token = mx.where(would_stop, self._draw(mx.where(self._ends, -mx.inf, logprobs)), token)
        return Prediction(token, mx.concatenate([*_facts(logprobs, token), would_stop.astype(mx.float32)]))


def _facts(logprobs: Any, token: Any) -> tuple[Any, Any, Any]:
    """Log-probability of the token, and the likeliest token's lead over the second one and over it; each [1]."""
    best = mx.argmax(logprobs, axis=-1, keepdims=True)
    others = mx.put_along_axis(logprobs, best, mx.array(-mx.inf, logprobs.dtype), axis=-1)
    first = mx.exp(mx.max(logprobs, axis=-1))
    second = mx.exp(mx.max(others, axis=-1))
    logprob = mx.take_along_axis(logprobs, token[:, None], axis=-1)[:, 0]
    return logprob, first - second, first - mx.exp(logprob)
