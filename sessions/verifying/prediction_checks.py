"""Checks of the distribution from which a token was sampled.

`logprob`, `top_margin` and `choice_gap` are consistent, and present if the header lists them as captured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moe_watch.routing.arrays import Flags
from moe_watch.routing.events import Header
from moe_watch.sessions.reading.token_arrays import TokenArrays

SLACK = 5e-4
"""Tolerance of probabilities: three numbers rounded to 0.0001, and the float32 error of an engine."""
PREDICTED = ("logprob", "top_margin", "choice_gap")


@dataclass(frozen=True, slots=True)
class TokenFaults:
    """Tokens that fail one check."""

    tokens: Flags
    """[T]"""
    words: Callable[[int], str]
    """Describe the fault of token `t` of the batch."""


def prediction_faults(found: TokenArrays, header: Header) -> dict[str, TokenFaults]:
    """Check successive tokens; return their faults by the name of the check."""
    return {"captured": _captured(found, header), "prediction": _contradicting(found)}


def _captured(found: TokenArrays, header: Header) -> TokenFaults:
    """Check that generated tokens have all three values if the header lists them as captured, and none otherwise.

    A token of teacher forcing may have probability 0: its log-probability is −∞, and absent.
    """
    there = {name: ~np.isnan(getattr(found.prediction, name)) for name in PREDICTED}
    if "logprob" not in header.capture:
        anything: Flags = np.logical_or.reduce(list(there.values()))
        return TokenFaults(anything, lambda t: f"has {_first(there, t)}, which the header does not list as captured")
    generated = np.array([source == "generated" for source in found.source], np.bool_)
    impossible = (
        there["top_margin"] & (found.prediction.choice_gap > 0)
        if header.teacher is not None
        else np.zeros_like(generated)
    )
    absent = {name: generated & ~known for name, known in there.items()}
    absent["logprob"] &= ~impossible
    lacking: Flags = np.logical_or.reduce(list(absent.values()))
    return TokenFaults(lacking, lambda t: f"has no {_first(absent, t)}, which the header lists as captured")


def _first(names: dict[str, Flags], t: int) -> str:
    return next(name for name, flags in names.items() if flags[t])


def _contradicting(found: TokenArrays) -> TokenFaults:
    """Check that the three values are of one distribution.

    The sampled token has probability p, the most likely one p + gap, the second p + gap − margin. None is negative,
    the first two sum to at most 1, and the sampled token is the first or at most as likely as the second. NaN, for a
    value that is not recorded, passes.
    """
    values = found.prediction
    with np.errstate(under="ignore"):
        chosen = np.exp(values.logprob)
    first = chosen + values.choice_gap
    second = first - values.top_margin
    is_first = values.choice_gap <= SLACK
    wrong: Flags = (second < -SLACK) | (first + second > 1 + SLACK)
    wrong |= ~is_first & (chosen > second + SLACK)

    def words(t: int) -> str:
        found = (
            f"logprob {values.logprob[t]:g}, top_margin {values.top_margin[t]:g}, choice_gap {values.choice_gap[t]:g}"
        )
        return f"{found} contradict each other"

    return TokenFaults(wrong, words)
