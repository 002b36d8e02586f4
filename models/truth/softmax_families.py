"""Tiny models with softmax routers, before or after the selection."""

from __future__ import annotations

from typing import Any

from tiny_model import DEEPSEEK, TinyModel

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 40.0,
    "original_max_position_embeddings": 512,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
}

MIXTRAL = {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 16}

QWEN_MOE = {
    "head_dim": 16,
    "intermediate_size": 64,
    "moe_intermediate_size": 16,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
}

ERNIE = {
    "intermediate_size": 64,
    "moe_intermediate_size": 16,
    "moe_num_experts": 8,
    "moe_k": 3,
    "moe_num_shared_experts": 1,
    "moe_layer_start_index": 1,
    "moe_layer_end_index": 2,
    "moe_layer_interval": 1,
}


def qwen3_moe(**settings: Any) -> TinyModel:
    whole = QWEN_MOE | settings
    return TinyModel("qwen3_moe", whole, {"num_experts": whole["num_experts"]})


def gpt_oss(*, truncate: bool) -> TinyModel:
    """Return a gpt-oss; published ones do not truncate the range of YaRN's ramp."""
    yarn = {key: value for key, value in YARN.items() if "mscale" not in key}
    return TinyModel(
        "gpt_oss",
        {
            "head_dim": 16,
            "intermediate_size": 16,
            "num_local_experts": 8,
            "num_experts_per_tok": 3,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": yarn | {"rope_theta": 150000.0, "truncate": truncate},
        },
    )


MODELS: dict[str, TinyModel] = {
    "mixtral": TinyModel("mixtral", MIXTRAL),
    "mixtral_6_of_8": TinyModel("mixtral", MIXTRAL | {"num_hidden_layers": 2, "num_local_experts": 6}),
    "mixtral_top_1": TinyModel("mixtral", MIXTRAL | {"num_hidden_layers": 2, "num_experts_per_tok": 1}),
    "qwen2_moe": TinyModel("qwen2_moe", QWEN_MOE | {"norm_topk_prob": False, "shared_expert_intermediate_size": 16}),
    "qwen3_moe": qwen3_moe(),
    "qwen3_moe_8_of_128": qwen3_moe(
        num_hidden_layers=2, num_experts=128, num_experts_per_tok=8, moe_intermediate_size=2
    ),
    "qwen3_moe_4_of_300": qwen3_moe(
        num_hidden_layers=2, num_experts=300, num_experts_per_tok=4, moe_intermediate_size=2, mlp_only_layers=[0]
    ),
    "qwen3_moe_one_of_four_layers": qwen3_moe(num_hidden_layers=4, mlp_only_layers=[0, 1, 3]),
    "qwen3_next": TinyModel(
        "qwen3_next",
        QWEN_MOE
        | {
            "num_hidden_layers": 4,
            "shared_expert_intermediate_size": 16,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        },
        {"full_attention_interval": 4, "partial_rotary_factor": 0.25},
    ),
    "qwen3_5_moe_text": TinyModel(
        "qwen3_5_moe_text",
        {
            "num_hidden_layers": 4,
            "head_dim": 16,
            "moe_intermediate_size": 16,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "shared_expert_intermediate_size": 16,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        },
        {"model_type": "qwen3_5_moe"},
    ),
    "mellum": TinyModel(
        "mellum",
        {k: v for k, v in QWEN_MOE.items() if k not in ("decoder_sparse_step", "mlp_only_layers")}
        | {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
        {"num_experts": 8},
    ),
    "olmoe": TinyModel(
        "olmoe",
        {"num_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 16, "norm_topk_prob": False},
    ),
    "deepseek_v2": TinyModel(
        "deepseek_v2",
        DEEPSEEK
        | {
            "topk_method": "group_limited_greedy",
            "routed_scaling_factor": 16.0,
            "norm_topk_prob": False,
            "rope_parameters": YARN,
        },
    ),
    "mistral4": TinyModel(
        "mistral4",
        DEEPSEEK | {"routed_scaling_factor": 1.5, "norm_topk_prob": True, "n_group": 1, "topk_group": 1},
        model_class="Mistral4ForCausalLM",
    ),
    "gpt_oss": gpt_oss(truncate=True),
    "gpt_oss_untruncated_yarn": gpt_oss(truncate=False),
    "granitemoe": TinyModel(
        "granitemoe",
        {
            "intermediate_size": 16,
            "num_local_experts": 8,
            "num_experts_per_tok": 3,
            "embedding_multiplier": 2.0,
            "logits_scaling": 1.5,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.25,
        },
    ),
    "granitemoehybrid": TinyModel(
        "granitemoehybrid",
        {
            "intermediate_size": 16,
            "shared_intermediate_size": 16,
            "position_embedding_type": "nope",
            "num_local_experts": 8,
            "num_experts_per_tok": 3,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "mamba_n_heads": 4,
            "mamba_d_head": 32,
            "mamba_d_state": 16,
            "embedding_multiplier": 2.0,
            "logits_scaling": 1.5,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.25,
        },
        {"layer_types": ["mamba", "attention", "mamba"]},
    ),
    "ernie4_5_moe": TinyModel("ernie4_5_moe", ERNIE, selection_bias=False),
    "ernie4_5_moe_biased": TinyModel("ernie4_5_moe", ERNIE),
    "phimoe": TinyModel(
        "phimoe",
        {
            "attention_bias": True,
            "lm_head_bias": True,
            "intermediate_size": 16,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
    ),
    "jamba": TinyModel(
        "jamba",
        {
            "num_hidden_layers": 4,
            "intermediate_size": 16,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "attn_layer_offset": 1,
            "attn_layer_period": 2,
            "expert_layer_offset": 1,
            "expert_layer_period": 2,
            "mamba_d_state": 8,
            "mamba_dt_rank": 8,
            "use_mamba_kernels": False,
        },
    ),
    "hunyuan_v1_moe": TinyModel(
        "hunyuan_v1_moe",
        {
            "head_dim": 16,
            "intermediate_size": 16,
            "num_experts": 8,
            "moe_topk": 3,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "alpha": 1000.0, "factor": 1.0},
            "tie_word_embeddings": True,
        },
        {
            "model_type": "hunyuan",
            "num_shared_expert": 1,
            "use_mixed_mlp_moe": True,
            "use_qk_norm": True,
            "use_cla": False,
            "cla_share_factor": 2,
        },
    ),
    "gemma4_text": TinyModel(
        "gemma4_text",
        {
            "head_dim": 16,
            "global_head_dim": 16,
            "intermediate_size": 32,
            "moe_intermediate_size": 16,
            "enable_moe_block": True,
            "num_experts": 8,
            "top_k_experts": 3,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            "tie_word_embeddings": True,
        },
        {"global_head_dim": 16},
    ),
    "dbrx": TinyModel(
        "dbrx",
        {
            "d_model": 64,
            "n_heads": 4,
            "n_layers": 3,
            "max_seq_len": 512,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 8, "moe_top_k": 3, "hidden_size": 64},
        },
    ),
    "longcat_flash": TinyModel(
        "longcat_flash",
        {
            "num_layers": 2,
            "num_hidden_layers": 4,
            "num_key_value_heads": 4,
            "ffn_hidden_size": 64,
            "expert_ffn_hidden_size": 16,
            "n_routed_experts": 8,
            "zero_expert_num": 4,
            "moe_topk": 3,
            "routed_scaling_factor": 2.5,
            "kv_lora_rank": 32,
            "q_lora_rank": 32,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 16,
            "v_head_dim": 16,
            "head_dim": 16,
        },
        {
            "attention_method": "MLA",
            "zero_expert_type": "identity",
            "mla_scale_q_lora": True,
            "mla_scale_kv_lora": True,
        },
    ),
}
