"""Facts about the tiny models in llama.cpp: other names of gates, and what it does not do as `transformers`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.truth.expected import GATES

OTHER_GATES = {
    "gemma4_text": "softmax_top_k_renormalised×per_expert",
    "granitemoe": "softmax_top_k_renormalised",
    "granitemoehybrid": "softmax_top_k_renormalised",
    "mimo_v2_flash": "sigmoid_top_k_renormalised",
    "phimoe": "softmax_top_k_renormalised",
}
"""Gates with another name than in MLX.

For Granite and Gemma it is another name of the same numbers; MiMo and Phi are among the known differences.
"""

BOUND = "(sum≥6.1035156e-05)"
"""llama.cpp divides by 2⁻¹⁴ at least, which can only matter where the scores are no softmax or selection is biased."""


def gate_of(name: str) -> str:
    """Return the gate that is named for a tiny model."""
    gate = re.sub(r"\(sum[^)]*\)", "", OTHER_GATES.get(name, GATES[name]))
    if name.startswith("ernie"):
        return gate + BOUND
    return gate.replace("sigmoid_top_k_renormalised", f"sigmoid_top_k_renormalised{BOUND}")


NOT_CONVERTED = {
    "longcat_flash": "llama.cpp has no such architecture",
    "qwen3_moe_4_of_300": "the converter knows no dense layers among Qwen3's MoE layers",
    "qwen3_moe_one_of_four_layers": "the converter knows no dense layers among Qwen3's MoE layers",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """Distance of a model from `transformers`, token by token; the output differs, too, so it is the engine's doing."""

    reason: str
    unequal: int
    """Selected sets."""
    probabilities: float
    output_logits: float
    warning: str
    """Setting that the header must name as ignored."""
    before_any_router: bool = False
    """Even the first token's first router has other logits."""


BEYOND_THE_RUN = {"llama4_text": "attention_chunk_size 256"}
"""Ignored settings that change nothing within the sequence that was compared."""

DIFFERENT = {
    "afmoe": Difference(
        "llama.cpp leaves the rotation out in every fourth layer, whatever its attention; `transformers` in layers of "
        "full attention. Published models are laid out so that this is the same, the tiny one is not",
        29, 0.1315, 2.847, "layer_types (selects the layers without rotation)",
    ),
    "deepseek_v2": Difference(
        "llama.cpp ranks groups of experts by the sum of their two best, as DeepSeek-V3 does; DeepSeek-V2 does by the "
        "best one",
        10, 0.1653, 2.474, "topk_method group_limited_greedy",
    ),
    "gpt_oss_untruncated_yarn": Difference(
        "llama.cpp rounds the range of YaRN's ramp to whole dimensions; `truncate: false`, which published gpt-oss "
        "models have, is not read",
        35, 0.6029, 3.397, "rope_scaling.truncate false",
    ),
    "laguna": Difference(
        "llama.cpp does not read `moe_router_logit_softcapping`",
        1, 0.03739, 1.531, "moe_router_logit_softcapping 3", before_any_router=True,
    ),
    "mellum": Difference(
        "llama.cpp reads the base of the rotation in sliding layers, and rotates by that of the others",
        49, 0.6036, 2.852, "mellum.rope.freq_base_swa 10000",
    ),
    "mimo_v2_flash": Difference(
        "llama.cpp does not read `routed_scaling_factor`, which published models do without",
        17, 0.1476, 3.197, "routed_scaling_factor 2.5",
    ),
    "phimoe": Difference(
        "llama.cpp normalises by the root mean square where the model has LayerNorm, and weights by the softmax in the "
        "place of a sparsemixer",
        65, 0.6890, 5.518, "the LayerNorm and sparsemixer of Phi-3.5-MoE", before_any_router=True,
    ),
}  # fmt: skip
