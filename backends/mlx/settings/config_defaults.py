"""Keys of a `config.json` that mlx-lm requires and transformers 5 does not write, filled in from other keys."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from moe_watch.backends.mlx.settings.dropped_tensors import mlx_lm_classes
from moe_watch.backends.mlx.settings.ignored import shown
from moe_watch.backends.model_files.config import Config, rope_overrides

ABSENT = object()
"""Value for a key that cannot be filled in."""

Fill = Callable[[Config], Any]


def complete(config: Config) -> tuple[Config, list[str]]:
    """Return entries to add to a config so that mlx-lm can read it, and notices about them.

    Raises:
        Exception: mlx-lm has no such family.
    """
    found = rope_overrides(config)
    if "model_file" in config:  # the model's own code, which mlx-lm loads
        return found, []
    _, args_class = mlx_lm_classes(config | found)
    filled = _missing(config | found, args_class)
    text = config.get("text_config")
    if isinstance(text, dict):
        text = text | found.get("text_config", {})
        if in_text := _missing(text, _text_class(args_class)):
            found["text_config"] = text | in_text
            filled |= in_text
    if config.get("model_type") == "deepseek_v2" and (config | found).get("rope_scaling") is None:
        # A factor of 1 is no scaling: mlx-lm's DeepSeek-V2 supports no unscaled RoPE.
        found["rope_scaling"] = {"type": "yarn", "factor": 1.0}
        filled["rope_scaling"] = None
    return {**filled, **found}, _notices(filled)


def _missing(section: Config, args_class: type | None) -> Config:
    """Return values for required arguments of the class, and for arguments that the config has under another name.

    Without the latter, the class would silently use its default.
    """
    if args_class is None:
        return {}
    missing = [each for each in inspect.signature(args_class).parameters.values() if each.name not in section]
    required = {each.name: FILLS.get(each.name) for each in missing if each.default is each.empty}
    renamed = {each.name: _same(RENAMED[each.name]) for each in missing if each.name in RENAMED}
    filled = {name: fill(section) for name, fill in (required | renamed).items() if fill is not None}
    return {name: value for name, value in filled.items() if value is not ABSENT}


def _text_class(args_class: type) -> type | None:
    space = vars(inspect.getmodule(args_class))
    return next((space[name] for name in ("TextArgs", "TextModelArgs", "TextConfig") if name in space), None)


def _notices(filled: Config) -> list[str]:
    if not filled:
        return []
    named = ", ".join(f"{name} {shown(value)}" for name, value in sorted(filled.items()))
    return [f"config.json, written by transformers 5, lacks keys that mlx-lm requires; filled in: {named}"]


# -- single keys


def _same(other: str) -> Fill:
    def fill(section: Config) -> Any:
        return section.get(other, ABSENT)

    return fill


def _always(value: Any) -> Fill:
    def fill(_: Config) -> Any:
        return value

    return fill


def _head_dim(section: Config) -> Any:
    size, heads = section.get("hidden_size"), section.get("num_attention_heads")
    return size // heads if isinstance(size, int) and isinstance(heads, int) and heads > 0 else ABSENT


def _rotary_dim(section: Config) -> Any:
    size = section.get("head_dim") or _head_dim(section)
    return int(size * _partial_rotary_factor(section)) if isinstance(size, int) else ABSENT


def _partial_rotary_factor(section: Config) -> float:
    """Return the rotated share of a head; the default of transformers is 1."""
    factor = _rotation(section, "full_attention").get("partial_rotary_factor", 1.0)
    return float(factor) if isinstance(factor, int | float) else 1.0


def _theta(layer_type: str) -> Fill:
    def fill(section: Config) -> Any:
        return _rotation(section, layer_type).get("rope_theta", ABSENT)

    return fill


def _rotation(section: Config, layer_type: str) -> Config:
    """Return the rotation of one type of layer, or the only rotation if there are no types."""
    found = section.get("rope_parameters")
    found = found if isinstance(found, dict) else {}
    nested = found.get(layer_type, found)
    return nested if isinstance(nested, dict) else {}


def _flags(key: str, marked: str, kind: type) -> Fill:
    """Return a fill with one flag per layer for the layers of one type."""

    def fill(section: Config) -> Any:
        types = section.get(key)
        return [kind(each == marked) for each in types] if isinstance(types, list) else ABSENT

    return fill


def _first_sparse(section: Config) -> Any:
    """Return the number of dense layers before the first MoE layer."""
    types = section.get("mlp_layer_types", [])
    return types.index("sparse") if isinstance(types, list) and "sparse" in types else 0


RENAMED = {
    "num_experts": "num_local_experts",
    "num_local_experts": "num_experts",
    "num_experts_per_tok": "num_experts_per_token",
    "n_group": "num_expert_group",
    "sliding_window_size": "sliding_window",
    "layernorm_epsilon": "rms_norm_eps",
}
"""Names that transformers 5 writes, by the names that mlx-lm reads."""

FILLS: dict[str, Fill] = {
    "head_dim": _head_dim,
    "rotary_dim": _rotary_dim,
    "rope_theta": _theta("full_attention"),
    "swa_rope_theta": _theta("sliding_attention"),
    "rope_scaling": _always(None),
    "partial_rotary_factor": _partial_rotary_factor,
    "is_moe_layer": _flags("mlp_layer_types", "sparse", bool),
    "moe_layer_freq": _flags("mlp_layer_types", "sparse", int),
    "hybrid_layer_pattern": _flags("layer_types", "sliding_attention", int),
    "first_k_dense_replace": _first_sparse,
    "shared_intermediate_size": _always(0),
    "n_shared_experts": _always(None),
    "topk_method": _always("noaux_tc"),
    "scoring_func": _always("sigmoid"),
}
"""Values by required key. Constants are the values of the only families whose code requires the key."""
