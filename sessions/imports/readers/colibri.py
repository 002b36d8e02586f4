"""Readers of colibri's two files: `.coli_usage`, the selections of each expert, and the trace of `ROUTE_TRACE`.

Usage has a line `LAYER EXPERT COUNT` for each expert with any selection, after lines with a negative layer:
`-1 LAYERS EXPERTS` and `-2 VERSION ENGINE`; older files lack them. The engine "inkling" of colibri writes the same in
binary, after `IKU1`. A trace has a line for each row of each call of a layer: `CALL ROW LAYER ID:GATE …`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import numpy as np

from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.document import Document
from moe_watch.sessions.imports.readers.layer_calls import Call, read_calls
from moe_watch.sessions.imports.readers.sparse_counts import counts_trace
from moe_watch.sessions.imports.traces import MAX_LAYER, CountedTrace, ImportOptions, Trace
from moe_watch.sessions.reading.validation import MAX_CELLS

ENGINE = "colibri"
BINARY = b"IKU1"
USAGE_LINE = re.compile(r"\s*(-?\d{1,9})\s+(-?\d{1,9})\s+(\d{1,19})\s*")
TRACE_LINE = re.compile(r"\s*(\d{1,9})\s+(\d{1,9})\s+(\d{1,9})((?:\s+\d{1,9}:[^\s:]{1,24})+)\s*")
SIZES, VERSION = -1, -2
KNOWN_VERSION = 1
AS_WRITTEN = "give it as colibri wrote it"


def is_usage(document: Document) -> bool:
    """Return whether a file is colibri's usage history."""
    if document.kind == "bytes":
        return document.data.startswith(BINARY)
    return document.kind == "text" and USAGE_LINE.fullmatch(_first_line(document)) is not None


def is_trace(document: Document) -> bool:
    """Return whether a file is colibri's routing trace."""
    return document.kind == "text" and TRACE_LINE.fullmatch(_first_line(document)) is not None


def read_usage(document: Document, options: ImportOptions) -> CountedTrace:
    """Read a usage history. The layer of multi-token prediction, if there is one, has the highest index.

    Raises:
        UserError: it is damaged, of a newer version, or does not fit the number of experts.
    """
    where = str(document.path)
    counts, experts = _binary(document.data, where) if document.kind == "bytes" else _usage(document.text, where)
    what = "colibri's expert usage"
    return counts_trace(counts, options, where, engine=ENGINE, what=what, experts=experts)


def read_trace(document: Document, options: ImportOptions) -> Trace:
    """Read a routing trace.

    Raises:
        UserError: it is damaged, or does not hold passes of one model.
    """
    where = str(document.path)
    return read_calls(_calls(document.text, where), options, where, engine=ENGINE, what="colibri's routing trace")


def _first_line(document: Document) -> str:
    return document.text.lstrip().split("\n", 1)[0]


def _usage(text: str, where: str) -> tuple[dict[tuple[int, int], int], int | None]:
    """Return selections by layer and expert, and the number of experts; None if the file does not state it."""
    counts: dict[tuple[int, int], int] = {}
    layers, experts = MAX_LAYER, None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        found = USAGE_LINE.fullmatch(line)
        if found is None:
            raise UserError(f"{where}, line {number}: not a layer, an expert and a count", advice=AS_WRITTEN)
        layer, expert, count = (int(each) for each in found.groups())
        if layer == SIZES:
            layers, experts = expert, count
        elif layer == VERSION and expert > KNOWN_VERSION:
            raise UserError(f"{where}: colibri's usage in version {expert}", advice="only version 1 can be read")
        elif layer >= 0:
            if expert < 0 or layer > layers or (experts is not None and expert >= experts):
                what = f"{where}, line {number}: expert {expert} of layer {layer} in a model of {layers} × {experts}"
                raise UserError(what, advice=AS_WRITTEN)
            counts[layer, expert] = counts.get((layer, expert), 0) + count  # colibri sums repeated lines, too
    return counts, experts


def _binary(data: bytes, where: str) -> tuple[dict[tuple[int, int], int], int]:
    head = len(BINARY) + 8
    layers, experts = struct.unpack_from("<II", data, len(BINARY)) if len(data) >= head else (0, 0)
    if not 0 < layers * experts <= MAX_CELLS or len(data) != head + 4 * layers * experts:
        what = f"{where}: {len(data):,} bytes do not fit the usage of {layers} layers × {experts} experts"
        raise UserError(what, advice=AS_WRITTEN)
    table = np.frombuffer(data, "<u4", offset=head).reshape(layers, experts)
    return {(int(layer), int(expert)): int(table[layer, expert]) for layer, expert in np.argwhere(table)}, experts


def _calls(text: str, where: str) -> Iterator[Call]:
    """Yield the calls of layers, each with all its rows."""
    open_call: tuple[int, int] | None = None
    rows: list[list[int]] = []
    begun = 0
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        found = TRACE_LINE.fullmatch(line)
        if found is None:
            raise UserError(f"{where}, line {number}: not a call, a row, a layer and experts", advice=AS_WRITTEN)
        call, row, layer = (int(each) for each in found.groups()[:3])
        if (call, layer) != open_call:
            if open_call is not None:
                yield Call(open_call[1], rows, f"{where}, line {begun}")
            open_call, rows, begun = (call, layer), [], number
        if row != len(rows):
            raise UserError(f"{where}, line {number}: row {row} after {len(rows)} rows", advice=AS_WRITTEN)
        rows.append([int(each.split(":")[0]) for each in found[4].split()])
    if open_call is not None:
        yield Call(open_call[1], rows, f"{where}, line {begun}")
