"""Checks of the prediction that a token was drawn from.

`logprob`, `top_margin` and `choice_gap` are of one distribution, and are there where the header says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moe_watch.routing.arrays import Flags
from moe_watch.routing.events import Header
from moe_watch.sessions.reading.token_arrays import TokenArrays

SLACK = 5e-4
"""Of probabilities: three numbers rounded to 0.0001, and the noise of an engine's float32."""
PREDICTED = ("logprob", "top_margin", "choice_gap")


@dataclass(frozen=True, slots=True)
class TokenFaults:
    """Tokens where something does not hold."""

    tokens: Flags
    """[T]"""
    words: Callable[[int], str]
    """What is wrong with one of them."""


def prediction_faults(found: TokenArrays, header: Header) -> dict[str, TokenFaults]:
    """Return what is wrong with successive tokens, by the name of the check."""
    return {"captured": _captured(found, header), "prediction": _contradicting(found)}


def _captured(found: TokenArrays, header: Header) -> TokenFaults:
    """Every generated token has all three if the header says that they were captured; none has any if it does not.

    A token that a run was made to take may have been impossible: its log-probability is no number, and absent.
    """
    there = {name: ~np.isnan(getattr(found, name)) for name in PREDICTED}
    if "logprob" not in header.capture:
        anything: Flags = np.logical_or.reduce(list(there.values()))
        return TokenFaults(anything, lambda t: f"{_first(there, t)} there, which the header says was not captured")
    generated = np.array([source == "generated" for source in found.source], np.bool_)
    impossible = (
        there["top_margin"] & (found.choice_gap > 0) if header.teacher is not None else np.zeros_like(generated)
    )
    absent = {name: generated & ~known for name, known in there.items()}
    absent["logprob"] &= ~impossible
    lacking: Flags = np.logical_or.reduce(list(absent.values()))
    return TokenFaults(lacking, lambda t: f"no {_first(absent, t)}, which the header says was captured")


def _first(names: dict[str, Flags], t: int) -> str:
    return next(name for name, flags in names.items() if flags[t])


def _contradicting(found: TokenArrays) -> TokenFaults:
    """The chosen token's probability p, the likeliest one's p + gap, and the second's p + gap − margin.

    These are probabilities of at most three tokens: none is negative, the first two sum to no more than 1, and the
    chosen one is the first, or not above the second. NaN where something was not recorded contradicts nothing.
    """
    with np.errstate(under="ignore"):
        chosen = np.exp(found.logprob)
    first = chosen + found.choice_gap
    second = first - found.top_margin
    is_first = found.choice_gap <= SLACK
    wrong: Flags = (second < -SLACK) | (first + second > 1 + SLACK)
    wrong |= ~is_first & (chosen > second + SLACK)

    def words(t: int) -> str:
        values = f"logprob {found.logprob[t]:g}, top_margin {found.top_margin[t]:g}, choice_gap {found.choice_gap[t]:g}"
        return f"{values} are of no one distribution"

    return TokenFaults(wrong, words)
