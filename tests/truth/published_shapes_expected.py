"""Results of each engine on the models of published shape: equal to `transformers`, nearly so, or something else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most by which an engine that computes the same may be apart."""

    unequal: int
    """Selected sets."""
    weights: float
    """Over the gate's factor."""
    probabilities: float
    output_logits: float


@dataclass(frozen=True, slots=True)
class Different:
    """A model that an engine computes something else for."""

    share: float
    """Percentage of equal sets."""
    reason: str


EXACT = Bounds(unequal=0, weights=2e-4, probabilities=1e-3, output_logits=1e-3)

ROUNDING = Bounds(unequal=4, weights=0.5, probabilities=1e-3, output_logits=1e-2)
"""Rounding errors grow in these linear layers, and decide near ties: docs/families.md, "Where rounding decides"."""

GELU_TABLE = Bounds(unequal=12, weights=0.0, probabilities=1e-3, output_logits=1e-2)
"""llama.cpp looks the GELU up in a table of half precision."""

MLX_APART = {"qwen3_next_10_of_512": ROUNDING}

MLX_DIFFERENT = {
    "deepseek_v3_negative_scores": Different(
        0.0,
        "mlx-lm gives experts of dropped groups a score of 0, which wins over negative ones; `transformers` gives −∞",
    ),
    "ernie4_5_moe_6_of_64_biased": Different(
        0.1, "mlx-lm drops the checkpoint's selection bias (`e_score_correction_bias`), and selects without it"
    ),
    "glm4_moe_negative_scores": Different(
        0.0,
        "mlx-lm gives the experts of dropped groups a score of 0, as for DeepSeek-V3",
    ),
    "glm4_moe_yarn": Different(4.7, "mlx-lm's file of this family does not read `rope_scaling`: YaRN is left out"),
    "gpt_oss_4_of_128_untruncated_yarn": Different(
        5.3,
        "mlx-lm does not read `truncate: false` of YaRN, which published gpt-oss models have. At this size of heads "
        "the effect is far larger than at the published one",
    ),
    "hunyuan_v1_moe_8_of_64": Different(
        59.6, "`transformers` divides the selected probabilities by their sum, mlx-lm does not"
    ),
    "jamba_2_of_16": Different(
        83.8,
        "mlx-lm takes the softmax of the selected logits, `transformers` the selected probabilities as they are",
    ),
    "mixtral_window": Different(47.3, "mlx-lm does not read Mixtral's `sliding_window`"),
    "mixtral_yarn": Different(24.5, "mlx-lm's file of Mixtral does not read `rope_scaling`: YaRN is left out"),
    "olmoe_clipped": Different(0.8, "mlx-lm does not read `clip_qkv` of OLMoE"),
    "qwen2_moe_renormalised": Different(72.0, "mlx-lm does not read `norm_topk_prob` of Qwen2-MoE"),
    "qwen2_moe_window": Different(27.2, "mlx-lm does not read `use_sliding_window` of Qwen2-MoE"),
    "qwen3_moe_yarn": Different(1.0, "mlx-lm's file of Qwen3-MoE does not read `rope_scaling`: YaRN is left out"),
}
"""Models with a setting that mlx-lm ignores."""

MLX_CORRECTED: frozenset[str] = frozenset(MLX_DIFFERENT)
"""Models of `MLX_DIFFERENT` that moe-watch corrects while it loads them, so that all sets are equal."""

LLAMA_APART = {"gemma4_text_8_of_128": GELU_TABLE, "qwen3_next_10_of_512": ROUNDING}

LLAMA_DIFFERENT = {
    "deepseek_v2_6_of_160": Different(
        77.4,
        "llama.cpp ranks groups of experts by the sum of their two best, as DeepSeek-V3 does; DeepSeek-V2 ranks them "
        "by the best one",
    ),
    "gpt_oss_4_of_128_untruncated_yarn": Different(
        5.3,
        "llama.cpp does not read `truncate: false` of YaRN, which published gpt-oss models have. At this size of heads "
        "the effect is far larger than at the published one",
    ),
    "laguna_8_of_256": Different(50.8, "llama.cpp does not read `moe_router_logit_softcapping`"),
    "llama4_text_chunks": Different(
        44.1, "llama.cpp takes chunks of 8,192 tokens for granted, whatever `attention_chunk_size` says"
    ),
    "mellum_8_of_64": Different(
        4.0, "llama.cpp reads the base of the rotation in sliding layers, and rotates by that of the others"
    ),
    "mixtral_window": Different(52.7, "llama.cpp does not read Mixtral's `sliding_window`"),
    "olmoe_clipped": Different(1.4, "llama.cpp does not read `clip_qkv` of OLMoE"),
    "olmoe_renormalised": Different(95.0, "llama.cpp does not read `norm_topk_prob` of OLMoE"),
    "phimoe_2_of_16": Different(
        60.2,
        "llama.cpp normalises by the root mean square where the model has LayerNorm, and weights by the softmax in the "
        "place of a sparsemixer",
    ),
    "qwen2_moe_renormalised": Different(96.9, "llama.cpp does not read `norm_topk_prob` of Qwen2-MoE"),
    "qwen2_moe_window": Different(26.5, "llama.cpp does not read `use_sliding_window` of Qwen2-MoE"),
}

LLAMA_NOT_CONVERTED = {"longcat_flash_12_of_768": "llama.cpp has no such architecture"}
