"""Routing that a file has as one row per token and layer, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moe_watch.routing.arrays import ABSENT, Ints
from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.plausibility import routed
from moe_watch.sessions.imports.traces import NO_PROMPT, ImportOptions, RoutedTrace, known_prompt_tokens, layers_of

MOST_ABSENT = 1000
"""Tokens without any row that are filled in where there are fewer with one: each takes a line in a session."""
MOST_SPREAD = 16
"""Cells of the table for each cell that a file fills."""
FEW_CELLS = 1 << 22
LATE_PREFILL = "prefill after the first decode token is taken as generated"
NUMBERED_PHASE = "phase 0 is taken for prefill and 1 for decode: they are in that order"

PREFILL = frozenset({"prefill", "prompt", "pp"})
DECODE = frozenset({"decode", "generation", "generate", "generated", "completion", "tg"})
NUMBERED = {"0": True, "1": False}


@dataclass(frozen=True, slots=True)
class Cell:
    """The experts of one token in one layer."""

    token: int
    layer: int
    experts: list[int]
    phase: str | None = None
    """As the file has it; None if it has none."""
    where: str = ""
    """File and line."""


def trace_of(
    cells: Sequence[Cell],
    options: ImportOptions,
    where: str,
    *,
    engine: str,
    what: str,
    model: str | None = None,
    experts: int | None = None,
    numbered_phase: bool = False,
) -> RoutedTrace:
    """Make a trace of cells; those that are missing were not observed.

    Args:
        cells: at least one.
        options: the user's.
        where: what messages call the file.
        engine: whose trace it is.
        what: what kind of file it is.
        model: what the file calls the model.
        experts: the number of experts, where the file states it.
        numbered_phase: the format defines phase 0 as prefill and 1 as decode.

    Raises:
        UserError: they are no routing of one run.
    """
    layers = sorted({cell.layer for cell in cells})
    warnings: list[str] = []
    table = _table(cells, layers, where)
    named = ImportOptions(
        experts=options.experts,
        experts_per_token=options.experts_per_token,
        layers=layers if options.layers is None else layers_of(len(layers), options, where),
    )
    shape, ids = routed(table, named, where, warnings, stated=experts)
    prompt = _prompt(cells, options, where, warnings, defined=numbered_phase)
    return RoutedTrace(engine, what, shape, ids, prompt, model=model, warnings=warnings)


def _table(cells: Sequence[Cell], layers: list[int], where: str) -> Ints:
    """Expert ids `[T, L, k]`, tokens counted from the first one in the file."""
    tokens = {cell.token for cell in cells}
    first, last = min(tokens), max(tokens)
    shape = (last - first + 1, len(layers), len(cells[0].experts))
    absent = shape[0] - len(tokens)
    if absent > max(MOST_ABSENT, len(tokens)):
        what = f"{where}: {absent:,} of the tokens {first} to {last} have no row"
        raise UserError(what, advice="number tokens in a row, or give one part of the run")
    if shape[0] * shape[1] > max(FEW_CELLS, MOST_SPREAD * len(cells)):
        what = f"{where}: {len(cells):,} rows for {shape[0]:,} tokens × {shape[1]:,} layers"
        raise UserError(what, advice="give every token all its layers")
    places = {layer: at for at, layer in enumerate(layers)}
    experts = np.full(shape, ABSENT, np.int64)
    taken = np.zeros(shape[:2], np.bool_)
    for cell in cells:
        at = cell.token - first, places[cell.layer]
        if len(cell.experts) != shape[2]:
            what = f"{cell.where or where}: {len(cell.experts)} experts, and {shape[2]} in the rows before"
            raise UserError(what, advice="every row needs the same number of experts")
        if taken[at]:
            what = f"{cell.where or where}: token {cell.token} twice in layer {cell.layer}"
            raise UserError(what, advice="give one run")
        taken[at], experts[at] = True, cell.experts
    return experts


def _prompt(cells: Sequence[Cell], options: ImportOptions, where: str, warnings: list[str], *, defined: bool) -> int:
    """Tokens of the prompt. Phases that are not understood are refused: taken for decode, they would be wrong."""
    phases = _phases(cells, where)
    first = min(cell.token for cell in cells)
    if not phases:
        if options.prompt_tokens is None:
            warnings.append(NO_PROMPT)
        return options.prompt_tokens or 0
    decoded = min((token for token, prefill in phases.items() if not prefill), default=max(phases) + 1)
    later = any(prefill and token > decoded for token, prefill in phases.items())
    numbered = any(cell.phase is not None and _word(cell.phase) in NUMBERED for cell in cells)
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


def _phases(cells: Sequence[Cell], where: str) -> dict[int, bool]:
    """Return for each token if it is one of the prompt's; empty if the file has no phases."""
    found: dict[int, bool] = {}
    for cell in cells:
        if cell.phase is not None:
            prefill = is_prefill(cell.phase, cell.where or where)
            if found.setdefault(cell.token, prefill) != prefill:
                what = f"{cell.where or where}: token {cell.token} is of another phase in other layers"
                raise UserError(what, advice="give one run")
    if found and len(found) < len({cell.token for cell in cells}):
        raise UserError(f"{where}: some tokens have a phase and some have none", advice="give all of them one")
    return found


def is_prefill(phase: str, where: str) -> bool:
    """Return whether a phase, as a file names it, is the prompt's.

    Raises:
        UserError: it is none of the known names.
    """
    word = _word(phase)
    if word in PREFILL or word in DECODE:
        return word in PREFILL
    if word in NUMBERED:
        return NUMBERED[word]
    raise UserError(f"{where}: a phase of {phase[:40]!r}", advice="name phases prefill and decode")


def _word(phase: str) -> str:
    return phase.strip().casefold()
