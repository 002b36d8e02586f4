"""Sampled tokens and the ranges of sampler settings, for any engine."""

from __future__ import annotations

import msgspec

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Sampling


class Choice(msgspec.Struct, frozen=True):
    """A sampled token, with its probabilities at temperature 1 and nothing masked."""

    id: int
    logprob: float
    top_margin: float
    choice_gap: float
    would_stop: bool


def check_sampling(sampling: Sampling) -> None:
    """Refuse sampler settings out of range.

    Raises:
        UserError: a value is out of range.
    """
    if not sampling.temperature >= 0:
        raise UserError(f"temperature {sampling.temperature} is negative", advice="give 0 (greedy) or more")
    if not 0 < sampling.top_p <= 1:
        raise UserError(f"top-p {sampling.top_p} is out of range", advice="give more than 0 and at most 1")
    if sampling.top_k < 0:
        raise UserError(f"top-k {sampling.top_k} is negative", advice="give 0 (all) or more")
