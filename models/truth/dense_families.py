"""Tiny dense models of the families that baselines of MoE models come from."""

from __future__ import annotations

from tiny_model import Entries, TinyModel

SMALL: Entries = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}


def rotated_by(theta: float) -> Entries:
    """Return the entry for an unscaled rotation with this base."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}


MODELS: dict[str, TinyModel] = {
    # Mistral 7B since v0.2: grouped queries, and no sliding window.
    "mistral": TinyModel("mistral", SMALL | rotated_by(1e6) | {"head_dim": 8, "sliding_window": None}),
    "llama": TinyModel("llama", SMALL | rotated_by(5e5)),
    # Qwen3: heads with norms, together wider than the hidden size, and an output tied to the embedding.
    "qwen3": TinyModel("qwen3", SMALL | rotated_by(1e6) | {"head_dim": 16, "tie_word_embeddings": True}),
}
