"""Variants of pocket's GGUF file: metadata and tensors as files in the field have them."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any

import gguf
import numpy as np

from moe_watch.backends.model_files.catalog import POCKET_GGUF
from tests.backends import llama_files

Value = tuple[gguf.GGUFValueType, Any] | tuple[gguf.GGUFValueType, Any, gguf.GGUFValueType]
"""A type and a value; for an array also the type of its items."""

Tensors = dict[str, np.ndarray]

TYPES = gguf.GGUFValueType
ARCHITECTURE = "llama"
EXPERTS, CHOSEN, LAYERS = 8, 2, 6


def number(value: int) -> Value:
    return TYPES.UINT32, value


def text(value: str) -> Value:
    return TYPES.STRING, value


def numbers(values: list[int]) -> Value:
    return TYPES.ARRAY, values, TYPES.UINT32


@cache
def _pocket() -> gguf.GGUFReader:
    return gguf.GGUFReader(POCKET_GGUF)


def metadata() -> dict[str, Value]:
    """Return all metadata of pocket's file except its architecture."""
    fields = {key: field for key, field in _pocket().fields.items() if not key.startswith("GGUF.")}
    del fields["general.architecture"]
    return {key: (field.types[0], field.contents(), *field.types[1:2]) for key, field in fields.items()}


def tensors() -> Tensors:
    """Pocket's own, all in float32 or float16."""
    return {tensor.name: np.array(tensor.data) for tensor in _pocket().tensors}


def write(
    path: pathlib.Path,
    changed: Mapping[str, Value] | None = None,
    *,
    dropped: Collection[str] = (),
    of: Callable[[Tensors], Tensors] = lambda tensors: tensors,
    types: Mapping[str, gguf.GGMLQuantizationType] | None = None,
    architecture: str = ARCHITECTURE,
) -> pathlib.Path:
    """Write pocket with other metadata, or other tensors.

    Args:
        path: of the new file.
        changed: entries to set; a key that begins with a dot is the architecture's own.
        dropped: keys to leave out, with the same rule for a leading dot.
        of: makes the file's tensors from pocket's.
        types: to quantise tensors as, by name.
        architecture: as llama.cpp names it.
    """
    writer = gguf.GGUFWriter(path, architecture)
    entries = metadata() | {_whole(key, architecture): value for key, value in (changed or {}).items()}
    for key, value in entries.items():
        if key not in {_whole(name, architecture) for name in dropped}:
            writer.add_key_value(key, value[1], value[0], *value[2:])
    for name, data in of(tensors()).items():
        kind = (types or {}).get(name)
        writer.add_tensor(name, data if kind is None else gguf.quantize(data, kind), raw_dtype=kind)
    llama_files.finish(writer)
    return path


def _whole(key: str, architecture: str) -> str:
    return f"{architecture}{key}" if key.startswith(".") else key


def one_tensor_per_expert(tensors: Tensors) -> Tensors:
    """The layout of files made before April 2024."""
    apart: Tensors = {}
    for name, data in tensors.items():
        stem, is_merged, end = name.partition("_exps")
        apart |= {f"{stem}.{e}{end}": each.copy() for e, each in enumerate(data)} if is_merged else {name: data}
    return apart
