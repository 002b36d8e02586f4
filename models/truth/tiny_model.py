"""Description of a tiny model, and the settings that several share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Entries = dict[str, Any]
"""Entries of a config.json."""

COMMON: Entries = {
    "vocab_size": 128,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}


@dataclass(frozen=True, slots=True)
class TinyModel:
    """One model of the suite."""

    family: str
    """Model type in `transformers`."""
    settings: Entries
    """Entries of its configuration, over `COMMON`."""
    written: Entries = field(default_factory=dict)
    """Entries of config.json that published models have and `transformers` does not write."""
    model_class: str = ""
    """Class in `transformers`, for a model type without a registered causal language model."""
    scaled_later: float = 1.0
    """Factor of the sum over experts, applied by the block after the router's weights."""
    selection_bias: bool = True
    """The router has a selection bias other than 0, if the family has one at all."""
    bias_offset: float = 0.0
    """Offset of all selection biases."""
    like: str = ""
    """Name of the model of the suite that it is another shape of."""
    tokens: int = 40
    """Length of the run in tokens."""
    rounding_grows: bool = False
    """Token by token, `transformers` itself gives other numbers, and other sets at some near ties."""


DEEPSEEK = {
    "num_key_value_heads": 4,
    "intermediate_size": 64,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
}
