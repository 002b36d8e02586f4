"""Model size, read from the headers of its files; no weight is loaded.

Bytes are bytes on disk. A number that names and shapes do not determine is None.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from moe_watch.backends.model_files.config import Config, expert_count
from moe_watch.backends.model_files.safetensors import TensorInfo
from moe_watch.backends.model_files.stored_types import is_packed

EXPERT_CONTAINERS = frozenset({"experts", "switch_mlp", "switch_glu"})
"""Path components of routed experts, stored one by one or stacked."""

LAYER_LISTS = frozenset({"layers", "h", "blocks"})


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """Sizes of one model."""

    bytes: int
    parameters: int | None
    """None for packed (quantized) weights, whose shapes do not count parameters."""
    expert_bytes: dict[int, int]
    """Bytes of one routed expert by model layer index, for layers where the number is known."""
    non_expert_bytes: int | None
    """Bytes of everything else; of a dense model, all of it."""
    fingerprint: str


def weight_facts(config: Config, tensors: Sequence[TensorInfo]) -> WeightFacts:
    """Return the sizes of a model, summed over the tensor tables of all its files."""
    total = sum(tensor.bytes for tensor in tensors)
    routed, experts = _routed_bytes(tensors), expert_count(config)
    one = _one_expert(routed, experts)
    is_dense = experts is None and not routed
    return WeightFacts(
        bytes=total,
        parameters=None if is_packed(tensors) else sum(tensor.elements for tensor in tensors),
        expert_bytes=one,
        non_expert_bytes=total - sum(routed.values()) if one or is_dense else None,
        fingerprint=fingerprint(config, tensors),
    )


def moe_layers(tensors: Iterable[TensorInfo]) -> set[int]:
    """Return the model layer indices of the layers with routed experts."""
    return set(_routed_bytes(tensors))


def fingerprint(metadata: Mapping[str, object], tensors: Iterable[TensorInfo]) -> str:
    """Return SHA-256 of metadata and tensor table (names, types, shapes, sizes); the split into files has no effect."""
    table = sorted((tensor.name, tensor.dtype, tensor.shape, tensor.bytes) for tensor in tensors)
    content = json.dumps([metadata, table], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def _one_expert(routed: dict[int, int], experts: int | None) -> dict[int, int]:
    """Return each layer's bytes divided by its number of experts; empty if a division has a remainder."""
    if experts is None or any(size % experts for size in routed.values()):
        return {}
    return {layer: size // experts for layer, size in routed.items()}


def _routed_bytes(tensors: Iterable[TensorInfo]) -> dict[int, int]:
    """Return the bytes of all routed experts together, by model layer index."""
    sizes: dict[int, int] = defaultdict(int)
    for tensor in tensors:
        path = tensor.name.split(".")
        layer = _layer_index(path)
        if layer is not None and not EXPERT_CONTAINERS.isdisjoint(path):
            sizes[layer] += tensor.bytes
    return dict(sizes)


def _layer_index(path: list[str]) -> int | None:
    """Return the number after the first list of layers in a tensor's path; None if there is none."""
    for component, index in pairwise(path):
        if component in LAYER_LISTS and index.isdecimal():
            return int(index)
    return None
