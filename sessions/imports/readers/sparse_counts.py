"""Traces of counts for some layers and experts; all others were never selected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.plausibility import validated_counts
from moe_watch.sessions.imports.traces import (
    CountedTrace,
    ImportOptions,
    RouterShape,
    check_size,
    known_experts,
    layers_of,
    phase_of_counts,
)
from moe_watch.sessions.reading.validation import MAX_INTEGER


def counts_trace(
    counts: Mapping[tuple[int, int], int],
    options: ImportOptions,
    where: str,
    *,
    engine: str,
    what: str,
    experts: int | None = None,
    model: str | None = None,
    warnings: Sequence[str] = (),
) -> CountedTrace:
    """Build a trace from selections by layer and expert.

    Args:
        counts: numbers of selections, none negative.
        options: facts that the user gave.
        where: name of the file in messages.
        engine: program that wrote the counts.
        what: name of the format in messages.
        experts: number of experts, if the file states it.
        model: name of the model in the file.
        warnings: warnings about the file.

    Raises:
        UserError: they are not counts of such a model.
    """
    number = known_experts(options, where, experts)
    beyond = next((place for place in counts if place[1] >= number), None)
    if beyond is not None:
        raise UserError(f"{where}: layer {beyond[0]} selects expert {beyond[1]} of {number}", advice="check --experts")
    layers = sorted({layer for layer, _ in counts})
    if sum(counts.values()) > MAX_INTEGER:
        raise UserError(f"{where}: more than {MAX_INTEGER:,} selections", advice="give it as the engine wrote it")
    check_size(RouterShape(layers, number, 1), where)
    named = layers_of(len(layers), options, where) if options.layers else layers
    table = np.zeros((len(layers), number), np.int64)
    places = {layer: at for at, layer in enumerate(layers)}
    for (layer, expert), count in counts.items():
        table[places[layer], expert] = count
    known = ImportOptions(experts=number, experts_per_token=options.experts_per_token, layers=named)
    shape, whole, rows = validated_counts(table, known, where)
    said = [*warnings]
    phase = phase_of_counts(options, said)
    return CountedTrace(engine, what, shape, whole, rows, phase, model=model, warnings=said)
