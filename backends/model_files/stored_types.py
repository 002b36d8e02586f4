"""Types that a checkpoint's weights are stored in, whatever its config claims."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from moe_watch.backends.model_files.config import Config, quantization
from moe_watch.backends.model_files.safetensors import TensorInfo

MODELOPT = "hf_quant_config.json"
"""File beside config.json with the quantisation settings of NVIDIA ModelOpt."""

PLAIN = frozenset({"F16", "BF16", "F32", "F64"})
PACKED = frozenset({"U8", "I8", "U32", "I32", "F4"})
"""Types of several numbers in one element, or of numbers that a scale belongs to."""
NAMES = {"F8_E4M3": "fp8 (E4M3)", "F8_E5M2": "fp8 (E5M2)", "I8": "8-bit integers"}
ENOUGH = 0.05
"""Share of a checkpoint's bytes that weights of a type have at least; below lie scales and tables."""


def stored_quantization(tensors: Iterable[TensorInfo]) -> str | None:
    """Return the types of quantised weights, by falling share of all bytes; None if there are none."""
    sizes: dict[str, int] = defaultdict(int)
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.bytes
    total = sum(sizes.values())
    kinds = {dtype: size for dtype, size in sizes.items() if _is_quantized(dtype) and size >= ENOUGH * total}
    return ", ".join(_name(dtype) for dtype in sorted(kinds, key=lambda each: -kinds[each])) or None


def is_packed(tensors: Iterable[TensorInfo]) -> bool:
    """Return whether shapes do not count parameters: several are packed into one element, or scales stand beside."""
    return stored_quantization(tensors) is not None


def claimed_quantization(config: Config, folder: Path) -> tuple[str, str] | None:
    """Return what a model's files claim in words, and the file that does; None if they claim nothing."""
    if (said := quantization(config)) is not None:
        return said, "config.json"
    found = _modelopt(folder)
    nested = found.get("quantization", found)
    said = quantization({"quantization_config": nested if isinstance(nested, dict) else {}})
    return None if said is None else (said, MODELOPT)


def modelopt_settings(config: Config, folder: Path) -> Config:
    """Return entries to lay over a config so that mlx-lm reads ModelOpt's file.

    mlx-lm takes the file for a `quantization_config` and demands a `quant_method`, which ModelOpt does not write.
    """
    found = _modelopt(folder)
    if not found or quantization(config) is not None or "quant_method" in found:
        return {}
    return {"quantization_config": found | {"quant_method": "modelopt"}}


def _modelopt(folder: Path) -> Config:
    """Return what ModelOpt's file holds; the settings are nested in it."""
    try:
        found = json.loads((folder / MODELOPT).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_quantized(dtype: str) -> bool:
    return dtype in PACKED or dtype.startswith(("F8", "F4", "F6"))


def _name(dtype: str) -> str:
    return NAMES.get(dtype, f"packed into {dtype}")
