"""Shape of a model's KV cache, from the metadata of a GGUF file or from a config.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moe_watch.backends.model_files.config import Config, text_section
from moe_watch.backends.model_files.gguf import GgufFile

ATTENTION = frozenset({"full_attention", "attention", "sliding_attention", "chunked_attention"})
"""Kinds of layers whose cache grows with the context. States of other kinds have a fixed size, and are not counted."""

EXPANDED = frozenset({"deepseek_v2", "minicpm3", "youtu_llm"})
"""Models with latent attention whose keys and values mlx-lm caches for every head (mlx-lm 0.32, `mlx_lm.models`)."""


@dataclass(frozen=True, slots=True)
class KvShape:
    """Numbers that the KV cache stores."""

    widths: tuple[int, ...]
    """Numbers per token and layer, keys and values together; 0 for a layer without attention."""
    windows: tuple[int | None, ...] = ()
    """Tokens that a layer keeps at most; None is the whole context. Empty if no layer has a window."""

    def bytes(self, context: int, number: int) -> int:
        """Return the size of the cache.

        Args:
            context: number of tokens.
            number: bytes of one number.
        """
        windows: Sequence[int | None] = self.windows or (None,) * len(self.widths)
        kept = (context if window is None else min(context, window) for window in windows)
        return sum(width * tokens * number for width, tokens in zip(self.widths, kept, strict=True))


def gguf_shape(file: GgufFile) -> KvShape | None:
    """Return the shape of llama.cpp's cache; None if the metadata does not give it. Windows are not counted."""
    layers, heads = file.number("block_count"), file.number("attention.head_count")
    if layers is None or not 0 < layers <= 10_000:
        return None
    layers -= min(layers, file.number("nextn_predict_layers") or 0)
    if (latent := file.number("attention.kv_lora_rank")) and file.number("attention.key_length_mla"):
        return KvShape((latent + (file.number("rope.dimension_count") or 0),) * layers)
    by_layer = file.array("attention.head_count_kv") or file.array("attention.head_count")
    kv_heads = by_layer[:layers] if by_layer else (file.number("attention.head_count_kv") or heads or 0,) * layers
    width = (file.number("embedding_length") or 0) // heads if heads else 0
    keys = file.number("attention.key_length") or width
    values = file.number("attention.value_length") or width
    interval = file.number("full_attention_interval") or 1
    has_cache = [interval == 1 or (layer + 1) % interval == 0 for layer in range(layers)]
    widths = (heads_of * (keys + values) * kept for heads_of, kept in zip(kv_heads, has_cache, strict=False))
    return KvShape(tuple(widths))


def config_shape(config: Config) -> KvShape | None:
    """Return the shape of mlx-lm's cache; None if the config does not give it."""
    section = text_section(config)
    layers, heads = _number(section, "num_hidden_layers"), _number(section, "num_attention_heads")
    if not layers or layers > 10_000 or not heads:
        return None
    if latent := _number(section, "kv_lora_rank"):
        return KvShape((_latent_width(section, latent, heads),) * layers)
    kv_heads = _number(section, "num_key_value_heads") or heads
    width = _number(section, "head_dim") or _number(section, "hidden_size") // heads
    windows = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
    kinds = _layer_kinds(section, layers)
    return KvShape(
        tuple(2 * kv_heads * width if kind in ATTENTION else 0 for kind in kinds),
        tuple(_number(section, windows[kind]) or None if kind in windows else None for kind in kinds),
    )


def _latent_width(section: Config, latent: int, heads: int) -> int:
    """Return the numbers per token and layer of multi-head latent attention (arXiv:2405.04434, section 2.1).

    The cache keeps one latent vector and one rotated key, or in some of mlx-lm's models the keys and values of all
    heads.
    """
    rotated = _number(section, "qk_rope_head_dim")
    if section.get("model_type") not in EXPANDED:
        return latent + rotated
    return heads * (_number(section, "qk_nope_head_dim") + rotated + _number(section, "v_head_dim"))


def _layer_kinds(section: Config, layers: int) -> list[str]:
    """Return the kind of each layer, in the words of `layer_types`; other models have other keys for it."""
    for key in ("layer_types", "layers_block_type"):
        kinds = section.get(key)
        if isinstance(kinds, list) and len(kinds) >= layers:
            return [str(kind) for kind in kinds[:layers]]
    pattern = section.get("hybrid_override_pattern")  # Nemotron-H: a letter per layer
    if isinstance(pattern, str) and len(pattern) >= layers:
        return ["attention" if letter == "*" else "other" for letter in pattern[:layers]]
    if period := _number(section, "attn_layer_period"):  # Jamba
        offset = _number(section, "attn_layer_offset")
        return ["attention" if layer % period == offset else "mamba" for layer in range(layers)]
    interval = _number(section, "full_attention_interval") or 1
    return ["full_attention" if (layer + 1) % interval == 0 else "linear_attention" for layer in range(layers)]


def _number(section: Config, key: str) -> int:
    value = section.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
