"""Readers of JSON Lines: a line per token and layer, or per call of a layer.

`moe-trace` writes a line per token and layer, with `phase`, `token_index`, `layer` and `expert_ids`. The patch of
moe-vis for Ollama writes a line per call of a layer with `experts` of all tokens in the batch, and lines with `wlayer`
for their weights. Megatron-LM's RouterTracer (pull request 5220) writes a line per step, layer and rank with
`top_indices`; records of multi-token prediction have another `block`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import msgspec

from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.document import Document
from moe_watch.sessions.imports.readers.layer_calls import Call, read_calls
from moe_watch.sessions.imports.readers.rows import Row, trace_of
from moe_watch.sessions.imports.traces import ImportOptions, RoutedTrace, Trace
from moe_watch.sessions.imports.typed_json import ExpertId, Index, typed

AnyRecord = TypeVar("AnyRecord")

DECODER = "decoder"
PROJECTIONS = ("down", "gate_up", "up", "gate")
"""Matrices of an expert; they are used together, so the records of one of them are enough."""


class _TokenLine(msgspec.Struct):
    """A line of moe-trace."""

    token_index: Index
    layer: Index
    expert_ids: list[ExpertId]
    phase: str | None = None


class _CallLine(msgspec.Struct):
    """A line of moe-vis; a line without experts holds weights."""

    layer: Index | None = None
    experts: list[list[ExpertId]] | None = None
    name: str = ""
    n_used: int | None = None
    n_tokens: int | None = None


class _StepLine(msgspec.Struct):
    """A line of Megatron-LM's RouterTracer; `topk` held the ids at first, and holds their number now."""

    step: Index
    layer: Index
    rank: Index = 0
    block: str = DECODER
    topk: int | list[list[ExpertId]] | None = None
    top_indices: list[list[ExpertId]] | None = None
    num_tokens: int | None = None


def is_token_lines(document: Document) -> bool:
    """Return whether a file is a trace of moe-trace."""
    return _is_json(document) and document.has("token_index", "layer", "expert_ids")


def is_call_lines(document: Document) -> bool:
    """Return whether a file is a trace of moe-vis."""
    if not _is_json(document) or document.has("step"):
        return False
    return document.has("layer", "experts") or document.has("wlayer", "weights")


def is_step_lines(document: Document) -> bool:
    """Return whether a file is a trace of Megatron-LM's RouterTracer."""
    if not _is_json(document):
        return False
    return document.has("step", "layer", "rank") and (document.has("top_indices") or document.has("topk"))


def read_token_lines(document: Document, options: ImportOptions) -> RoutedTrace:
    """Read a line per token and layer.

    Raises:
        UserError: it is damaged, or is not the routing of one run.
    """
    where = str(document.path)
    rows = [
        Row(line.token_index, line.layer, line.expert_ids, line.phase, at) for line, at in _each(document, _TokenLine)
    ]
    return trace_of(rows, options, where, engine="moe-trace", what="moe-trace's JSON Lines")


def read_call_lines(document: Document, options: ImportOptions) -> Trace:
    """Read a line per call of a layer.

    Raises:
        UserError: it is damaged, or does not hold passes of one model.
    """
    where = str(document.path)
    return read_calls(list(_calls(document)), options, where, engine="Ollama", what="moe-vis's trace of Ollama")


def read_step_lines(document: Document, options: ImportOptions) -> Trace:
    """Read a line per step and layer.

    Raises:
        UserError: it is damaged, has several ranks, or does not hold passes of one model.
    """
    where = str(document.path)
    lines = list(_each(document, _StepLine))
    ranks = sorted({line.rank for line, _ in lines})
    if len(ranks) > 1:
        what = f"{where}: Megatron-LM's routing trace of ranks {', '.join(map(str, ranks[:8]))}"
        raise UserError(what, advice="give the file of one rank")
    decoder = [(line, at) for line, at in lines if line.block == DECODER]
    others = len(lines) - len(decoder)
    warnings = [f"{others} records outside the decoder are left out"] if others else []
    calls = [Call(line.layer, _indices(line, at), at, line.step) for line, at in decoder]
    return read_calls(
        calls, options, where, engine="Megatron-LM", what="Megatron-LM's routing trace", warnings=warnings
    )


def _is_json(document: Document) -> bool:
    return document.kind in ("json", "json lines")


def _each(document: Document, kind: type[AnyRecord]) -> Iterator[tuple[AnyRecord, str]]:
    for number, record in enumerate(document.records, 1):
        at = f"{document.path}, record {number}"
        yield typed(record, kind, at), at


def _calls(document: Document) -> Iterator[Call]:
    """Yield the calls of one projection of the experts: the patch writes a line for each projection."""
    lines = [(line, at) for line, at in _each(document, _CallLine) if line.experts is not None]
    present = {_projection(line.name) for line, _ in lines}
    kept = next((each for each in PROJECTIONS if each in present), "")
    for line, at in lines:
        if _projection(line.name) == kept and line.experts is not None and line.layer is not None:
            _check_sizes(line.experts, line.n_tokens, line.n_used, at)
            yield Call(line.layer, line.experts, at)


def _projection(name: str) -> str:
    """Return the projection in a tensor's name such as `ffn_moe_down-12`; empty if there is none."""
    return next((each for each in PROJECTIONS if f"_{each}-" in f"{name}-"), "")


def _indices(line: _StepLine, at: str) -> list[list[int]]:
    found = line.top_indices if line.top_indices is not None else line.topk
    if not isinstance(found, list):
        raise UserError(f"{at}: no top_indices", advice="give the trace as it was written")
    _check_sizes(found, line.num_tokens, line.topk if isinstance(line.topk, int) else None, at)
    return found


def _check_sizes(rows: list[list[int]], tokens: int | None, chosen: int | None, at: str) -> None:
    """Refuse rows that differ from the numbers in the record."""
    widths = {len(row) for row in rows}
    if (tokens is not None and len(rows) != tokens) or (chosen is not None and widths != {chosen} and rows):
        found = f"{len(rows)} rows of {', '.join(map(str, sorted(widths)))} experts"
        raise UserError(f"{at}: {found}, but it states {tokens} of {chosen}", advice="give it as it was written")
