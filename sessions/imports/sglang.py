"""SGLang's expert distribution dumps.

`--expert-distribution-recorder-mode stat` dumps `logical_count [steps, layers, experts]`: selections per pass, of all
requests together. `per_token` dumps `records`, one per pass, with `input_ids`, `positions` and `topk_ids_of_layer
[layers, tokens, 8]`, -1 where the model selects fewer. `per_pass` dumps `records` too, which count experts as they lie
on GPUs; the dump's own map tells which is which.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from routing.arrays import Ints
from routing.errors import UserError
from sessions.imports.loading import Array, array_of
from sessions.imports.steps import in_steps
from sessions.imports.traces import CountedTrace, ImportOptions, RoutedTrace, Trace, counted, routed
from sessions.shapes import MAX_CELLS

ENGINE = "SGLang"
WHAT = "SGLang's expert distribution"
COUNTS, RECORDS, MAP = "logical_count", "records", "last_physical_to_logical_map"
MOST_PASS_CELLS = 50_000_000
"""Passes × layers × experts that are told apart: they are held in memory."""
NO_PHASE = "the dump does not tell prefill and decode apart: all selections stand under {}"


def read_dump(dump: dict[str, Any], options: ImportOptions, where: str) -> Trace:
    """What a dump holds.

    Raises:
        UserError: it holds none of the above, or more than one request.
    """
    if COUNTS in dump:
        return read_counts(array_of(dump[COUNTS], f"{where}, {COUNTS}"), options, f"{where}, {COUNTS}")
    records = dump.get(RECORDS)
    if not isinstance(records, list) or not records or not all(isinstance(each, dict) for each in records):
        raise UserError(f"{where}: neither {COUNTS} nor {RECORDS} in it", advice="give an expert distribution dump")
    if "topk_ids_of_layer" in records[0]:
        return _per_token(records, options, where)
    return read_counts(_logical(dump, records, where), options, where)


def read_counts(counts: Array, options: ImportOptions, where: str) -> CountedTrace:
    """Selections `[steps, layers, experts]`, or already summed over steps.

    Steps are kept in the dump's order, those in which nothing was counted left out.

    Raises:
        UserError: they are none.
    """
    shape, whole, rows = counted(counts.sum(0) if counts.ndim == 3 else counts, options, where)
    phase = options.phase or "prefill"
    warnings = [] if options.phase else [NO_PHASE.format(phase)]
    steps = in_steps(counts, shape, warnings) if counts.ndim == 3 else None
    return CountedTrace(ENGINE, WHAT, shape, whole, rows, phase, warnings=warnings, steps=steps)


def _logical(dump: dict[str, Any], records: list[dict[str, Any]], where: str) -> Array:
    """Counts `[passes, L, E]` of experts out of those of their copies on GPUs; of very many passes, their sum."""
    counts = [array_of(each.get("global_physical_count"), f"{where}, global_physical_count") for each in records]
    places = array_of(dump.get(MAP), f"{where}, {MAP}")
    most = MAX_CELLS // max(1, len(places))
    if any(each.shape != places.shape for each in counts) or places.ndim != 2:
        raise UserError(f"{where}: counts and {MAP} are of different shapes", advice="give the dump as it was written")
    if places.dtype.kind not in "iu" or not 0 <= places.min(initial=0) <= places.max(initial=0) < most:
        raise UserError(f"{where}: {MAP} holds no ids of experts", advice="give the dump as it was written")
    shape = len(places), int(places.max(initial=0)) + 1
    passes = counts if len(counts) * shape[0] * shape[1] <= MOST_PASS_CELLS else [sum(counts)]
    logical = np.zeros((len(passes), *shape))
    for at, each in enumerate(passes):
        np.add.at(logical[at], (np.arange(shape[0])[:, None], places), each)
    return logical


def _per_token(records: list[dict[str, Any]], options: ImportOptions, where: str) -> RoutedTrace:
    """The tokens of one request, pass by pass."""
    ids = [_list(each, "input_ids", where) for each in records]
    positions = [_list(each, "positions", where) for each in records]
    in_order = [place for pass_ in positions for place in pass_]
    if in_order != list(range(len(in_order))):
        raise UserError(f"{where}: more than one request, or not all of one", advice="record one request at a time")
    rows = [array_of(each["topk_ids_of_layer"], f"{where}, topk_ids_of_layer") for each in records]
    shape, experts = routed(_side_by_side(rows, ids, where), options, where)
    flat = np.array([token for pass_ in ids for token in pass_], np.int64)
    prompt = options.prompt_tokens
    warnings = []
    if prompt is None:
        prompt = sum(len(each) for each in ids if len(each) > 1)
        warnings.append("passes of more than one token are taken for the prompt")
    return RoutedTrace(ENGINE, "SGLang's routing per token", shape, experts, prompt, flat, warnings=warnings)


def _side_by_side(rows: list[Array], ids: list[list[int]], where: str) -> Ints:
    """Expert ids `[T, L, k]`; columns that the model never fills are left out."""
    whole = [each for each, tokens in zip(rows, ids, strict=True) if each.ndim == 3 and each.shape[1] == len(tokens)]
    if len(whole) < len(rows) or len({(each.shape[0], each.shape[2]) for each in rows}) != 1:
        raise UserError(f"{where}: topk_ids_of_layer does not fit input_ids", advice="give the dump as it was written")
    experts = np.concatenate([each.transpose(1, 0, 2) for each in whole])
    used = (experts >= 0).any((0, 1))
    return experts[..., used].astype(np.int64)


def _list(record: dict[str, Any], key: str, where: str) -> list[int]:
    found = record.get(key)
    if not isinstance(found, list) or not all(type(each) is int and 0 <= each < 1 << 31 for each in found):
        raise UserError(f"{where}: a record without {key}", advice="give the dump as it was written")
    return found
