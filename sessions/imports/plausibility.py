"""Validation of imported routing: impossible values are refused; fill becomes absent, with a warning.

A trace that is read with the wrong type, offset or number of experts still holds small integers. Signs of it are: ids
beyond the experts, an expert twice in one row, one expert in every row, sums that are not whole tokens.
"""

from __future__ import annotations

from math import log

import numpy as np

from moe_watch.routing.arrays import ABSENT, Flags, Ints
from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.safe_loading import Array
from moe_watch.sessions.imports.traces import (
    ImportOptions,
    RouterShape,
    check_size,
    known_experts,
    known_experts_per_token,
    layers_of,
)
from moe_watch.sessions.reading.validation import MAX_INTEGER

FEWEST_ROWS = 8
"""Number of rows from which on one expert in all of them is no coincidence."""
IMPROBABLE = 20.0
"""Natural logarithm of the odds against chance from which on chance is ruled out."""
AS_WRITTEN = "give it as the engine wrote it"


def validated_routing(
    found: Array,
    options: ImportOptions,
    where: str,
    warnings: list[str],
    *,
    stated: int | None = None,
    certain: bool = True,
) -> tuple[RouterShape, Ints]:
    """Validate expert ids `[T, L, k]`; return the layers with any routing, and the ids of their rows, ascending.

    Engines fill unobserved rows, and layers without experts, with zeros, -1 or the type's largest number: such rows are
    absent, and a layer that has only such rows is left out.

    Args:
        found: ids as the file has them.
        options: facts that the user gave.
        where: name of the file in messages.
        warnings: list to which warnings about absent rows are appended.
        stated: number of experts, if the file states it.
        certain: the file states the type of the ids.

    Raises:
        UserError: they are not expert ids of such a model, or the number of experts is unknown.
    """
    if found.ndim != 3 or found.dtype.kind not in "iu" or not found.shape[2]:
        sizes = " × ".join(map(str, found.shape)) or "a number"
        raise UserError(f"{where}: {sizes} of {found.dtype}", advice="expert ids are integers [tokens, layers, top-k]")
    layers = layers_of(found.shape[1], options, where)
    _check_range(found, where)
    experts = found.astype(np.int64)
    blank = _blank(experts)
    if blank.all():
        raise UserError(f"{where}: no routing in it", advice="record a run with the routers observed")
    model_experts = known_experts(options, where, stated)
    experts = _without_fill(experts, model_experts, warnings)
    chosen = known_experts_per_token(options, where, experts.shape[2])
    check_size(RouterShape(layers, model_experts, chosen), where)
    blank = _blank(experts) | _filled(experts, model_experts)
    blank |= _expert_0_for_nothing(experts, layers, model_experts, blank, warnings)
    routing = ~blank.all(0)
    if not routing.any():
        raise UserError(f"{where}: no routing in it", advice="record a run with the routers observed")
    kept = [layers[at] for at in np.flatnonzero(routing)]
    experts, blank = np.sort(experts[:, routing], -1), blank[:, routing]
    _check_rows(experts, blank, kept, model_experts, where)
    _check_spread(experts, blank, model_experts, where, warnings, certain=certain)
    experts[blank] = ABSENT
    _say_absent(blank, kept, warnings)
    return RouterShape(kept, model_experts, chosen), experts


def validated_counts(counts: Array, options: ImportOptions, where: str) -> tuple[RouterShape, Ints, Ints]:
    """Validate selections `[L, E]`; return the layers with any selection, their counts, and their rows `[L]`.

    Raises:
        UserError: they are not counts of whole tokens, or the number of experts per token is unknown.
    """
    chosen = options.experts_per_token
    if chosen is None:
        raise UserError(f"{where}: counts do not state the experts per token", advice="use --experts-per-token N")
    check_counts(counts, where)
    if counts.ndim != 2:
        raise UserError(f"{where}: not counts of selections [layers, experts]", advice="see docs/data.md")
    if not 0 < chosen <= counts.shape[1]:
        raise UserError(f"{where}: {chosen} of {counts.shape[1]} experts", advice="check --experts-per-token")
    known_experts(options, where, counts.shape[1])
    layers, routing = layers_of(len(counts), options, where), counts.any(-1)
    if not routing.any():
        raise UserError(f"{where}: all counts are 0", advice="record a run with the routers observed")
    whole = counts[routing].astype(np.int64)
    kept = [layers[at] for at in np.flatnonzero(routing)]
    rows = whole.sum(-1) // chosen
    uneven = [layer for layer, rest in zip(kept, whole.sum(-1) % chosen, strict=True) if rest]
    if uneven:
        what = f"{where}: the selections of layer {uneven[0]} are not a multiple of {chosen}"
        raise UserError(what, advice="check --experts-per-token")
    most = int((whole.max(-1) - rows).argmax())
    if whole[most].max() > rows[most]:
        what = f"{where}: layer {kept[most]} selected expert {whole[most].argmax()} {whole[most].max():,} times"
        what += f" in {rows[most]:,} tokens"
        raise UserError(what, advice="a token selects an expert once: check --experts-per-token")
    return RouterShape(kept, counts.shape[1], chosen), whole, rows


def check_counts(counts: Array, where: str) -> Ints:
    """Return numbers of selections as 64-bit integers: sums in a narrower type would be rounded, or overflow.

    Raises:
        UserError: some are negative, not whole numbers, or too large to be summed.
    """
    found = counts.astype(np.float64) if counts.dtype.kind in "iuf" else np.full(1, np.nan)
    with np.errstate(invalid="ignore", over="ignore"):
        whole = bool((found == np.rint(found)).all())
        small = bool(np.abs(found).sum() <= MAX_INTEGER)
    reason = None
    if counts.dtype.kind not in "iuf" or not np.isfinite(found).all():
        reason = "a value that is not a number"
    elif (found < 0).any():
        reason = "a negative count"
    elif not whole:
        reason = "a count that is not a whole number"
    elif not small:
        reason = f"more than {MAX_INTEGER:,} selections"
    if reason is not None:
        advice = "SGLang's stat_approx estimates: use stat" if reason.endswith("whole number") else AS_WRITTEN
        raise UserError(f"{where}: {reason}, so these are not counts of selections", advice=advice)
    return counts.astype(np.int64)


def _check_range(found: Array, where: str) -> None:
    most = int(found.max(initial=0))
    if most > MAX_INTEGER:
        raise UserError(f"{where}: an expert id of {most}", advice=AS_WRITTEN)
    if (least := int(found.min(initial=0))) < ABSENT:  # engines fill with -1; no known program writes others
        raise UserError(f"{where}: an expert id of {least}", advice=AS_WRITTEN)


def _blank(experts: Ints) -> Flags:
    """Mark rows `[T, L]` that cannot be selections: a negative id, or zeros where ids must differ."""
    zeros = np.logical_and((experts == 0).all(-1), experts.shape[2] > 1)
    found: Flags = np.logical_or((experts < 0).any(-1), zeros)
    return found


def _filled(experts: Ints, model_experts: int) -> Flags:
    """Mark rows `[T, L]` of one number that is not an expert: 255, or -1 in another unsigned type."""
    same = (experts == experts[..., :1]).all(-1)
    found: Flags = same & (experts[..., 0] >= model_experts) & np.isin(experts[..., 0], (255, 65535, (1 << 32) - 1))
    return found


def _without_fill(experts: Ints, model_experts: int, warnings: list[str]) -> Ints:
    """Return expert ids without the columns that hold none in any row."""
    none = ((experts < 0) | (experts >= model_experts)).all((0, 1))
    same = (experts == experts[:1, :1]).all((0, 1))
    fill = none & same
    if not fill.any() or fill.all():
        return experts
    if (experts[..., fill] >= 0).any():
        value = int(experts[0, 0, fill][0])
        warnings.append(f"{int(fill.sum())} columns hold {value} in every row, which is not an expert: left out")
    return experts[..., ~fill]


def _expert_0_for_nothing(
    experts: Ints, layers: list[int], model_experts: int, blank: Flags, warnings: list[str]
) -> Flags:
    """Mark rows `[T, L]` of expert 0 that mean "not recorded", where a token has a single expert.

    Expert 0 is a possible selection, so only rows that chance does not give are taken as fill: a layer with expert 0
    alone, and consecutive tokens with expert 0 alone in all other layers.
    """
    nothing = np.zeros_like(blank)
    if experts.shape[2] > 1:
        return nothing
    zero = (experts[..., 0] == 0) | blank
    dense = zero.all(0) & _beyond_chance(len(experts), model_experts, len(layers))
    nothing[:, dense] = True
    if dense.any() and not dense.all():
        names = ", ".join(str(layers[at]) for at in np.flatnonzero(dense))
        warnings.append(f"layers {names}: expert 0 at every token, the fill of dense layers: left out")
    empty = zero[:, ~dense].all(-1) if not dense.all() else np.zeros(len(experts), np.bool_)
    for first, last in _runs(empty):
        nothing[first:last] |= _beyond_chance((last - first) * int((~dense).sum()), model_experts, len(experts))
    return nothing


def _beyond_chance(rows: int, model_experts: int, places: int) -> bool:
    """Return whether this number of rows of expert 0 is beyond chance at any of these places."""
    return rows * log(model_experts) > log(places) + IMPROBABLE


def _runs(flags: Flags) -> list[tuple[int, int]]:
    """Return the first index of each run of true values, and the index after its last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(first), int(last)) for first, last in zip(edges[::2], edges[1::2], strict=True)]


def _check_rows(experts: Ints, blank: Flags, layers: list[int], model_experts: int, where: str) -> None:
    """Refuse ids that are not experts, and an expert twice in one row. Rows are sorted."""
    beyond = (experts[..., -1] >= model_experts) & ~blank
    twice = (experts[..., 1:] == experts[..., :-1]).any(-1) & ~blank
    for wrong, words in ((beyond, "selects expert {} of {}"), (twice, "selects an expert twice")):
        if wrong.any():
            t, at = map(int, np.argwhere(wrong)[0])
            what = f"{where}, token {t}: layer {layers[at]} {words.format(experts[t, at, -1], model_experts)}"
            raise UserError(what, advice="check --experts, and --dtype if it is bare base64")


def _check_spread(
    experts: Ints, blank: Flags, model_experts: int, where: str, warnings: list[str], *, certain: bool
) -> None:
    """Refuse, or warn of, one expert in every row: integers read as a narrower type have expert 0 in each."""
    rows = experts[~blank]
    if len(rows) < FEWEST_ROWS or not 1 < experts.shape[2] < model_experts:
        return
    everywhere = [int(each) for each in rows[0] if (rows == each).any(-1).all()]
    if not everywhere:
        return
    what = f"expert {everywhere[0]} is selected by every token in every layer"
    if not certain:
        raise UserError(f"{where}: {what}", advice="its numbers have another type: use --dtype")
    warnings.append(f"{what}: a shared expert, or numbers of another type")


def _say_absent(blank: Flags, layers: list[int], warnings: list[str]) -> None:
    tokens = blank.all(-1)
    if tokens.any():
        first, last = map(int, np.flatnonzero(tokens)[[0, -1]])
        warnings.append(f"{int(tokens.sum())} of {len(blank)} tokens have no routing ({first} to {last})")
    for at, layer in enumerate(layers):
        missing = int((blank[:, at] & ~tokens).sum())
        if missing:
            warnings.append(f"layer {layer} has no routing at {missing} of {len(blank)} tokens")
