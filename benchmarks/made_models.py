"""Random models of a stated shape, in Hugging Face layout, to measure what is slower than pocket."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import backends


@dataclass(frozen=True)
class Shape:
    """A Mixtral of random float32 weights."""

    layers: int
    experts: int
    hidden: int
    expert_width: int
    experts_per_token: int = 2

    def __str__(self) -> str:
        return f"{self.layers} layers × {self.experts} experts, top-{self.experts_per_token}, hidden {self.hidden}"


def make(shape: Shape, folder: Path, *, seed: int = 0) -> Path:
    """Write a model of this shape into `folder`, with pocket's tokenizer."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.mixtral import Model, ModelArgs

    pocket = Path(backends.__file__).parent / "pocket"
    config = json.loads((pocket / "config.json").read_text()) | {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.expert_width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.hidden // 64,
        "num_key_value_heads": max(1, shape.hidden // 128),
        "num_local_experts": shape.experts,
        "num_experts_per_tok": shape.experts_per_token,
    }
    config.pop("head_dim", None)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(pocket / name, folder)
    mx.random.seed(seed)
    model = Model(ModelArgs.from_dict(config))
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    return folder
