"""Tiny models made on the spot: random weights, real files, run by the real engine."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map
from mlx_lm.models import Klear, glm4_moe, llama, mixtral, qwen2_moe, qwen3_moe
from mlx_lm.utils import quantize_model, save_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

BOS, EOS = 0, 1

MIXTRAL: dict[str, Any] = {
    "model_type": "mixtral",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "vocab_size": 258,
    "eos_token_id": EOS,
}

QWEN3: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "intermediate_size": 64,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [0],
    "norm_topk_prob": True,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "max_position_embeddings": 2048,
    "vocab_size": 258,
    "eos_token_id": EOS,
}

QWEN2: dict[str, Any] = QWEN3 | {
    "model_type": "qwen2_moe",
    "shared_expert_intermediate_size": 32,
    "norm_topk_prob": False,
}

GLM4: dict[str, Any] = {
    "model_type": "glm4_moe",
    "hidden_size": 64,
    "intermediate_size": 64,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "n_group": 2,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
    "first_k_dense_replace": 1,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "partial_rotary_factor": 0.5,
    "use_qk_norm": True,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "max_position_embeddings": 2048,
    "vocab_size": 258,
    "eos_token_id": EOS,
}
"""Its router is no linear module, and returns indices and weights."""

KLEAR: dict[str, Any] = {
    "model_type": "Klear",
    "hidden_size": 64,
    "intermediate_size": 64,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attention_bias": False,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 1,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 2048,
    "vocab_size": 258,
    "eos_token_id": EOS,
}
"""No gate describes what it makes of its router's logits."""

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-6,
    "vocab_size": 258,
    "tie_word_embeddings": False,
}
"""Dense, with the settings that mlx-lm needs."""

DENSE: dict[str, Any] = LLAMA | {
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "eos_token_id": EOS,
}
"""Dense, with all settings that both engines read."""

FAMILIES = {
    "Klear": Klear,
    "glm4_moe": glm4_moe,
    "llama": llama,
    "mixtral": mixtral,
    "qwen2_moe": qwen2_moe,
    "qwen3_moe": qwen3_moe,
}

CHAT_TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def byte_tokenizer() -> Tokenizer:
    """One token per byte, and the two special ones; every multi-byte character needs several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": BOS, "</s>": EOS} | {letter: index for index, letter in enumerate(alphabet, start=2)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return tokenizer


def write_tokenizer(folder: pathlib.Path, chat_template: str | None = None) -> None:
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "clean_up_tokenization_spaces": False,
    }
    if chat_template is not None:
        config["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def random_model(config: dict[str, Any], seed: int = 0) -> nn.Module:
    """Weights so large that router and output decide clearly."""
    mx.random.seed(seed)
    family = FAMILIES[config["model_type"]]
    model = family.Model(family.ModelArgs.from_dict(config))
    model.update(tree_map(lambda weight: weight * 3 if weight.ndim > 1 else weight, model.parameters()))
    mx.eval(model.parameters())
    return model


def write_model(
    folder: pathlib.Path,
    config: dict[str, Any] = MIXTRAL,
    *,
    seed: int = 0,
    dtype: mx.Dtype = mx.float32,
    bits: int | None = None,
    chat_template: str | None = None,
) -> pathlib.Path:
    """A model folder in Hugging Face layout."""
    folder.mkdir(parents=True, exist_ok=True)
    model = random_model(config, seed)
    model.set_dtype(dtype)
    if bits is not None:
        model, config = quantize_model(model, config, group_size=32, bits=bits)
    save_model(folder, model)
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, chat_template)
    return folder
