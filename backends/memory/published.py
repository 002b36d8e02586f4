"""Memory of published models by format, from their shapes: an answer before anything is downloaded."""

from __future__ import annotations

import math
from collections.abc import Sequence

from moe_watch.backends.memory.available import AvailableMemory
from moe_watch.backends.memory.need import DASHBOARD_BYTES
from moe_watch.backends.memory.published_shapes import PUBLISHED, Attention, Named, PublishedShape
from moe_watch.backends.memory.quantization_mix import BASE, MixRules, tensor_bytes, tensor_types
from moe_watch.backends.memory.quick import MICRO_BATCH, RUNTIME_BYTES
from moe_watch.backends.memory.results import FormatResult, PublishedMemoryReport, ResidentResult
from moe_watch.routing.errors import UserError

CONTEXT = 4096
"""Tokens, if none are given."""

MLX = "MLX 4-bit"
MLX_BITS = 4.5
"""Bits per weight: 4, and a scale and a bias of 16 bits for each group of 64."""


def published_report(name: str, available: AvailableMemory, context: int | None) -> PublishedMemoryReport:
    """Return the memory of a published model in all formats.

    Args:
        name: key of `PUBLISHED`; case does not matter.
        available: memory that the totals are compared with.
        context: tokens of context; None is `CONTEXT`.

    Raises:
        UserError: there is no model of this name in the table.
    """
    shape = PUBLISHED.get(name.lower())
    if shape is None:
        raise UserError(f"--for {name}: not in the table of published models", advice=f"use {', '.join(PUBLISHED)}")
    tokens = context or CONTEXT
    kv, overhead = shape.kv_bytes(tokens), MICRO_BATCH * shape.vocabulary * 4 + RUNTIME_BYTES + DASHBOARD_BYTES
    besides = kv + overhead
    formats = [
        FormatResult(
            format=format_, weights_bytes=size, total_bytes=size + besides, fits=size + besides <= available.bytes
        )
        for format_, size in format_bytes(shape).items()
    ]
    resident = [
        ResidentResult(
            experts=count, weights_bytes=size, total_bytes=size + besides, fits=size + besides <= available.bytes
        )
        for count, size in resident_bytes(shape).items()
    ]
    fitting = [each for each in formats if each.fits]
    return PublishedMemoryReport(
        name=name.lower(),
        title=shape.title,
        source=f"https://huggingface.co/{shape.repository}/blob/main/config.json",
        layers=shape.layers,
        moe_layers=shape.moe_layers,
        experts=shape.experts.count,
        experts_per_token=shape.experts.used,
        parameters=shape.parameters,
        active_parameters=shape.active_parameters,
        expert_parameters=shape.expert_parameters,
        context=tokens,
        kv_bytes=kv,
        overhead_bytes=overhead,
        available_bytes=available.bytes,
        limit=available.limit,
        fits=bool(fitting),
        formats=formats,
        resident=resident,
        recommendation=fitting[0].format if fitting else None,
    )


def format_bytes(shape: PublishedShape) -> dict[str, int]:
    """Return the size of the weights by format, the largest first."""
    sizes = {("FP16" if name == "F16" else name): gguf_bytes(shape, name) for name in BASE}
    sizes[MLX] = mlx_bytes(shape.tensors)
    return dict(sorted(sizes.items(), key=lambda entry: -entry[1]))


def gguf_bytes(shape: PublishedShape, format_: str) -> int:
    """Return the size of all tensors in a format of llama.cpp's quantizer."""
    types = tensor_types(shape.tensors, format_, mix_rules(shape))
    return sum(tensor_bytes(size, kind) for (_, size), kind in zip(shape.tensors, types, strict=True))


def mix_rules(shape: PublishedShape) -> MixRules:
    """Return the facts that llama.cpp's quantizer uses."""
    attention = shape.attention
    keys = attention.kv_heads if isinstance(attention, Attention) else 1
    values = ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight")
    return MixRules(
        layers=shape.layers,
        experts=shape.experts.count,
        queries_per_key=attention.heads // keys,
        value_layers=sum(name.endswith(values) for name, _ in shape.tensors),
        is_tied=shape.is_tied,
    )


def mlx_bytes(tensors: Sequence[Named]) -> int:
    """Return the size of tensors as mlx-lm's converter stores them: matrices in 4 bits, vectors in 16."""
    return int(sum(math.prod(size) * (MLX_BITS / 8 if _is_matrix(name, size) else 2) for name, size in tensors))


def resident_bytes(shape: PublishedShape) -> dict[int, int]:
    """Return the size of the weights in 4-bit MLX format by number of experts per layer that are resident."""
    every = shape.experts.count
    routed = mlx_bytes([each for each in shape.tensors if "_exps." in each[0]])
    other = mlx_bytes(shape.tensors) - routed
    counts = sorted({max(shape.experts.used, every * quarter // 4) for quarter in (1, 2, 3, 4)})
    return {count: other + routed * count // every for count in counts}


def _is_matrix(name: str, size: tuple[int, ...]) -> bool:
    return len(size) > 1 and name.endswith(".weight") and "ssm_conv1d" not in name
