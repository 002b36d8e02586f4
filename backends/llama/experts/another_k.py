"""Experts per token other than the model's own number: an override of the file's metadata, checked before loading.

llama.cpp aborts the process if the number is above the number of experts, and selects experts outside the winning
groups if they hold fewer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llama_cpp import llama_cpp as lib

from moe_watch.backends.model_files.gguf import GgufFile
from moe_watch.backends.model_files.selected_experts import OPTION, check_selectable
from moe_watch.routing.errors import UserError

KEY = "expert_used_count"

TABLE = re.compile(r"blk\.\d+\.ffn_gate_tid2eid\.weight")
"""Table of experts by token; its width is the model's own number."""

WIDTH_FROM_K = frozenset({"qwen2moe", "qwen3moe", "qwen3next", "qwen3vlmoe", "qwen35moe", "qwen4exp", "rnd1"})
"""Architectures whose experts' width llama.cpp computes from the experts per token if the file does not give it."""


def check_another_k(name: str, parts: Sequence[GgufFile], k: int) -> None:
    """Refuse a number of experts per token that the model cannot select.

    Args:
        name: name of the model.
        parts: headers of all its files.
        k: experts per token.

    Raises:
        UserError: the number is refused.
    """
    first = parts[0]
    experts = check_selectable(name, k, first.number("expert_count"))
    if first.array(KEY) is not None:
        raise UserError(
            f"{OPTION} is {k}, and {name} has one number of experts per token for each layer",
            advice=f"leave out {OPTION}",
        )
    groups, used = (first.number(f"expert_group_{what}") or 0 for what in ("count", "used_count"))
    if groups > 1 and k > (most := experts // groups * used):
        raise UserError(
            f"{OPTION} is {k}, and a token's {used} groups of {name} hold {most} experts", advice=f"give 1 to {most}"
        )
    if reason := _why_fixed(parts):
        raise UserError(f"{OPTION} is {k}, and {name} {reason}", advice=f"leave out {OPTION}")


def _why_fixed(parts: Sequence[GgufFile]) -> str:
    """Return the reason why a file has tensors for one number of experts per token only; empty if it has none."""
    first = parts[0]
    if any(TABLE.fullmatch(tensor.name) for part in parts for tensor in part.tensors):
        return "selects the experts of some layers by token, from a table"
    if first.architecture in WIDTH_FROM_K and not first.number("expert_feed_forward_length"):
        return "does not give the width of an expert, which llama.cpp computes from the experts per token"
    return ""


def metadata_overrides(file: GgufFile, k: int | None) -> Any:
    """Return llama.cpp's array of metadata overrides, terminated by an empty one; None without one.

    Args:
        file: header of the model's first file.
        k: experts per token; None for the model's own number.
    """
    if k is None:
        return None
    overrides = (lib.llama_model_kv_override * 2)()
    overrides[0].tag = lib.LLAMA_KV_OVERRIDE_TYPE_INT
    overrides[0].key = f"{file.architecture}.{KEY}".encode()
    overrides[0].value.val_i64 = k
    return overrides


def check_selected(name: str, k: int, selected: Mapping[int, int]) -> None:
    """Check the numbers of experts that llama.cpp selects, which some architectures do not read from the file.

    Args:
        name: name of the model.
        k: experts per token that were asked for.
        selected: experts per token by model layer index.

    Raises:
        UserError: a layer selects another number.
    """
    other = next(((layer, number) for layer, number in selected.items() if number != k), None)
    if other is not None:
        raise UserError(
            f"{OPTION} is {k}, and llama.cpp selects {other[1]} experts in layer {other[0]} of {name} all the same",
            advice=f"leave out {OPTION}",
        )
