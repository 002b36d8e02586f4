"""Corrections of a loaded model for settings that mlx-lm ignores: modules are replaced, mlx-lm is unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.base import create_attention_mask
from mlx_lm.models.cache import KVCache, RotatingKVCache
from mlx_lm.models.rope_utils import YarnRoPE, initialize_rope

from moe_watch.backends.mlx.layers import family_of
from moe_watch.backends.mlx.settings import moe_blocks as mlx_blocks
from moe_watch.backends.mlx.settings.dropped_tensors import LAYER, Arrays
from moe_watch.backends.mlx.settings.ignored import Ignored, rope_kind, rotations, windowed_layers
from moe_watch.backends.mlx.settings.moe_blocks import replace_call
from moe_watch.backends.mlx.settings.yarn import YarnRotation
from moe_watch.backends.model_files.config import Config, text_section

SELECTION_BIAS = "e_score_correction_bias"
GROUP_BIASES = (SELECTION_BIAS, "expert_bias")
FILLS_WITH_ZERO = frozenset(
    {
        "afmoe", "bailing_moe", "bailing_moe_linear", "deepseek_v3", "deepseek_v32", "dots1", "exaone_moe", "glm4_moe",
        "glm4_moe_lite", "kimi_k3", "kimi_linear", "mimo_v2_flash", "nemotron_h",
    }
)  # fmt: skip
"""Families that set the biased scores of dropped groups to 0, where `transformers` and llama.cpp set −∞."""

WINDOWS = frozenset({"mixtral", "qwen2_moe", "qwen3_moe"})
"""Families whose layers are called with hidden states, mask and cache, and attend to all tokens."""


# -- rules of a family


def correct_rules(model: nn.Module) -> list[str]:
    """Correct families whose mlx-lm code routes by other rules than their models; return the corrections."""
    found: set[str] = set()
    for block in model.modules():
        match family_of(block):
            case "hunyuan" if "switch_mlp" in block:
                block.norm_topk_prob = True
                replace_call(block, mlx_blocks.hunyuan)
                found.add("Hunyuan's division of weights by their sum")
            case "jamba" if "switch_mlp" in block:
                block.norm_topk_prob = False
                replace_call(block, mlx_blocks.jamba)
                found.add("Jamba's weighting by selected probabilities without renormalization")
    return [*sorted(found), *_raise_biases(model)]


def _raise_biases(model: nn.Module) -> list[str]:
    """Raise the selection biases of a layer until no biased score is below 0, the score of dropped groups.

    The same amount is added to all biases, so their order is unchanged, and weights do not depend on them.
    """
    raised = False
    for module in model.modules():
        if family_of(module) not in FILLS_WITH_ZERO or not _drops_groups(module):
            continue
        for name in GROUP_BIASES:
            bias = module.get(name)
            if isinstance(bias, mx.array) and (lowest := bias.min().item()) < 0:
                module[name] = bias.astype(mx.float32) - lowest
                raised = True
    return ["the exclusion of dropped groups where a selection bias is negative"] if raised else []


def _drops_groups(module: Any) -> bool:
    groups = getattr(module, "n_group", None) or getattr(getattr(module, "args", None), "num_expert_group", None)
    return isinstance(groups, int) and groups > 1


# -- dropped tensors


def restore_tensors(model: nn.Module, dropped: Arrays) -> list[str]:
    """Restore tensors of blocks that `sanitize` dropped; return the names of the tensors."""
    restored = []
    blocks = {int(found[1]): block for found, block in _ernie_blocks(model)}
    for name, array in dropped.items():
        layer = LAYER.search(name)
        if name.endswith(SELECTION_BIAS) and layer is not None and (block := blocks.get(int(layer[1]))) is not None:
            block[SELECTION_BIAS] = array.reshape(-1).astype(mx.float32)
            replace_call(block, mlx_blocks.ernie4_5_moe)
            restored.append(name)
    return restored


def _ernie_blocks(model: nn.Module) -> Iterator[tuple[Any, Any]]:
    for path, module in model.named_modules():
        if family_of(module) == "ernie4_5_moe" and "switch_mlp" in module and (found := LAYER.search(f".{path}.")):
            yield found, module


# -- settings


def correct(setting: Ignored, model: nn.Module, config: Config) -> bool:
    """Add one setting to the model if there is a correction for it; return whether it was added."""
    section = text_section(config)
    return _CORRECTIONS[setting.key](model, section) if setting.key in _CORRECTIONS else False


def _stretch(model: nn.Module, section: Config) -> bool:
    """Replace every rotation by the rotation in the config."""
    found = list(rotations(section))
    if not found or any(rope_kind(rotation) != rope_kind(found[0]) for rotation in found):
        return False
    kind, scaling, length = rope_kind(found[0]), _complete(found[0], section), section.get("max_position_embeddings")
    owners = [module for module in model.modules() if isinstance(module.get("rope"), nn.RoPE | YarnRoPE)]
    for owner in owners:
        rope = owner["rope"]
        base = rope.base if isinstance(rope, nn.RoPE) else section["rope_theta"]
        if kind == "yarn":
            owner["rope"] = YarnRotation(rope.dims, base, traditional=rope.traditional, scaling=scaling)
        elif kind in ("linear", "llama3") and isinstance(rope, nn.RoPE):
            owner["rope"] = initialize_rope(rope.dims, base, rope.traditional, scaling, length)
        else:
            return False
    return bool(owners)


def _complete(rotation: Config, section: Config) -> Config:
    """Return the rotation with the defaults of `transformers` filled in."""
    length = section.get("max_position_embeddings")
    original = rotation.get("original_max_position_embeddings") or length
    factor = rotation.get("factor") or (length / original if length and original else 1.0)
    return rotation | {"original_max_position_embeddings": original, "factor": factor}


def _clip(model: nn.Module, section: Config) -> bool:
    """Clip queries and keys after their norm, and values, as OLMoE does."""
    limit = section["clip_qkv"]
    modules = [
        module[name]
        for module in model.modules()
        if family_of(module) == "olmoe" and "q_proj" in module
        for name in ("q_norm", "k_norm", "v_proj")
    ]
    for module in modules:
        replace_call(module, _clipped(type(module).__call__, limit))
    return bool(modules)


def _clipped(call: Callable[..., Any], limit: float) -> Callable[..., Any]:
    def clipped(module: Any, x: Any) -> Any:
        return mx.clip(call(module, x), -limit, limit)

    return clipped


def _renormalise(model: nn.Module, section: Config) -> bool:
    blocks = [module for module in model.modules() if family_of(module) == "qwen2_moe" and "switch_mlp" in module]
    for block in blocks if section.get("norm_topk_prob") else []:
        block.norm_topk_prob = True
        replace_call(block, mlx_blocks.qwen2_moe)
    return bool(blocks) and bool(section.get("norm_topk_prob"))


def _slide(model: nn.Module, section: Config) -> bool:
    """Limit attention to the window: each layer builds its own mask, and its cache holds no more tokens."""
    layers, windowed, window = list(model.layers), windowed_layers(section), section["sliding_window"]
    if {family_of(layer) for layer in layers} - WINDOWS or hasattr(model, "make_cache"):
        return False

    def make_cache(_: Any) -> list[Any]:
        return [RotatingKVCache(max_size=window) if at in windowed else KVCache() for at in range(len(layers))]

    # Set on the object, not on its class: mlx-lm calls `make_cache` of the model.
    object.__setattr__(model, "make_cache", MethodType(make_cache, model))
    for at, layer in enumerate(layers):
        replace_call(layer, _with_own_mask(type(layer).__call__, window if at in windowed else None))
    return True


def _with_own_mask(call: Callable[..., Any], window: int | None) -> Callable[..., Any]:
    def masked(layer: Any, x: Any, _: Any = None, cache: Any = None) -> Any:
        return call(layer, x, create_attention_mask(x, cache, window_size=window), cache)

    return masked


_CORRECTIONS: dict[str, Callable[[nn.Module, Config], bool]] = {
    "rope_scaling": _stretch,
    "truncate": _stretch,
    "attention_factor": _stretch,
    "clip_qkv": _clip,
    "norm_topk_prob": _renormalise,
    "sliding_window": _slide,
}
