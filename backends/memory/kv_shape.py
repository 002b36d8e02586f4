"""Shape of a model's KV cache, from the metadata of a GGUF file or from a config.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moe_watch.backends.model_files.config import Config, text_section
from moe_watch.backends.model_files.gguf import GgufFile


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
    if latent := _number(section, "kv_lora_rank"):  # multi-head latent attention: one latent vector, one rotated key
        return KvShape((latent + _number(section, "qk_rope_head_dim"),) * layers)
    kv_heads = _number(section, "num_key_value_heads") or heads
    width = _number(section, "head_dim") or _number(section, "hidden_size") // heads
    kinds = section.get("layer_types")
    window = _number(section, "sliding_window") or None
    interval = _number(section, "full_attention_interval") or 1
    widths, windows = [], []
    for layer in range(layers):
        kind = kinds[layer] if isinstance(kinds, list) and layer < len(kinds) else None
        is_linear = kind == "linear_attention" if kind else interval > 1 and (layer + 1) % interval != 0
        widths.append(0 if is_linear else 2 * kv_heads * width)
        windows.append(window if kind == "sliding_attention" else None)
    return KvShape(tuple(widths), tuple(windows))


def _number(section: Config, key: str) -> int:
    value = section.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
