"""Quantization of a loaded model's weights: read from its modules, and compared with the claims of its files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.nn as nn

from moe_watch.backends.model_files.config import Config
from moe_watch.backends.model_files.safetensors import TensorInfo
from moe_watch.backends.model_files.stored_types import MODELOPT, claimed_quantization, stored_quantization

FOUR_BITS = re.compile(r"fp4|int4|w4", re.IGNORECASE)
EIGHT_BITS = re.compile(r"fp8|int8|w8", re.IGNORECASE)


def quantization_of(model: nn.Module, tensors: Sequence[TensorInfo]) -> str | None:
    """Return the quantization, e.g. `4-bit affine, groups of 64; 2 modules 8-bit`; None if there is none.

    Weights that mlx-lm unpacks while loading have the precision that they are stored in.
    """
    modules = list(model.modules())
    kinds = Counter[tuple[int, str, int]]()
    sizes = Counter[tuple[int, str, int]]()
    for module in modules:
        if isinstance(bits := getattr(module, "bits", None), int) and "weight" in module:
            kind = (bits, str(getattr(module, "mode", "affine")), int(module.group_size))
            kinds[kind] += 1
            sizes[kind] += int(module.weight.nbytes)
    if not kinds:
        stored = stored_quantization(tensors)
        return None if stored is None else f"{stored}, unpacked while loading"
    usual = max(sizes, key=lambda kind: sizes[kind])
    bits, mode, group = usual
    return f"{bits}-bit {mode}, groups of {group}{_exceptions(kinds, usual, _whole(modules))}"


def _exceptions(kinds: Counter[tuple[int, str, int]], usual: tuple[int, str, int], whole: int) -> str:
    others = [f"{count} modules {_named(kind, usual)}" for kind, count in sorted(kinds.items()) if kind != usual]
    return "".join(f"; {each}" for each in [*others, *([f"{whole} modules not quantized"] if whole else [])])


def _named(kind: tuple[int, str, int], usual: tuple[int, str, int]) -> str:
    """Return the description of a quantization, by its difference from the usual one."""
    bits, mode, group = kind
    if bits != usual[0]:
        return f"{bits}-bit"
    return f"{bits}-bit {mode}" if mode != usual[1] else f"{bits}-bit, groups of {group}"


def _whole(modules: Sequence[Any]) -> int:
    """Return the number of modules that could be quantized and are not."""
    return sum(hasattr(module, "to_quantized") and "weight" in module for module in modules)


def quantization_warnings(found: str | None, config: Config, folder: Path) -> list[str]:
    """Return a warning if the files' claim differs from the tensors, or only ModelOpt's file makes it."""
    claim = claimed_quantization(config, folder)
    if claim is None:
        return [f"config.json names no quantization, but the weights are {found}"] if found else []
    claimed, file = claim
    if found is None:
        return [f"{file} names a quantization ({claimed}), but the weights are not quantized"]
    claimed_bits, bits = _bits(claimed), _bits(found)
    if None not in (claimed_bits, bits) and claimed_bits != bits:
        return [f"{file} names a quantization ({claimed}), but the weights are {found}"]
    return [f"{MODELOPT} names the quantization ({claimed}), config.json does not"] if file == MODELOPT else []


def _bits(words: str) -> int | None:
    """Return the number of bits in a description; None if it has none."""
    if named := re.match(r"(\d+)-bit", words):
        return int(named[1])
    return 4 if FOUR_BITS.search(words) else 8 if EIGHT_BITS.search(words) else None
