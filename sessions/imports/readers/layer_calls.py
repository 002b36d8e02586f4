"""Traces of calls of MoE layers in order, each with the rows of all tokens in the batch.

Files of this kind do not number tokens. A step, one pass through the model, ends where a layer is called again, and its
rows are consecutive tokens, as in a run of one sequence. A pass of several tokens is the prompt's. If passes of several
tokens follow the first single-token pass, or the file has several passes and all are of several tokens, sequences were
evaluated together, and the rows cannot be assigned to them: then only counts are imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from moe_watch.routing.arrays import Ints
from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.count_steps import counts_by_step
from moe_watch.sessions.imports.plausibility import validated_counts, validated_routing
from moe_watch.sessions.imports.readers.rows import Row, trace_of
from moe_watch.sessions.imports.traces import (
    NO_PROMPT,
    CountedTrace,
    ImportOptions,
    Trace,
    known_experts,
    layers_of,
    phase_of_counts,
)

PROMPT = "passes of more than one token are taken as the prompt"
BATCHES = (
    "passes of several tokens that are not one prompt: rows cannot be assigned to sequences, only counts are imported"
)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one layer."""

    layer: int
    rows: list[list[int]]
    """Expert ids, one list for each token."""
    where: str
    """File and line."""
    step: int | None = None
    """Number of the pass, if the file has one."""


def read_calls(
    calls: Iterable[Call], options: ImportOptions, where: str, *, engine: str, what: str, warnings: Sequence[str] = ()
) -> Trace:
    """Build a trace from calls in order.

    Raises:
        UserError: they are not passes of one model.
    """
    steps = _steps(calls)
    if not steps:
        raise UserError(f"{where}: no routing in it", advice="record a run with the routers observed")
    sizes = [_size(step) for step in steps]
    single = next((at for at, size in enumerate(sizes) if size == 1), len(sizes))
    batched = any(size > 1 for size in sizes[single:]) or (single == len(sizes) > 1)
    if batched:
        return _counts(steps, options, where, engine, what, [*warnings, BATCHES])
    firsts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    given = options.prompt_tokens is not None
    rows = [
        Row(first + at, call.layer, row, None if given else "prefill" if size > 1 else "decode", call.where)
        for step, first, size in zip(steps, firsts, sizes, strict=False)
        for call in step
        for at, row in enumerate(call.rows)
    ]
    found = trace_of(rows, options, where, engine=engine, what=what)
    found.warnings[:0] = warnings
    if options.prompt_tokens is None:
        found.warnings.append(PROMPT if single else NO_PROMPT)
    return found


def _steps(calls: Iterable[Call]) -> list[list[Call]]:
    """Group calls by pass through the model."""
    steps: list[list[Call]] = []
    seen: set[int] = set()
    number: int | None = None
    for call in calls:
        if not steps or call.layer in seen or call.step != number:
            steps.append([])
            seen, number = set(), call.step
        seen.add(call.layer)
        steps[-1].append(call)
    return steps


def _size(step: list[Call]) -> int:
    """Return the number of tokens of one pass, which is the number of rows of each layer."""
    size = len(step[0].rows)
    for call in step:
        if len(call.rows) != size or not size:
            what = f"{call.where}: layer {call.layer} has {len(call.rows)} rows, but layer {step[0].layer} has {size}"
            raise UserError(what, advice="trace a run in which every layer is evaluated for every token")
    return size


def _counts(
    steps: list[list[Call]], options: ImportOptions, where: str, engine: str, what: str, warnings: list[str]
) -> CountedTrace:
    """Build a trace of counts from the selections of each pass."""
    experts = known_experts(options, where)
    layers = sorted({call.layer for step in steps for call in step})
    chosen = len(steps[0][0].rows[0])
    places = {layer: at for at, layer in enumerate(layers)}
    counts = np.zeros((len(steps), len(layers), experts), np.int64)
    for at, step in enumerate(steps):
        for call in step:
            np.add.at(counts[at, places[call.layer]], _checked(call, chosen, options, where), 1)
    named = layers if options.layers is None else layers_of(len(layers), options, where)
    known = ImportOptions(experts=experts, experts_per_token=options.experts_per_token or chosen, layers=named)
    shape, whole, rows = validated_counts(counts.sum(0), known, where)
    said = [*warnings]
    phase = phase_of_counts(options, said)
    by_step = counts_by_step(counts, shape, said)
    return CountedTrace(engine, what, shape, whole, rows, phase, warnings=said, steps=by_step)


def _checked(call: Call, chosen: int, options: ImportOptions, where: str) -> Ints:
    """Return the ids of one call, after checking that each row has different experts of the model."""
    if any(len(row) != chosen for row in call.rows):
        raise UserError(f"{call.where}: rows of other lengths than {chosen}", advice="give one run")
    named = ImportOptions(experts=options.experts, layers=[call.layer])
    _, ids = validated_routing(np.array(call.rows, np.int64)[:, None], named, call.where or where, [])
    return ids.ravel()
