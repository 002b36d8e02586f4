"""Facts about each tiny model: the gate that must be named, and where mlx-lm alone computes something else."""

from __future__ import annotations

GATES = {
    "afmoe": "sigmoid_top_k_renormalised×2.5",
    "bailing_hybrid": "sigmoid_top_k_renormalised×2.5",
    "dbrx": "softmax_top_k_renormalised",
    "deepseek_v2": "softmax_top_k×16",
    "deepseek_v3": "sigmoid_top_k_renormalised×2.5",
    "deepseek_v32": "sigmoid_top_k_renormalised×2.5",
    "dots1": "sigmoid_top_k_renormalised×2.5",
    "ernie4_5_moe": "softmax_top_k_renormalised",
    "ernie4_5_moe_biased": "softmax_top_k_renormalised",
    "exaone_moe": "sigmoid_top_k_renormalised×2.5",
    "gemma4_text": "top_k_softmax×per_expert",
    "glm4_moe": "sigmoid_top_k_renormalised×2.5",
    "glm4_moe_lite": "sigmoid_top_k_renormalised×1.8",
    "gpt_oss": "top_k_softmax",
    "gpt_oss_untruncated_yarn": "top_k_softmax",
    "granitemoe": "top_k_softmax",
    "granitemoehybrid": "top_k_softmax",
    "hunyuan_v1_moe": "softmax_top_k_renormalised",
    "jamba": "softmax_top_k",
    "kimi_linear": "sigmoid_top_k_renormalised×2.5",
    "laguna": "sigmoid_top_k_renormalised×2.5",
    "lfm2_moe": "sigmoid_top_k_renormalised(sum+1e-06)",
    "llama4_text": "sigmoid_top_k_on_input",
    "longcat_flash": "softmax_top_k×2.5",
    "mellum": "softmax_top_k_renormalised",
    "mimo_v2_flash": "sigmoid_top_k_renormalised×2.5",
    "minimax_m2": "sigmoid_top_k_renormalised(sum+1e-20)",
    "minimax_m3_vl_text": "sigmoid_top_k_renormalised(sum+1e-20)×2",
    "mistral4": "softmax_top_k_renormalised×1.5",
    "mixtral": "top_k_softmax",
    "mixtral_6_of_8": "top_k_softmax",
    "mixtral_top_1": "top_k_softmax",
    "nemotron_h": "sigmoid_top_k_renormalised×2.5",
    "olmoe": "softmax_top_k",
    "phimoe": "sparsemixer(0.01)",
    "qwen2_moe": "softmax_top_k",
    "qwen3_5_moe_text": "softmax_top_k_renormalised",
    "qwen3_moe": "softmax_top_k_renormalised",
    "qwen3_moe_4_of_300": "softmax_top_k_renormalised",
    "qwen3_moe_8_of_128": "softmax_top_k_renormalised",
    "qwen3_moe_one_of_four_layers": "softmax_top_k_renormalised",
    "qwen3_next": "softmax_top_k_renormalised",
    "solar_open": "sigmoid_top_k_renormalised×2.5",
}

CORRECTED = {
    "ernie4_5_moe_biased": "mlx-lm drops the checkpoint's selection bias, and selects without it",
    "gpt_oss_untruncated_yarn": "mlx-lm does not read `truncate: false` of YaRN, which published gpt-oss models have, "
    "and rotates by other frequencies",
    "hunyuan_v1_moe": "`transformers` divides the selected probabilities by their sum, mlx-lm does not",
    "jamba": "mlx-lm takes the softmax of the selected logits, `transformers` the selected probabilities as they are",
}
"""Models that mlx-lm alone does not compute as `transformers` does; moe-watch adds what is missing, and says so."""
