"""Sizes, tensor types and descriptions of a GGUF model, from the headers of its files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from moe_watch.backends.model_files.gguf import GgufFile
from moe_watch.backends.model_files.safetensors import TensorInfo
from moe_watch.backends.model_files.sizes import WeightFacts, fingerprint
from moe_watch.backends.model_files.stored_types import shares

EXPERT_TENSOR = re.compile(r"blk\.(\d+)\.ffn_(?:gate|up|down|gate_up)_exps\..+")

PLAIN_TYPES = frozenset({"F32", "F16", "BF16", "F64"})
"""Tensor types that are not quantized."""


def weight_facts(parts: Sequence[GgufFile]) -> WeightFacts:
    """Return the sizes of a model, summed over the tensor tables of all its files."""
    tensors = all_tensors(parts)
    total = sum(tensor.bytes for tensor in tensors)
    routed = _routed_bytes(tensors)
    experts = parts[0].number("expert_count")
    even = experts and not any(size % experts for size in routed.values())
    is_dense = not experts and not routed
    return WeightFacts(
        bytes=total,
        parameters=sum(tensor.elements for tensor in tensors),
        expert_bytes={layer: size // experts for layer, size in routed.items()} if experts and even else {},
        non_expert_bytes=total - sum(routed.values()) if is_dense or (even and routed) else None,
        fingerprint=fingerprint(parts[0].metadata, tensors),
    )


def all_tensors(parts: Sequence[GgufFile]) -> list[TensorInfo]:
    """Return the tensors of all files of a model."""
    return [tensor for part in parts for tensor in part.tensors]


def _routed_bytes(tensors: Sequence[TensorInfo]) -> dict[int, int]:
    """Return the bytes of all routed experts together, by model layer index."""
    sizes: Counter[int] = Counter()
    for tensor in tensors:
        if named := EXPERT_TENSOR.fullmatch(tensor.name):
            sizes[int(named[1])] += tensor.bytes
    return dict(sizes)


def is_float32(parts: Sequence[GgufFile]) -> bool:
    """Return whether every tensor is stored in float32."""
    return {tensor.dtype for tensor in all_tensors(parts)} == {"F32"}


def stored_as(parts: Sequence[GgufFile]) -> str:
    """Return the tensor types of all files by their share of the bytes."""
    return shares(all_tensors(parts))


def quantization(parts: Sequence[GgufFile]) -> str | None:
    """Return the quantization as text; None if the weights are not quantized."""
    is_plain = all(tensor.dtype in PLAIN_TYPES for tensor in all_tensors(parts))
    return None if is_plain else stored_as(parts)


def trained_length(file: GgufFile) -> int | None:
    """Return the longest sequence seen in training: a model with an extended context names the original length too."""
    return file.number("rope.scaling.original_context_length") or file.number("context_length")
