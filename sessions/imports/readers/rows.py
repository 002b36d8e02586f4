"""Traces of one row per token and layer, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moe_watch.routing.arrays import ABSENT, Ints
from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.plausibility import validated_routing
from moe_watch.sessions.imports.traces import NO_PROMPT, ImportOptions, RoutedTrace, known_prompt_tokens, layers_of
from moe_watch.sessions.text import plural

MOST_ABSENT = 1000
"""Largest number of absent tokens, or the number of present ones if larger. Each takes a line in a session."""
MOST_SPREAD = 16
"""Largest number of table cells (tokens × layers) per row of a file."""
FEW_CELLS = 1 << 22
"""Table cells that are always allowed."""
LATE_PREFILL = "prefill after the first decode token is taken as generated"
NUMBERED_PHASE = "phase 0 is taken as prefill and 1 as decode: they are in that order"

PREFILL = frozenset({"prefill", "prompt", "pp"})
DECODE = frozenset({"decode", "generation", "generate", "generated", "completion", "tg"})
NUMBERED = {"0": True, "1": False}


@dataclass(frozen=True, slots=True)
class Row:
    """The experts of one token in one layer."""

    token: int
    layer: int
    experts: list[int]
    phase: str | None = None
    """Name in the file; None if it has none."""
    where: str = ""
    """File and line."""


def trace_of(
    rows: Sequence[Row],
    options: ImportOptions,
    where: str,
    *,
    engine: str,
    what: str,
    model: str | None = None,
    experts: int | None = None,
    numbered_phase: bool = False,
) -> RoutedTrace:
    """Build a trace from rows; missing rows were not observed.

    Args:
        rows: at least one.
        options: facts that the user gave.
        where: name of the file in messages.
        engine: program that wrote the trace.
        what: name of the format in messages.
        model: name of the model in the file.
        experts: number of experts, if the file states it.
        numbered_phase: the format defines phase 0 as prefill and 1 as decode.

    Raises:
        UserError: they are not the routing of one run.
    """
    layers = sorted({row.layer for row in rows})
    warnings: list[str] = []
    table = _table(rows, layers, where)
    named = ImportOptions(
        experts=options.experts,
        experts_per_token=options.experts_per_token,
        layers=layers if options.layers is None else layers_of(len(layers), options, where),
    )
    shape, ids = validated_routing(table, named, where, warnings, stated=experts)
    prompt = _prompt(rows, options, where, warnings, defined=numbered_phase)
    return RoutedTrace(engine, what, shape, ids, prompt, model=model, warnings=warnings)


def _table(rows: Sequence[Row], layers: list[int], where: str) -> Ints:
    """Return expert ids `[T, L, k]`, tokens counted from the first one in the file."""
    tokens = {row.token for row in rows}
    first, last = min(tokens), max(tokens)
    shape = (last - first + 1, len(layers), len(rows[0].experts))
    absent = shape[0] - len(tokens)
    if absent > max(MOST_ABSENT, len(tokens)):
        what = f"{where}: {absent:,} of the tokens {first} to {last} have no row"
        raise UserError(what, advice="number tokens consecutively, or give one part of the run")
    if shape[0] * shape[1] > max(FEW_CELLS, MOST_SPREAD * len(rows)):
        what = f"{where}: {len(rows):,} rows for {shape[0]:,} tokens × {shape[1]:,} layers"
        raise UserError(what, advice="give a row for every layer of every token")
    places = {layer: at for at, layer in enumerate(layers)}
    experts = np.full(shape, ABSENT, np.int64)
    taken = np.zeros(shape[:2], np.bool_)
    for row in rows:
        at = row.token - first, places[row.layer]
        if len(row.experts) != shape[2]:
            what = f"{row.where or where}: {plural(len(row.experts), 'expert')}, but {shape[2]} in the rows before"
            raise UserError(what, advice="every row needs the same number of experts")
        if taken[at]:
            what = f"{row.where or where}: token {row.token} twice in layer {row.layer}"
            raise UserError(what, advice="give one run")
        taken[at], experts[at] = True, row.experts
    return experts


def _prompt(rows: Sequence[Row], options: ImportOptions, where: str, warnings: list[str], *, defined: bool) -> int:
    """Return the number of prompt tokens. Unknown phases are refused: taken as decode, they would be wrong."""
    phases = _phases(rows, where)
    first = min(row.token for row in rows)
    if not phases:
        if options.prompt_tokens is None:
            warnings.append(NO_PROMPT)
        return options.prompt_tokens or 0
    decoded = min((token for token, prefill in phases.items() if not prefill), default=max(phases) + 1)
    later = any(prefill and token > decoded for token, prefill in phases.items())
    numbered = any(row.phase is not None and _word(row.phase) in NUMBERED for row in rows)
    assumed = numbered and not defined
    if options.prompt_tokens is not None and (assumed or later):
        return options.prompt_tokens
    if assumed:
        if later:
            what = f"{where}: phase 0 comes after phase 1"
            raise UserError(what, advice="name them prefill and decode")
        warnings.append(NUMBERED_PHASE)
    elif later:
        warnings.append(LATE_PREFILL)
    return known_prompt_tokens(options, where, decoded - first) or 0


def _phases(rows: Sequence[Row], where: str) -> dict[int, bool]:
    """Return for each token whether it is the prompt's; empty if the file has no phases."""
    found: dict[int, bool] = {}
    for row in rows:
        if row.phase is not None:
            prefill = is_prefill(row.phase, row.where or where)
            if found.setdefault(row.token, prefill) != prefill:
                what = f"{row.where or where}: token {row.token} has another phase in other layers"
                raise UserError(what, advice="give one run")
    if found and len(found) < len({row.token for row in rows}):
        raise UserError(f"{where}: some tokens have a phase and some have none", advice="give every token a phase")
    return found


def is_prefill(phase: str, where: str) -> bool:
    """Return whether a phase, by its name in a file, is the prompt's.

    Raises:
        UserError: the name is unknown.
    """
    word = _word(phase)
    if word in PREFILL or word in DECODE:
        return word in PREFILL
    if word in NUMBERED:
        return NUMBERED[word]
    raise UserError(f"{where}: a phase of {phase[:40]!r}", advice="name phases prefill and decode")


def _word(phase: str) -> str:
    return phase.strip().casefold()
