"""SGLang's expert distribution dumps.

`--expert-distribution-recorder-mode stat` dumps `logical_count [steps, layers, experts]`: selections per pass, of all
requests together. `per_token` dumps `records`, one per pass, with `input_ids`, `positions` and `topk_ids_of_layer
[layers, tokens, 8]`, -1 where the model selects fewer. `per_pass` dumps `records` too, which count experts as they lie
on GPUs; the dump's own map tells which is which.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from moe_watch.routing.arrays import Ints
from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.count_steps import in_steps
from moe_watch.sessions.imports.document import Document
from moe_watch.sessions.imports.plausibility import check_counts, counted, routed
from moe_watch.sessions.imports.safe_loading import Array
from moe_watch.sessions.imports.traces import (
    CountedTrace,
    ImportOptions,
    RoutedTrace,
    Trace,
    known_prompt_tokens,
    phase_of_counts,
)
from moe_watch.sessions.imports.typed_json import array_of, typed
from moe_watch.sessions.reading.validation import MAX_CELLS, MAX_INTEGER

ENGINE = "SGLang"
WHAT = "SGLang's expert distribution"
COUNTS, RECORDS, MAP = "logical_count", "records", "last_physical_to_logical_map"
MOST_PASS_CELLS = 50_000_000
"""Passes × layers × experts that are told apart: they are held in memory."""
PROMPT = "passes of more than one token are taken for the prompt"
EXTEND, DECODE = 1, 2
"""Values of SGLang's `ForwardMode` in a record: passes of a prompt, and of one token per sequence."""
AS_WRITTEN = "give the dump as it was written"
MOST_TOKEN_ID = 1 << 31


class _Pass(msgspec.Struct):
    """One record of a dump: of routing per token, or of counts."""

    input_ids: list[int] | None = None
    positions: list[int] | None = None
    topk_ids_of_layer: Array | None = None
    global_physical_count: Array | None = None
    forward_mode: int | None = None


class _Dump(msgspec.Struct):
    """A dump, as JSON or as PyTorch has it."""

    logical_count: Array | None = None
    records: list[_Pass] | None = None
    last_physical_to_logical_map: Array | None = None


def is_dump(document: Document) -> bool:
    """Return whether a file is a dump of SGLang's recorder."""
    return document.kind in ("json", "arrays") and (document.has(COUNTS) or document.has(RECORDS))


def read_dump(document: Document, options: ImportOptions) -> Trace:
    """Read a dump, or an array of counts.

    Raises:
        UserError: it holds neither, or more than one request.
    """
    where = str(document.path)
    if not isinstance(document.value, dict):
        return read_counts(array_of(document.value, where), options, where)
    dump = typed(_plain_lists(document.value), _Dump, where)
    if dump.logical_count is not None:
        return read_counts(dump.logical_count, options, f"{where}, {COUNTS}")
    if not dump.records:
        raise UserError(f"{where}: neither {COUNTS} nor {RECORDS} in it", advice="give an expert distribution dump")
    if dump.records[0].topk_ids_of_layer is not None:
        return _per_token(dump.records, options, where)
    return read_counts(_logical(dump, dump.records, where), options, where)


def read_counts(counts: Array, options: ImportOptions, where: str) -> CountedTrace:
    """Read selections `[steps, layers, experts]`, or already summed over steps.

    Steps are kept in the dump's order, those in which nothing was counted left out.

    Raises:
        UserError: they are none.
    """
    counts = check_counts(counts, where)
    shape, whole, rows = counted(counts.sum(0) if counts.ndim == 3 else counts, options, where)
    warnings: list[str] = []
    phase = phase_of_counts(options, warnings)
    steps = in_steps(counts, shape, warnings) if counts.ndim == 3 else None
    return CountedTrace(ENGINE, WHAT, shape, whole, rows, phase, warnings=warnings, steps=steps)


def _plain_lists(value: dict[str, Any]) -> dict[str, Any]:
    """A dump whose ids and positions are lists, where PyTorch has tensors."""
    records = value.get(RECORDS)
    if not isinstance(records, list):
        return value
    return value | {RECORDS: [_plain_pass(each) if isinstance(each, dict) else each for each in records]}


def _plain_pass(record: dict[str, Any]) -> dict[str, Any]:
    lists = {key: record[key].tolist() for key in ("input_ids", "positions") if isinstance(record.get(key), np.ndarray)}
    return record | lists


def _logical(dump: _Dump, records: list[_Pass], where: str) -> Array:
    """Counts `[passes, L, E]` of experts out of those of their copies on GPUs; of very many passes, their sum."""
    counts = [each.global_physical_count for each in records if each.global_physical_count is not None]
    places = dump.last_physical_to_logical_map
    if places is None or len(counts) < len(records):
        raise UserError(f"{where}: records without global_physical_count, or no {MAP}", advice=AS_WRITTEN)
    most = MAX_CELLS // max(1, len(places)) if places.ndim else 0
    if places.ndim != 2 or any(each.shape != places.shape for each in counts):
        raise UserError(f"{where}: counts and {MAP} are of different shapes", advice=AS_WRITTEN)
    if places.dtype.kind not in "iu" or not 0 <= places.min(initial=0) <= places.max(initial=0) < most:
        raise UserError(f"{where}: {MAP} holds no ids of experts", advice=AS_WRITTEN)
    counts = [check_counts(each, where) for each in counts]
    if sum(int(each.sum()) for each in counts) > MAX_INTEGER:
        raise UserError(f"{where}: more than {MAX_INTEGER:,} selections", advice=AS_WRITTEN)
    shape = len(places), int(places.max(initial=0)) + 1
    passes = counts if len(counts) * shape[0] * shape[1] <= MOST_PASS_CELLS else [sum(counts[1:], counts[0])]
    logical = np.zeros((len(passes), *shape))
    for at, each in enumerate(passes):
        np.add.at(logical[at], (np.arange(shape[0])[:, None], places), each)
    return logical


def _per_token(records: list[_Pass], options: ImportOptions, where: str) -> RoutedTrace:
    """The tokens of one request, pass by pass."""
    ids = [_known(each.input_ids, "input_ids", where) for each in records]
    positions = [_known(each.positions, "positions", where) for each in records]
    _check_positions([place for pass_ in positions for place in pass_], where)
    rows = [each.topk_ids_of_layer for each in records if each.topk_ids_of_layer is not None]
    if len(rows) < len(records):
        raise UserError(f"{where}: a record without topk_ids_of_layer", advice=AS_WRITTEN)
    warnings: list[str] = []
    shape, experts = routed(_side_by_side(rows, ids, where), options, where, warnings)
    flat = np.array([token for pass_ in ids for token in pass_], np.int64)
    prompt = _prompt(records, ids, options, where, warnings)
    return RoutedTrace(ENGINE, "SGLang's routing per token", shape, experts, prompt, flat, warnings=warnings)


def _prompt(records: list[_Pass], ids: list[list[int]], options: ImportOptions, where: str, warnings: list[str]) -> int:
    """Tokens of the prompt, by the passes' modes, or by their sizes where a dump has none or others."""
    modes = [each.forward_mode for each, tokens in zip(records, ids, strict=True) if tokens]
    if modes == sorted(modes, key=lambda mode: mode or 0) and {*modes} <= {EXTEND, DECODE}:
        stated = sum(len(tokens) for each, tokens in zip(records, ids, strict=True) if each.forward_mode == EXTEND)
        return known_prompt_tokens(options, where, stated) or 0
    if options.prompt_tokens is not None:
        return options.prompt_tokens
    warnings.append(PROMPT)
    return sum(len(tokens) for tokens in ids if len(tokens) > 1)


def _check_positions(places: list[int], where: str) -> None:
    """Refuse all but one request from its first token on."""
    first = places[0] if places else 0
    if first and places == list(range(first, first + len(places))):
        what = f"{where}: positions begin at {first}: the tokens before were taken from SGLang's radix cache"
        raise UserError(what, advice="record with the server started with --disable-radix-cache")
    if places != list(range(len(places))):
        advice = "record one request at a time, and start the server with --disable-radix-cache"
        raise UserError(f"{where}: more than one request, or not all of one", advice=advice)


def _side_by_side(rows: list[Array], ids: list[list[int]], where: str) -> Ints:
    """Expert ids `[T, L, k]`; columns that the model never fills are left out."""
    whole = [each for each, tokens in zip(rows, ids, strict=True) if each.ndim == 3 and each.shape[1] == len(tokens)]
    if len(whole) < len(rows) or len({(each.shape[0], each.shape[2]) for each in rows}) != 1:
        raise UserError(f"{where}: topk_ids_of_layer does not fit input_ids", advice=AS_WRITTEN)
    if any(each.dtype.kind not in "iu" for each in whole):
        raise UserError(f"{where}: topk_ids_of_layer holds no whole numbers", advice=AS_WRITTEN)
    experts = np.concatenate([each.transpose(1, 0, 2) for each in whole])
    used = (experts >= 0).any((0, 1))
    return experts[..., used].astype(np.int64)


def _known(found: list[int] | None, key: str, where: str) -> list[int]:
    if found is None or not all(0 <= each < MOST_TOKEN_ID for each in found):
        raise UserError(f"{where}: a record without {key}", advice=AS_WRITTEN)
    return found
