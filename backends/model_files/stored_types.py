"""Types that a checkpoint's weights are stored in, independent of its config's claim."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from moe_watch.backends.model_files.config import Config, quantization
from moe_watch.backends.model_files.safetensors import TensorInfo

MODELOPT = "hf_quant_config.json"
"""File beside config.json with the quantization settings of NVIDIA ModelOpt."""

PLAIN = frozenset({"F16", "BF16", "F32", "F64"})
PACKED = frozenset({"U8", "I8", "U32", "I32", "F4"})
"""Types with several numbers in one element, or with a separate scale."""
NAMES = {"F8_E4M3": "fp8 (E4M3)", "F8_E5M2": "fp8 (E5M2)", "I8": "8-bit integers"}
ENOUGH = 0.05
"""Smallest share of a checkpoint's bytes for a type of weights; smaller shares are scales and tables."""


def stored_quantization(tensors: Iterable[TensorInfo]) -> str | None:
    """Return the types of quantized weights, in descending share of all bytes; None if there are none."""
    sizes: dict[str, int] = defaultdict(int)
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.bytes
    total = sum(sizes.values())
    kinds = {dtype: size for dtype, size in sizes.items() if _is_quantized(dtype) and size >= ENOUGH * total}
    return ", ".join(_name(dtype) for dtype in sorted(kinds, key=lambda each: -kinds[each])) or None


def shares(tensors: Iterable[TensorInfo]) -> str:
    """Return the tensor types by their share of the bytes, e.g. `Q4_K 78 %, Q6_K 21 %, F32 1 %`.

    The quantization in a file's name is not enough: if rows are too short for a K-quant, other types replace it.
    """
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.bytes
    total = sizes.total() or 1
    return ", ".join(f"{dtype} {_percent(size / total)}" for dtype, size in sizes.most_common())


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %") if share >= 0.01 else "under 1 %"


def is_packed(tensors: Iterable[TensorInfo]) -> bool:
    """Return whether shapes do not count parameters, because elements are packed or have separate scales."""
    return stored_quantization(tensors) is not None


def claimed_quantization(config: Config, folder: Path) -> tuple[str, str] | None:
    """Return the quantization that a model's files claim, and the name of the file; None if they claim none."""
    if (claim := quantization(config)) is not None:
        return claim, "config.json"
    found = _modelopt(folder)
    nested = found.get("quantization", found)
    claim = quantization({"quantization_config": nested if isinstance(nested, dict) else {}})
    return None if claim is None else (claim, MODELOPT)


def modelopt_settings(config: Config, folder: Path) -> Config:
    """Return entries to add to a config so that mlx-lm reads ModelOpt's file.

    mlx-lm treats the file as a `quantization_config` and requires a `quant_method`, which ModelOpt does not write.
    """
    found = _modelopt(folder)
    if not found or quantization(config) is not None or "quant_method" in found:
        return {}
    return {"quantization_config": found | {"quant_method": "modelopt"}}


def _modelopt(folder: Path) -> Config:
    """Return the content of ModelOpt's file, in which the settings are nested; empty if it cannot be read."""
    try:
        found = json.loads((folder / MODELOPT).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_quantized(dtype: str) -> bool:
    return dtype in PACKED or dtype.startswith(("F8", "F4", "F6"))


def _name(dtype: str) -> str:
    return NAMES.get(dtype, f"packed into {dtype}")
