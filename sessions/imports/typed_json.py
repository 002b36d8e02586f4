"""Conversion of decoded JSON to typed values: msgspec structs, and arrays in every encoding that servers use."""

from __future__ import annotations

import base64
import binascii
from types import GenericAlias
from typing import Annotated, TypeVar, get_origin

import msgspec
import numpy as np

from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.safe_loading import NUMPY, Array, numbers, read_npy

T = TypeVar("T")

FORMATS = "see docs/data.md for the formats"
DTYPES = ("uint8", "int16", "uint16", "int32", "int64")
"""Types in which programs store expert ids."""
BY_SIZE = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}
"""Integer type by bytes per element; ids are never negative, so the sign makes no difference."""
MOST_DIMENSIONS = 4


Index = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
"""Index of a token, a layer or a step."""
ExpertId = Annotated[int, msgspec.Meta(ge=-1, le=1 << 31)]
"""Expert id in a record; -1 if absent."""


class Described(msgspec.Struct):
    """Integers in base64 with their shape: vLLM's gateways, dynamo, verifiers."""

    data: str
    shape: list[int]
    dtype: str | None = None
    start: int | None = None
    """Tokens before the first row."""


Payload = str | list[list[list[int]]] | Described
"""Expert ids `[tokens, layers, top-k]` as servers return them; a string is base64 of `.npy` or of bare integers."""


def typed(value: object, kind: type[T], where: str) -> T:
    """Convert decoded JSON to a typed value.

    Args:
        value: decoded JSON, or arrays in its place.
        kind: a type that msgspec supports, or `Array`.
        where: its name in messages.

    Raises:
        UserError: a value in it has another type; the message names it.
    """
    try:
        return msgspec.convert(value, kind, dec_hook=_array_hook)
    except msgspec.ValidationError as error:
        raise UserError(f"{where}: {error}", advice=FORMATS) from error


def _array_hook(kind: type, value: object) -> object:
    if kind is object:
        return value
    if (get_origin(kind) or kind) is not np.ndarray:
        raise NotImplementedError(kind)
    if isinstance(value, np.ndarray):
        return value
    try:
        return _from_lists(value)
    except OverflowError as error:
        raise ValueError("a number of more than 64 bits") from error
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error  # msgspec adds the path to other errors only


def array_of(value: object, where: str) -> Array:
    """Convert nested lists of numbers to an array; an array is returned as it is.

    Raises:
        UserError: it is neither, its rows differ in length, or a number is too large.
    """
    if isinstance(value, np.ndarray):
        return numbers(value, where)
    try:
        return _from_lists(value)
    except (ValueError, OverflowError, msgspec.ValidationError) as error:
        reason = "a number of more than 64 bits" if isinstance(error, OverflowError) else error
        raise UserError(f"{where}: not an array of numbers ({reason})", advice=FORMATS) from error


def _from_lists(value: object) -> Array:
    """Convert nested lists to int64, or to float64 if there are fractions.

    Raises:
        ValueError: they hold values other than numbers, or rows differ in length.
        OverflowError: an integer has more than 64 bits.
    """
    depth = _depth(value)
    try:
        found = np.array(msgspec.convert(value, _nested(int, depth)), np.int64)
    except msgspec.ValidationError:
        found = np.array(msgspec.convert(value, _nested(float, depth)), np.float64)
    except ValueError as error:
        raise ValueError("rows of different lengths") from error
    return found


def _nested(kind: type, depth: int) -> type | GenericAlias:
    """Return the type of lists of numbers, nested to a depth."""
    found: type | GenericAlias = kind
    for _ in range(depth):
        found = GenericAlias(list, (found,))
    return found


def _depth(value: object) -> int:
    """Return the depth of nested lists, by the first element of each."""
    depth = 0
    while isinstance(value, list) and depth < MOST_DIMENSIONS:
        value, depth = value[0] if value else None, depth + 1
    return max(depth, 1)


def described_array(found: Described, where: str) -> Array:
    """Decode integers that come with their shape. A missing type follows from shape and length.

    Raises:
        UserError: shape, type and length do not fit.
    """
    data = _bytes_of(found.data, where)
    elements = 1
    for size in found.shape:
        elements *= size
    if any(size < 0 for size in found.shape):
        raise UserError(f"{where}: a shape of {found.shape}", advice="give it as the engine returned it")
    if found.dtype is not None and found.dtype not in DTYPES:
        raise UserError(f"{where}: a dtype of {found.dtype[:40]!r}", advice=f"use one of {', '.join(DTYPES)}")
    dtype = found.dtype or BY_SIZE.get(len(data) // elements if elements and not len(data) % elements else 0)
    if dtype is None or elements * np.dtype(dtype).itemsize != len(data):
        named = f"of shape {found.shape}" + (f" and dtype {found.dtype}" if found.dtype else "")
        raise UserError(f"{where}: {len(data):,} bytes are not {named}", advice="give it as the engine returned it")
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(found.shape)


def _bytes_of(text: str, where: str) -> bytes:
    """Decode base64, or base85, which Dynamo's vLLM worker uses for arrays; the caller checks the length."""
    try:
        return from_base64(text, where)
    except UserError:
        try:
            return base64.b85decode(text)
        except ValueError:
            pass
        raise


def is_npy(text: str) -> bool:
    """Return whether base64 holds an `.npy` file."""
    return text.startswith(base64.b64encode(NUMPY)[:8].decode())


def npy_in_base64(text: str, where: str) -> Array:
    """Decode base64 of an `.npy` file.

    Raises:
        UserError: it is not base64, or not an `.npy` file.
    """
    return read_npy(from_base64(text, where), where)


def integers_in(data: bytes, dtype: str, where: str) -> Array:
    """Decode consecutive little-endian integers.

    Raises:
        UserError: the bytes are not a whole number of them.
    """
    kind = np.dtype(dtype).newbyteorder("<")
    if len(data) % kind.itemsize:
        raise UserError(f"{where}: {len(data):,} bytes are not a multiple of {dtype}", advice="check its dtype")
    return np.frombuffer(data, kind)


def from_base64(text: str, where: str) -> bytes:
    """Decode base64.

    Raises:
        UserError: it is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{where}: not base64 ({error})", advice="give it as the engine returned it") from error
