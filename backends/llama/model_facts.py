"""What a GGUF model weighs and is stored as, from its headers; and how it is described."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from moe_watch.backends.model_files.gguf import GgufFile
from moe_watch.backends.model_files.safetensors import TensorInfo
from moe_watch.backends.model_files.sizes import WeightFacts, fingerprint

EXPERT_TENSOR = re.compile(r"blk\.(\d+)\.ffn_(?:gate|up|down|gate_up)_exps\..+")

PLAIN_TYPES = frozenset({"F32", "F16", "BF16", "F64"})
"""Tensor types that are not quantised."""


def weight_facts(parts: Sequence[GgufFile]) -> WeightFacts:
    """Add up a model's tensor tables (all parts of it)."""
    tensors = all_tensors(parts)
    total = sum(tensor.bytes for tensor in tensors)
    routed = _routed_bytes(tensors)
    experts = parts[0].number("expert_count")
    even = experts and not any(size % experts for size in routed.values())
    return WeightFacts(
        bytes=total,
        parameters=sum(tensor.elements for tensor in tensors),
        expert_bytes={layer: size // experts for layer, size in routed.items()} if experts and even else {},
        non_expert_bytes=total - sum(routed.values()) if even and routed else None,
        fingerprint=fingerprint(parts[0].metadata, tensors),
    )


def all_tensors(parts: Sequence[GgufFile]) -> list[TensorInfo]:
    """Of all parts together."""
    return [tensor for part in parts for tensor in part.tensors]


def _routed_bytes(tensors: Sequence[TensorInfo]) -> dict[int, int]:
    """Bytes of all routed experts together, by model layer index."""
    sizes: Counter[int] = Counter()
    for tensor in tensors:
        if named := EXPERT_TENSOR.fullmatch(tensor.name):
            sizes[int(named[1])] += tensor.bytes
    return dict(sizes)


def is_float32(parts: Sequence[GgufFile]) -> bool:
    """Every tensor is stored in float32."""
    return {tensor.dtype for tensor in all_tensors(parts)} == {"F32"}


def stored_as(parts: Sequence[GgufFile]) -> str:
    """The tensor types by their share of the bytes, e.g. `Q4_K 78 %, Q6_K 21 %, F32 1 %`.

    The name that a file goes by is not enough: where rows are too short for a K-quant, others stand in for it.
    """
    sizes: Counter[str] = Counter()
    for tensor in all_tensors(parts):
        sizes[tensor.dtype] += tensor.bytes
    total = sizes.total() or 1
    return ", ".join(f"{dtype} {_percent(size / total)}" for dtype, size in sizes.most_common())


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %") if share >= 0.01 else "under 1 %"


def quantization(parts: Sequence[GgufFile]) -> str | None:
    """In words; None if the weights are not quantised."""
    is_plain = all(tensor.dtype in PLAIN_TYPES for tensor in all_tensors(parts))
    return None if is_plain else stored_as(parts)


def trained_length(file: GgufFile) -> int | None:
    """Longest sequence seen in training: a stretched context names the original one beside its own length."""
    return file.number("rope.scaling.original_context_length") or file.number("context_length")
