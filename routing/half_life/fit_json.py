"""A half-life fit as JSON has it: the same object in `fit --json` and in the summaries of runs."""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from typing import Any

from moe_watch.routing.half_life.chronomoe import EntropyCollapse
from moe_watch.routing.half_life.fit import Candidate, Fit
from moe_watch.routing.half_life.wording import doubt, in_words

Json = dict[str, Any]


def fit_result(fit: Fit, collapse: EntropyCollapse | None = None) -> Json:
    """The fit as JSON-able values; what is infinite or unknown is null.

    Args:
        fit: what to write.
        collapse: of router entropy over the same chunks, where it is known.
    """
    return {
        "verdict": fit.verdict,
        "half_life": fit.half_life,
        "interval": _interval(fit.interval),
        "block_interval": _interval(fit.block_interval),
        "censored": fit.censored,
        "never": fit.never and fit.never._asdict(),
        "mode": fit.mode,
        "reach": None if fit.reach is None else {"floor": fit.reach.floor, "half": fit.reach.half},
        "p": fit.p,
        "p_sequential": fit.p_sequential,
        "looks": fit.looks,
        "phi": fit.phi,
        "start": fit.start,
        "end": fit.end,
        "chunks": fit.chunks,
        "first_chunk": fit.first,
        "crossing": {"chunk": fit.crossing},
        "candidates": [_candidate(each) for each in fit.candidates],
        "chosen": fit.chosen.shape,
        "doubt": doubt(fit) or None,
        "reference": asdict(fit.reference),
        "entropy_collapse": collapse and asdict(collapse),
        "words": in_words(fit),
    }


def _candidate(candidate: Candidate) -> Json:
    return {
        "shape": candidate.shape,
        "aicc": candidate.aicc if isfinite(candidate.aicc) else None,
        "weight": candidate.weight,
        "parameters": candidate.parameters,
    }


def _interval(ends: tuple[float, float] | None) -> list[float | None] | None:
    return ends and [end if isfinite(end) else None for end in ends]
