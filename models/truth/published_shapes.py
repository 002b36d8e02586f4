"""Tiny models of published shape: numbers of experts and groups, windows, a prompt of several micro-batches.

Each is a model of the suite with other settings. Sizes that do not matter for routing stay tiny.
"""

from __future__ import annotations

from dataclasses import replace

import sigmoid_families
import softmax_families
from tiny_model import Entries, TinyModel

TINY: dict[str, TinyModel] = softmax_families.MODELS | sigmoid_families.MODELS

TOKENS = 600
"""More than llama.cpp's micro-batch of 512, and than any window."""
WINDOW = 128
"""Window of gpt-oss, EXAONE-MoE and MiMo; a run of `TOKENS` would not exceed the larger windows of other families."""

NARROW = {"hidden_size": 32}
"""Settings for models with many experts, so that their files stay small."""

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 256,
}
"""Settings of Qwen3's model card, with a length that the run exceeds."""

RENORMALISED = {"norm_topk_prob": True}


def near(
    name: str,
    settings: Entries,
    written: Entries | None = None,
    *,
    negative_bias: bool = False,
    rounding_grows: bool = False,
) -> TinyModel:
    """Return a model of the suite with other settings and a longer run."""
    tiny = TINY[name]
    return replace(
        tiny,
        settings=tiny.settings | {"max_position_embeddings": 1024} | settings,
        written=tiny.written | (written or {}),
        like=name,
        tokens=TOKENS,
        bias_offset=-1.5 if negative_bias else 0.0,
        rounding_grows=rounding_grows,
    )


MIXTRAL = {"intermediate_size": 8, "num_hidden_layers": 2}

QWEN2 = {
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 2,
    "shared_expert_intermediate_size": 16,
    "num_hidden_layers": 2,
}

QWEN3 = NARROW | {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 2, "num_hidden_layers": 2}

OLMOE = {"num_experts": 64, "num_experts_per_tok": 8, "intermediate_size": 2, "num_hidden_layers": 2}

GPT_OSS = NARROW | {
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
    "intermediate_size": 2,
    "sliding_window": WINDOW,
}

DEEPSEEK_V2 = NARROW | {
    "n_routed_experts": 160,
    "num_experts_per_tok": 6,
    "n_group": 8,
    "topk_group": 3,
    "moe_intermediate_size": 2,
}

DEEPSEEK_V3 = NARROW | {
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "moe_intermediate_size": 2,
}

SPARSE = {"index_topk": 256, "index_n_heads": 16, "index_head_dim": 64}
"""Attention to fewer tokens than the run has. With few heads many scores are 0: ties among them are arbitrary."""

FEWER = DEEPSEEK_V3 | {"n_routed_experts": 64}
"""Settings for models whose tested setting does not depend on the number of experts."""

UNGROUPED = {"n_group": 1, "topk_group": 1}

SCOUT = NARROW | {"num_local_experts": 16, "intermediate_size": 8}

MAVERICK = NARROW | {"num_local_experts": 128, "intermediate_size": 2, "use_qk_norm": False}
"""Without normalized queries and keys, as published; llama.cpp assumes it for 128 experts."""

SOFTMAX: dict[str, TinyModel] = {
    "mixtral_2_of_8": near("mixtral", MIXTRAL),
    "mixtral_yarn": near("mixtral", MIXTRAL | {"head_dim": 16, "rope_parameters": YARN}),
    "mixtral_window": near("mixtral", MIXTRAL | {"sliding_window": WINDOW}),
    "qwen2_moe_4_of_60": near("qwen2_moe", QWEN2),
    "qwen2_moe_renormalised": near("qwen2_moe", QWEN2 | RENORMALISED),
    "qwen2_moe_window": near(
        "qwen2_moe", QWEN2 | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
    ),
    "qwen3_moe_8_of_128_long": near("qwen3_moe", QWEN3, {"num_experts": 128}),
    "qwen3_moe_yarn": near("qwen3_moe", QWEN3 | {"rope_parameters": YARN}, {"num_experts": 128}),
    "qwen3_next_10_of_512": near(
        "qwen3_next",
        NARROW | {"num_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 2},
        rounding_grows=True,
    ),
    "qwen3_5_moe_text_8_of_256": near(
        "qwen3_5_moe_text", NARROW | {"num_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 2}
    ),
    "mellum_8_of_64": near(
        "mellum",
        {"num_experts": 64, "num_experts_per_tok": 8, "moe_intermediate_size": 2, "sliding_window": WINDOW},
        {"num_experts": 64},
    ),
    "olmoe_8_of_64": near("olmoe", OLMOE),
    "olmoe_renormalised": near("olmoe", OLMOE | RENORMALISED),
    "olmoe_clipped": near("olmoe", OLMOE | {"clip_qkv": 1.0}),
    "deepseek_v2_6_of_160": near("deepseek_v2", DEEPSEEK_V2),
    "mistral4_4_of_128": near(
        "mistral4", NARROW | {"n_routed_experts": 128, "num_experts_per_tok": 4, "moe_intermediate_size": 2}
    ),
    "gpt_oss_4_of_128": near("gpt_oss", GPT_OSS),
    "gpt_oss_4_of_128_untruncated_yarn": near("gpt_oss_untruncated_yarn", GPT_OSS),
    "granitemoe_8_of_40": near(
        "granitemoe",
        {"num_local_experts": 40, "num_experts_per_tok": 8, "intermediate_size": 2, "num_hidden_layers": 2},
    ),
    "granitemoehybrid_10_of_72": near(
        "granitemoehybrid", {"num_local_experts": 72, "num_experts_per_tok": 10, "intermediate_size": 2}
    ),
    "ernie4_5_moe_6_of_64": near("ernie4_5_moe", {"moe_num_experts": 64, "moe_k": 6, "moe_intermediate_size": 2}),
    "ernie4_5_moe_6_of_64_biased": near(
        "ernie4_5_moe_biased", {"moe_num_experts": 64, "moe_k": 6, "moe_intermediate_size": 2}
    ),
    "phimoe_2_of_16": near("phimoe", {"num_local_experts": 16, "intermediate_size": 4}),
    "jamba_2_of_16": near("jamba", {"num_experts": 16, "intermediate_size": 4}),
    "hunyuan_v1_moe_8_of_64": near("hunyuan_v1_moe", {"num_experts": 64, "moe_topk": 8, "intermediate_size": 2}),
    "gemma4_text_8_of_128": near(
        "gemma4_text",
        NARROW | {"num_experts": 128, "top_k_experts": 8, "moe_intermediate_size": 2, "sliding_window": WINDOW},
    ),
    "dbrx_4_of_16": near(
        "dbrx",
        {
            "max_seq_len": 1024,
            "ffn_config": {"ffn_hidden_size": 4, "moe_num_experts": 16, "moe_top_k": 4, "hidden_size": 64},
        },
    ),
    "longcat_flash_12_of_768": near(
        "longcat_flash",
        NARROW
        | {
            "n_routed_experts": 512,
            "zero_expert_num": 256,
            "moe_topk": 12,
            "routed_scaling_factor": 6.0,
            "expert_ffn_hidden_size": 2,
        },
    ),
}

SIGMOID: dict[str, TinyModel] = {
    "deepseek_v3_8_of_256": near("deepseek_v3", DEEPSEEK_V3),
    "deepseek_v3_negative_scores": near("deepseek_v3", FEWER, negative_bias=True),
    "deepseek_v3_yarn": near("deepseek_v3", FEWER | {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}}),
    "deepseek_v32_8_of_256": near("deepseek_v32", DEEPSEEK_V3 | {"index_topk": 1024}),
    "deepseek_v32_index": near("deepseek_v32", FEWER | SPARSE),
    "glm4_moe_8_of_128": near(
        "glm4_moe",
        NARROW | UNGROUPED | {"n_routed_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 2},
    ),
    "glm4_moe_yarn": near(
        "glm4_moe",
        NARROW
        | UNGROUPED
        | {
            "n_routed_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 2,
            "rope_parameters": YARN | {"partial_rotary_factor": 0.5},
        },
    ),
    "glm4_moe_negative_scores": near(
        "glm4_moe",
        NARROW
        | {
            "n_routed_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 2,
            "n_group": 4,
            "topk_group": 2,
        },
        negative_bias=True,
    ),
    "glm4_moe_lite_4_of_64": near(
        "glm4_moe_lite", UNGROUPED | {"n_routed_experts": 64, "num_experts_per_tok": 4, "moe_intermediate_size": 2}
    ),
    "minimax_m2_8_of_256": near(
        "minimax_m2",
        NARROW | {"num_local_experts": 256, "num_experts_per_tok": 8, "intermediate_size": 2, "num_hidden_layers": 2},
    ),
    "minimax_m3_vl_text_4_of_128": near(
        "minimax_m3_vl_text",
        {
            "num_local_experts": 128,
            "num_experts_per_tok": 4,
            "intermediate_size": 2,
            "shared_intermediate_size": 2,
        },
    ),
    "lfm2_moe_4_of_32": near("lfm2_moe", {"num_experts": 32, "num_experts_per_tok": 4, "moe_intermediate_size": 4}),
    "llama4_text_1_of_16": near("llama4_text", SCOUT | {"attention_chunk_size": 1024}),
    "llama4_text_1_of_128": near("llama4_text", MAVERICK | {"attention_chunk_size": 1024}),
    "llama4_text_chunks": near("llama4_text", SCOUT | {"attention_chunk_size": WINDOW}),
    "dots1_6_of_128": near(
        "dots1",
        NARROW | UNGROUPED | {"n_routed_experts": 128, "num_experts_per_tok": 6, "moe_intermediate_size": 2},
    ),
    "exaone_moe_8_of_128": near(
        "exaone_moe",
        NARROW
        | UNGROUPED
        | {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 2, "sliding_window": WINDOW},
    ),
    "nemotron_h_6_of_128": near(
        "nemotron_h",
        NARROW | UNGROUPED | {"n_routed_experts": 128, "num_experts_per_tok": 6, "moe_intermediate_size": 2},
    ),
    "afmoe_8_of_128": near(
        "afmoe",
        NARROW
        | {
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 2,
            "sliding_window": WINDOW,
            "num_hidden_layers": 4,
            "layer_types": [*["sliding_attention"] * 3, "full_attention"],
        },
    ),
    "laguna_8_of_256": near(
        "laguna",
        NARROW | {"num_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 2, "sliding_window": WINDOW},
    ),
    "mimo_v2_flash_8_of_256": near(
        "mimo_v2_flash",
        NARROW
        | UNGROUPED
        | {
            "n_routed_experts": 256,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 2,
            "routed_scaling_factor": 1.0,
            "sliding_window": WINDOW,
        },
        {"sliding_window_size": WINDOW},
    ),
    "solar_open_8_of_128": near(
        "solar_open",
        NARROW
        | UNGROUPED
        | {
            "n_routed_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 2,
            "num_hidden_layers": 2,
        },
    ),
    "kimi_linear_8_of_256": near(
        "kimi_linear",
        NARROW
        | {
            "num_experts": 256,
            "num_experts_per_token": 8,
            "num_expert_group": 1,
            "topk_group": 1,
            "moe_intermediate_size": 2,
        },
        {"model_max_length": 1024},
    ),
    "bailing_hybrid_8_of_256": near(
        "bailing_hybrid",
        NARROW
        | {
            "num_experts": 256,
            "num_experts_per_token": 8,
            "num_expert_group": 8,
            "topk_group": 4,
            "moe_intermediate_size": 2,
        },
        {"num_experts_per_tok": 8, "n_group": 8, "moe_shared_expert_intermediate_size": 2},
    ),
}

MODELS = SOFTMAX | SIGMOID
