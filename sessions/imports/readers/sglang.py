"""Reader of SGLang's expert distribution dumps.

`--expert-distribution-recorder-mode stat` dumps `logical_count [steps, layers, experts]`: selections per pass, of all
requests together. `per_token` dumps `records`, one per pass, with `input_ids`, `positions` and `topk_ids_of_layer
[layers, tokens, 8]`, -1 where the model selects fewer. `per_pass` dumps `records`, too, which count the copies of
experts on GPUs; a map in the dump assigns copies to experts.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from moe_watch.routing.arrays import Ints
from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.count_steps import counts_by_step
from moe_watch.sessions.imports.document import Document
from moe_watch.sessions.imports.plausibility import check_counts, validated_counts, validated_routing
from moe_watch.sessions.imports.readers.layer_calls import PROMPT
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
"""Largest passes × layers × experts for which counts are kept per pass: they are held in memory."""
EXTEND, DECODE = 1, 2
"""Values of SGLang's `ForwardMode` in a record: passes of a prompt, and of one token per sequence."""
AS_WRITTEN = "give the dump as it was written"
MOST_TOKEN_ID = 1 << 31


class _Pass(msgspec.Struct):
    """One record of a dump: routing per token, or counts."""

    input_ids: list[int] | None = None
    positions: list[int] | None = None
    topk_ids_of_layer: Array | None = None
    global_physical_count: Array | None = None
    forward_mode: int | None = None


class _Dump(msgspec.Struct):
    """A dump, from JSON or from a PyTorch file."""

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
    if document.mapping is None:
        return read_counts(array_of(document.value, where), options, where)
    dump = typed(_plain_lists(document.mapping), _Dump, where)
    if dump.logical_count is not None:
        return read_counts(dump.logical_count, options, f"{where}, {COUNTS}")
    if not dump.records:
        raise UserError(f"{where}: neither {COUNTS} nor {RECORDS}", advice="give an expert distribution dump")
    if dump.records[0].topk_ids_of_layer is not None:
        return _per_token(dump.records, options, where)
    return read_counts(_logical(dump, dump.records, where), options, where)


def read_counts(counts: Array, options: ImportOptions, where: str) -> CountedTrace:
    """Read selections `[steps, layers, experts]`, or their sum over steps.

    Steps are kept in the dump's order; steps without any count are left out.

    Raises:
        UserError: they are not counts of selections.
    """
    counts = check_counts(counts, where)
    shape, whole, rows = validated_counts(counts.sum(0) if counts.ndim == 3 else counts, options, where)
    warnings: list[str] = []
    phase = phase_of_counts(options, warnings)
    steps = counts_by_step(counts, shape, warnings) if counts.ndim == 3 else None
    return CountedTrace(ENGINE, WHAT, shape, whole, rows, phase, warnings=warnings, steps=steps)


def _plain_lists(value: Mapping[str, object]) -> Mapping[str, object]:
    """Return a dump with ids and positions as lists, where PyTorch has tensors."""
    records = value.get(RECORDS)
    if not isinstance(records, list):
        return value
    return {**value, RECORDS: [_plain_pass(each) if isinstance(each, dict) else each for each in records]}


def _plain_pass(record: Mapping[str, object]) -> Mapping[str, object]:
    found = {key: record.get(key) for key in ("input_ids", "positions")}
    return {**record, **{key: each.tolist() for key, each in found.items() if isinstance(each, np.ndarray)}}


def _logical(dump: _Dump, records: list[_Pass], where: str) -> Array:
    """Return counts `[passes, L, E]` of experts from the counts of their copies on GPUs; summed if passes are many."""
    counts = [each.global_physical_count for each in records if each.global_physical_count is not None]
    places = dump.last_physical_to_logical_map
    if places is None or len(counts) < len(records):
        raise UserError(f"{where}: records without global_physical_count, or no {MAP}", advice=AS_WRITTEN)
    most = MAX_CELLS // max(1, len(places)) if places.ndim else 0
    if places.ndim != 2 or any(each.shape != places.shape for each in counts):
        raise UserError(f"{where}: counts and {MAP} have different shapes", advice=AS_WRITTEN)
    if places.dtype.kind not in "iu" or not 0 <= places.min(initial=0) <= places.max(initial=0) < most:
        raise UserError(f"{where}: {MAP} does not hold expert ids", advice=AS_WRITTEN)
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
    """Read the tokens of one request, pass by pass."""
    ids = [_known(each.input_ids, "input_ids", where) for each in records]
    positions = [_known(each.positions, "positions", where) for each in records]
    _check_positions([place for pass_ in positions for place in pass_], where)
    rows = [each.topk_ids_of_layer for each in records if each.topk_ids_of_layer is not None]
    if len(rows) < len(records):
        raise UserError(f"{where}: a record without topk_ids_of_layer", advice=AS_WRITTEN)
    warnings: list[str] = []
    shape, experts = validated_routing(_joined(rows, ids, where), options, where, warnings)
    flat = np.array([token for pass_ in ids for token in pass_], np.int64)
    prompt = _prompt(records, ids, options, where, warnings)
    return RoutedTrace(ENGINE, "SGLang's routing per token", shape, experts, prompt, flat, warnings=warnings)


def _prompt(records: list[_Pass], ids: list[list[int]], options: ImportOptions, where: str, warnings: list[str]) -> int:
    """Return the number of prompt tokens, by the passes' modes, or by their sizes if modes are absent or unknown."""
    modes = [each.forward_mode for each, tokens in zip(records, ids, strict=True) if tokens]
    if modes == sorted(modes, key=lambda mode: mode or 0) and {*modes} <= {EXTEND, DECODE}:
        stated = sum(len(tokens) for each, tokens in zip(records, ids, strict=True) if each.forward_mode == EXTEND)
        return known_prompt_tokens(options, where, stated) or 0
    if options.prompt_tokens is not None:
        return options.prompt_tokens
    warnings.append(PROMPT)
    return sum(len(tokens) for tokens in ids if len(tokens) > 1)


def _check_positions(places: list[int], where: str) -> None:
    """Refuse positions that are not one request from its first token on."""
    first = places[0] if places else 0
    if first and places == list(range(first, first + len(places))):
        what = f"{where}: positions begin at {first}: SGLang took the tokens before from its radix cache"
        raise UserError(what, advice="start the server with --disable-radix-cache, and record again")
    if places != list(range(len(places))):
        advice = "record one request at a time, and start the server with --disable-radix-cache"
        raise UserError(f"{where}: more than one request, or an incomplete one", advice=advice)


def _joined(rows: list[Array], ids: list[list[int]], where: str) -> Ints:
    """Return expert ids `[T, L, k]` of all passes; columns that the model never fills are left out."""
    whole = [each for each, tokens in zip(rows, ids, strict=True) if each.ndim == 3 and each.shape[1] == len(tokens)]
    if len(whole) < len(rows) or len({(each.shape[0], each.shape[2]) for each in rows}) != 1:
        raise UserError(f"{where}: topk_ids_of_layer does not fit input_ids", advice=AS_WRITTEN)
    if any(each.dtype.kind not in "iu" for each in whole):
        raise UserError(f"{where}: topk_ids_of_layer does not hold whole numbers", advice=AS_WRITTEN)
    experts = np.concatenate([each.transpose(1, 0, 2) for each in whole])
    used = (experts >= 0).any((0, 1))
    return experts[..., used].astype(np.int64)


def _known(found: list[int] | None, key: str, where: str) -> list[int]:
    if found is None or not all(0 <= each < MOST_TOKEN_ID for each in found):
        raise UserError(f"{where}: a record without {key}", advice=AS_WRITTEN)
    return found
