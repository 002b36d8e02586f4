"""Routing that a file has as calls of MoE layers in order, each with the rows of all tokens in the batch.

Files of this kind do not number tokens. A step, one pass through the model, ends where a layer comes up again, and its
rows are tokens in a row: so it is in a run of one sequence. A pass of several tokens is the prompt's. Where passes of
several tokens come after the first single one, or only such passes do, sequences were evaluated together, and which
rows belong to which cannot be told: then only counts are taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from moe_watch.routing.arrays import Ints
from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.count_steps import in_steps
from moe_watch.sessions.imports.plausibility import counted, routed
from moe_watch.sessions.imports.readers.cells import Cell, trace_of
from moe_watch.sessions.imports.traces import (
    NO_PROMPT,
    CountedTrace,
    ImportOptions,
    Trace,
    known_experts,
    layers_of,
    phase_of_counts,
)

PROMPT = "passes of more than one token are taken for the prompt"
BATCHES = "passes of several tokens that are not one prompt: which row belongs to which text is not told, only counts"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one layer."""

    layer: int
    rows: list[list[int]]
    """Expert ids, one list for each token."""
    where: str
    """File and line."""
    step: int | None = None
    """The pass, where the file numbers them."""


def read_calls(
    calls: Iterable[Call], options: ImportOptions, where: str, *, engine: str, what: str, warnings: Sequence[str] = ()
) -> Trace:
    """Make a trace of calls in order.

    Raises:
        UserError: they are no passes of one model.
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
    told = options.prompt_tokens is not None
    cells = [
        Cell(first + at, call.layer, row, None if told else "prefill" if size > 1 else "decode", call.where)
        for step, first, size in zip(steps, firsts, sizes, strict=False)
        for call in step
        for at, row in enumerate(call.rows)
    ]
    found = trace_of(cells, options, where, engine=engine, what=what)
    found.warnings[:0] = warnings
    if options.prompt_tokens is None:
        found.warnings.append(PROMPT if single else NO_PROMPT)
    return found


def _steps(calls: Iterable[Call]) -> list[list[Call]]:
    """Calls by pass through the model."""
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
    """Tokens of one pass: the rows of each of its layers."""
    size = len(step[0].rows)
    for call in step:
        if len(call.rows) != size or not size:
            what = f"{call.where}: layer {call.layer} has {len(call.rows)} rows, and layer {step[0].layer} has {size}"
            raise UserError(what, advice="trace a run in which every layer is evaluated for every token")
    return size


def _counts(
    steps: list[list[Call]], options: ImportOptions, where: str, engine: str, what: str, warnings: list[str]
) -> CountedTrace:
    """Selections of each pass."""
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
    shape, whole, rows = counted(counts.sum(0), known, where)
    said = [*warnings]
    phase = phase_of_counts(options, said)
    return CountedTrace(engine, what, shape, whole, rows, phase, warnings=said, steps=in_steps(counts, shape, said))


def _checked(call: Call, chosen: int, options: ImportOptions, where: str) -> Ints:
    """The ids of one call, each row of different experts of the model."""
    if any(len(row) != chosen for row in call.rows):
        raise UserError(f"{call.where}: rows of other lengths than {chosen}", advice="give one run")
    named = ImportOptions(experts=options.experts, layers=[call.layer])
    _, ids = routed(np.array(call.rows, np.int64)[:, None], named, call.where or where, [])
    return ids.ravel()
