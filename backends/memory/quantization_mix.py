"""Types that llama.cpp's quantizer selects for the tensors of a Mixture-of-Experts model, by format.

Follows `llama_tensor_get_type` of src/llama-quant.cpp (llama-cpp-python 0.3.36) for the formats below, without an
importance matrix. A test compares it with the quantizer's own dry run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moe_watch.backends.model_files.gguf import TENSOR_TYPES

BASE = {
    "F16": "F16",
    "Q8_0": "Q8_0",
    "Q6_K": "Q6_K",
    "Q5_K_M": "Q5_K",
    "Q4_K_M": "Q4_K",
    "Q3_K_M": "Q3_K",
    "Q2_K": "Q2_K",
}
"""Type of most tensors, by format."""

BLOCKS = {name: (elements, size) for name, elements, size in TENSOR_TYPES.values()}

FALLBACK = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""Type for rows that are no multiple of 256."""

KEPT = re.compile(r".*(?:_norm\.weight|ffn_gate_inp\.weight|ssm_conv1d.*)|.*(?<!\.weight)")
"""Tensors that stay in their type: norms, routers, biases."""

LAYER = re.compile(r"blk\.(\d+)\.")
FEW_EXPERTS = 8
"""Number of experts of Mixtral, for which the quantizer has separate rules."""


@dataclass(frozen=True, slots=True)
class MixRules:
    """Facts about a model that the quantizer's rules use."""

    layers: int
    experts: int
    queries_per_key: int
    """Attention heads per key-value head."""
    value_layers: int
    """Number of tensors of attention values."""
    is_tied: bool
    """The token embedding is the output too."""


def tensor_types(tensors: Sequence[tuple[str, tuple[int, ...]]], format_: str, rules: MixRules) -> Iterator[str]:
    """Yield the type of each tensor.

    Args:
        tensors: names and shapes of all tensors in the order of the layers; a shape begins with the length of a row.
        format_: key of `BASE`.
        rules: facts about the model.
    """
    values = 0
    for name, shape in tensors:
        if len([length for length in shape if length > 1]) < 2 or KEPT.fullmatch(name):
            yield "F32"
            continue
        if format_ == "F16":
            yield "F16"
            continue
        is_value = "attn_v.weight" in name or "attn_kv_b.weight" in name or "attn_qkv.weight" in name
        wanted = _wanted(name, shape, format_, rules, values)
        values += is_value and not (rules.is_tied and name == "token_embd.weight")
        yield _fitting(wanted, shape[0])


def tensor_bytes(shape: tuple[int, ...], kind: str) -> int:
    """Return the size of a tensor of this type."""
    elements, size = BLOCKS[kind]
    return math.prod(shape) // elements * size


def _fitting(kind: str, row: int) -> str:
    if row % BLOCKS[kind][0] == 0:
        return kind
    other = FALLBACK.get(kind, kind)
    return other if row % BLOCKS[other][0] == 0 else "F16"


def _wanted(name: str, shape: tuple[int, ...], format_: str, rules: MixRules, values: int) -> str:
    """Return the type before the fallback for short rows."""
    base = BASE[format_]
    if name == "output.weight" or (rules.is_tied and name == "token_embd.weight"):
        return "Q8_0" if base == "Q8_0" or shape[0] % BLOCKS[base][0] else "Q6_K"
    if name == "token_embd.weight":
        return base
    few = rules.experts == FEW_EXPERTS
    matched = LAYER.match(name)
    layer = int(matched[1]) if matched else 0
    if "attn_qkv.weight" in name or "attn_v.weight" in name or "attn_kv_b.weight" in name:
        return "Q8_0" if few else _values(base, format_, rules, values)
    if "attn_k.weight" in name:
        return "Q8_0" if few else base
    if "attn_output.weight" in name:
        return _attention_output(base, format_, few=few)
    return _down(base, format_, layer, rules.layers) if "ffn_down" in name else base


def _values(base: str, format_: str, rules: MixRules, number: int) -> str:
    if format_ == "Q2_K":
        return "Q4_K" if rules.queries_per_key >= 4 else "Q3_K"
    if format_ == "Q3_K_M":
        return "Q5_K" if number < 2 else "Q4_K"
    return "Q6_K" if format_ in {"Q4_K_M", "Q5_K_M"} and _more_bits(number, rules.value_layers) else base


def _attention_output(base: str, format_: str, *, few: bool) -> str:
    if few:
        return "Q5_K" if format_ in {"Q2_K", "Q3_K_M", "Q4_K_M"} else base
    return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K"}.get(format_, base)


def _down(base: str, format_: str, layer: int, layers: int) -> str:
    if format_ == "Q2_K":
        return "Q3_K"
    if format_ == "Q3_K_M":
        return "Q5_K" if layer < layers // 16 else "Q4_K"
    return "Q6_K" if format_ in {"Q4_K_M", "Q5_K_M"} and _more_bits(layer, layers) else base


def _more_bits(number: int, count: int) -> bool:
    """Return whether a layer gets more bits: the first and last eighth, and every third between them."""
    return number < count // 8 or number >= 7 * count // 8 or (number - count // 8) % 3 == 2
