"""Sampler of the next token in the graph of MLX's forward pass, with the token's probabilities.

The probabilities are computed with NumPy after the pass: Python is idle while it waits for the next pass, and every
small operation in the graph would slow the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.sample_utils import make_sampler

from moe_watch.backends.engine import Floats
from moe_watch.backends.sampling import Choice, check_sampling
from moe_watch.routing.events import Sampling


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Sampled token and its log-probabilities, as lazy arrays."""

    token: Any
    """[1], input of the next forward pass"""
    logprobs: Any
    """[1, V], float32, at temperature 1"""
    would_stop: Any
    """[1], or None if end-of-text may be sampled"""

    def arrays(self) -> list[Any]:
        """Return the arrays that `read` needs evaluated."""
        return [self.token, self.logprobs] if self.would_stop is None else [self.token, self.logprobs, self.would_stop]

    def read(self) -> Choice:
        """Wait for the pass, and return the token with its probabilities."""
        token = self.token.item()
        would_stop = self.would_stop is not None and bool(self.would_stop.item())
        return Choice(token, *_facts(np.asarray(self.logprobs)[0], token), would_stop)


class MlxSampler:
    """Sampler of tokens from logits [1, V].

    Args:
        sampling: temperature, top_p, top_k, and whether end-of-text may be sampled. The seed is not set here.
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

    def predict(self, logits: Any, forced: int | None = None) -> Prediction:
        """Sample from logits [1, V], or use the forced token; build the graph only, without evaluation."""
        logits = logits.astype(mx.float32)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        token = self._draw(logprobs) if forced is None else mx.array([forced], mx.uint32)
        would_stop = None
        if self._never_stops and forced is None:
            would_stop = self._ends[token]
            token = mx.where(would_stop, self._draw(mx.where(self._ends, -mx.inf, logprobs)), token)
        return Prediction(token, logprobs, would_stop)


def _facts(logprobs: Floats, token: int) -> tuple[float, float, float]:
    """Return the token's log-probability, and the likeliest token's probability minus the second one's and its own."""
    best = int(logprobs.argmax())
    others = [part[part.argmax()] for part in (logprobs[:best], logprobs[best + 1 :]) if len(part)]
    first, second = math.exp(logprobs[best]), math.exp(max(others, default=-math.inf))
    logprob = float(logprobs[token])
    return logprob, first - second, first - math.exp(logprob)
