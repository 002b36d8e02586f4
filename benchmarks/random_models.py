"""Random models of a given shape for both engines, for measurements on models slower than pocket."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import moe_watch

POCKET = Path(moe_watch.__file__).parent / "backends" / "pocket"


@dataclass(frozen=True)
class RandomModel:
    """A model of random weights: float32 for MLX; for llama.cpp the same weights, with experts in float16."""

    name: str
    """Name of the folder and the file."""
    layers: int
    experts: int
    experts_per_token: int
    hidden: int
    expert_width: int
    family: Mapping[str, object] = field(default_factory=dict)
    """Further keys of its config.json."""

    def __str__(self) -> str:
        shape = f"{self.layers} layers × {self.experts} experts, top-{self.experts_per_token}"
        return f"{shape}, hidden {self.hidden}, experts {self.expert_width} wide"

    @property
    def config(self) -> dict[str, object]:
        """Its config.json, with pocket's special tokens."""
        tokens = json.loads((POCKET / "config.json").read_text())
        kept = ("vocab_size", "bos_token_id", "eos_token_id", "rope_theta", "max_position_embeddings", "rms_norm_eps")
        return {name: tokens[name] for name in kept} | {
            "hidden_size": self.hidden,
            "intermediate_size": self.expert_width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.hidden // 64,
            "num_key_value_heads": self.hidden // 128,
            "num_experts_per_tok": self.experts_per_token,
            "tie_word_embeddings": False,
            **self.family,
        }


FEW_LARGE = RandomModel("few-large", 32, 8, 2, 384, 768, {"model_type": "mixtral", "num_local_experts": 8})
"""Layers and experts of Mixtral 8x7B."""

MANY_SMALL = RandomModel(
    *("many-small", 48, 128, 8, 256, 128),
    {
        "model_type": "qwen3_moe",
        "num_experts": 128,
        "moe_intermediate_size": 128,
        "head_dim": 64,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
    },
)
"""Layers and experts of Qwen3-30B-A3B."""


def make_folder(shape: RandomModel, folder: Path) -> Path:
    """Write a model folder for MLX and return its path."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from tests.backends import tiny

    made = folder / shape.name
    made.mkdir(parents=True)
    (made / "config.json").write_text(json.dumps(shape.config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(POCKET / name, made)
    weights = dict(tree_flatten(tiny.random_model(shape.config).parameters()))
    mx.save_safetensors(str(made / "model.safetensors"), weights)
    return made


def make_file(shape: RandomModel, folder: Path) -> Path:
    """Write a GGUF file for llama.cpp and return its path."""
    import gguf

    from models.pocket.to_gguf import add_tokenizer
    from tests.backends.llama_files import write_gguf

    tokenizer = json.loads((POCKET / "tokenizer.json").read_text())
    return write_gguf(
        folder / f"{shape.name}.gguf",
        shape.config,
        experts_as=gguf.GGMLQuantizationType.F16,
        tokenizer=lambda writer: add_tokenizer(writer, tokenizer, shape.config),
    )
