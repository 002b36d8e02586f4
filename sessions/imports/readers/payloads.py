"""Decoding of the expert ids that servers send, as rows `[tokens, layers, top-k]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.safe_loading import Array
from moe_watch.sessions.imports.traces import ImportOptions
from moe_watch.sessions.imports.typed_json import (
    BY_SIZE,
    Described,
    Payload,
    array_of,
    described_array,
    from_base64,
    integers_in,
    is_npy,
    npy_in_base64,
)

Value = TypeVar("Value")

USE_SHAPE = "use --layers and --experts-per-token"


@dataclass(frozen=True, slots=True)
class PayloadRows:
    """Rows of one payload."""

    ids: Array
    """[tokens, layers, top-k]"""
    start: int = 0
    """Tokens before the first row."""
    certain: bool = False
    """The document states the numbers' type."""


def rows_of(
    payload: Payload,
    options: ImportOptions,
    where: str,
    *,
    total: int | None,
    start: int | None,
    documented: str | None,
) -> PayloadRows:
    """Decode a server's payload.

    Args:
        payload: converted from JSON.
        options: the user's.
        where: its name in messages.
        total: tokens of prompt and completion, if they are known.
        start: tokens before the first row, as stated beside the payload or by the user; None if unknown.
        documented: the type of bare integers that the server's documentation names.

    Raises:
        UserError: it cannot be decoded, or its type or shape is unknown.
    """
    if isinstance(payload, Described):
        return _described(payload, where, start)
    if isinstance(payload, list):
        return PayloadRows(array_of(payload, where), start or 0, certain=True)
    if is_npy(payload):
        return PayloadRows(npy_in_base64(payload, where), start or 0, certain=True)
    bare = from_base64(payload, where)
    return PayloadRows(_bare(bare, options, where, total, start or 0, documented), start or 0)


def _described(payload: Described, where: str, start: int | None) -> PayloadRows:
    stated = payload.start
    if stated is not None and start is not None and stated != start:
        raise UserError(f"{where}: rows begin at token {stated}, not at {start}", advice="leave out --start")
    first = stated if start is None else start
    if first is not None and first < 0:
        raise UserError(f"{where}: rows begin at token {first}", advice="give it as the server sent it")
    return PayloadRows(described_array(payload, where), first or 0, certain=True)


def _bare(
    data: bytes, options: ImportOptions, where: str, total: int | None, start: int, documented: str | None
) -> Array:
    """Decode integers without type and shape. Rows are tokens from `start` on, with or without the last one."""
    layers = None if options.layers is None else len(options.layers)
    chosen = options.experts_per_token
    tokens = [] if total is None else [each for each in (total - start - 1, total - start) if each > 0]
    dtype = options.dtype or documented
    row = layers * chosen if layers and chosen else None
    if dtype is None:
        dtype = _dtype(len(data), tokens, row, where)
    flat = integers_in(data, dtype, where)
    if row is None:
        rows = _only([each for each in tokens if _divides(flat.size, each, layers, chosen)])
        if rows is None or not (layers or chosen):
            raise UserError(f"{where}: bare numbers without a shape", advice=USE_SHAPE)
        row = flat.size // rows
    if not row or not flat.size or flat.size % row:
        what = f"{where}: {flat.size:,} numbers do not fit rows of {layers or '?'} layers × {chosen or '?'} experts"
        raise UserError(what, advice="check --layers, --experts-per-token and --dtype")
    if tokens and flat.size // row not in tokens:
        what = f"{where}: {flat.size // row:,} rows of {dtype} for {total:,} tokens"
        raise UserError(what, advice="check --layers, --experts-per-token, --dtype and --start")
    width = chosen or row // (layers or 1)
    return flat.reshape(-1, row // width, width)


def _dtype(size: int, tokens: list[int], row: int | None, where: str) -> str:
    """Return the only type with which the bytes are one row for each token."""
    fitting = {
        kind for each, kind in BY_SIZE.items() for count in tokens if row is not None and size == count * row * each
    }
    found = _only(sorted(fitting))
    if found is None:
        shape = "" if row is not None else f", and {USE_SHAPE.removeprefix('use ')}"
        raise UserError(f"{where}: bare numbers of unknown type", advice=f"use --dtype{shape}")
    return found


def _divides(size: int, rows: int, layers: int | None, chosen: int | None) -> bool:
    return not size % rows and not (size // rows) % (layers or chosen or 1)


def _only(found: list[Value]) -> Value | None:
    return found[0] if len(found) == 1 else None
