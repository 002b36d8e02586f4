"""Fit of a half-life as it is printed: the same object in `fit --json` and in the summaries of runs."""

from __future__ import annotations

from msgspec import convert

from moe_watch.routing.half_life.chronomoe import EntropyCollapse
from moe_watch.routing.half_life.fit import Candidate, Fit
from moe_watch.routing.half_life.wording import doubt, in_words
from moe_watch.routing.results import (
    CandidateResult,
    CollapseResult,
    CrossingResult,
    FitResult,
    FloorResult,
    ReferenceResult,
    finite,
)


def fit_result(fit: Fit, collapse: EntropyCollapse | None = None) -> FitResult:
    """Return a fit as it is printed; infinite numbers are None.

    Args:
        fit: the fit.
        collapse: fall of router entropy over the same chunks, if it is known.
    """
    return FitResult(
        verdict=fit.verdict,
        half_life=fit.half_life,
        interval=_interval(fit.interval),
        block_interval=_interval(fit.block_interval),
        censored=fit.censored,
        never=FloorResult(floor=fit.never.floor, half=fit.never.half) if fit.never else None,
        mode=fit.mode,
        reach=FloorResult(floor=fit.reach.floor, half=fit.reach.half) if fit.reach else None,
        p=fit.p,
        p_sequential=fit.p_sequential,
        looks=fit.looks,
        phi=fit.phi,
        start=fit.start,
        end=fit.end,
        chunks=fit.chunks,
        first_chunk=fit.first,
        crossing=CrossingResult(chunk=fit.crossing),
        candidates=[_candidate(each) for each in fit.candidates],
        chosen=fit.chosen.shape,
        doubt=doubt(fit) or None,
        reference=convert(fit.reference, ReferenceResult, from_attributes=True),
        entropy_collapse=convert(collapse, CollapseResult, from_attributes=True) if collapse else None,
        words=in_words(fit),
    )


def _candidate(candidate: Candidate) -> CandidateResult:
    return CandidateResult(
        shape=candidate.shape,
        aicc=finite(candidate.aicc),
        weight=candidate.weight,
        parameters=dict(candidate.parameters),
    )


def _interval(ends: tuple[float, float] | None) -> tuple[float | None, float | None] | None:
    return (finite(ends[0]), finite(ends[1])) if ends else None
