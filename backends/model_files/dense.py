"""Checks that decide whether a model is dense, from its files; the engine's probe must agree.

A model is dense if neither its settings nor its tensors have experts. A model in which only one of the two has them is
neither: its routing would go unseen, so it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from moe_watch.backends.model_files.config import SELECTED_COUNTS, Config, config_sections, expert_count
from moe_watch.backends.model_files.gguf import GgufFile
from moe_watch.backends.model_files.safetensors import TensorInfo
from moe_watch.backends.model_files.sizes import EXPERT_CONTAINERS
from moe_watch.routing.errors import UserError

UNRELIABLE = "its routing cannot be observed reliably"
THOUGH_EXPERTS = f"though it has experts: {UNRELIABLE}"
"""End of the message for a model that is neither dense nor observable."""
ANOTHER = "give another model"
GENERATOR = "give a decoder-only language model"

MOE_BLOCKS = EXPERT_CONTAINERS | {"block_sparse_moe", "moe", "moe_block", "sparse_moe"}
"""Path components of tensors that only MoE layers have."""

EXPERT_TENSORS = re.compile(r"blk\.\d+\.ffn_(?:\w*exps|gate_inp)\.\w+")
"""Tensors of routers and of routed experts in a GGUF file."""

ENCODERS = frozenset(
    {
        *("bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3"),
        *("eurobert", "gemma-embedding", "llama-embed", "t5encoder"),
    }
)
"""Architectures of llama.cpp that return embeddings."""
OTHER_KINDS = {
    **dict.fromkeys(ENCODERS, "is an encoder, which returns embeddings and generates no text"),
    **dict.fromkeys(
        ("dream", "llada", "llada-moe", "rnd1"), "is a diffusion model, which does not generate token by token"
    ),
    "t5": "is an encoder-decoder model",
    "wavtokenizer-dec": "generates sound, not text",
}
"""Architectures of llama.cpp that do not generate token by token."""

OTHER_TASK = re.compile(r"\w+For(?:MaskedLM|\w*Classification|QuestionAnswering|MultipleChoice|PreTraining)")
"""Classes of `transformers` whose head predicts no next token."""
ENCODER_TYPES = re.compile(r"(?:\w*bert\w*|electra|deberta(?:-v2)?|mpnet|canine|\w*-?roberta\w*)", re.IGNORECASE)
"""Model types of encoders in a config.json."""


def is_dense(config: Config, tensors: Sequence[TensorInfo], name: str) -> bool:
    """Return whether a model folder holds a dense model.

    Raises:
        UserError: config.json and tensors contradict each other.
    """
    if expert_count(config) is not None:
        return False
    if (claimed := _selected(config)) is not None:
        raise UserError(
            f"the config.json of {name} has {claimed}, but no number of experts: {UNRELIABLE}",
            advice=ANOTHER,
        )
    if (found := _moe_tensor([tensor.name for tensor in tensors])) is not None:
        raise UserError(
            f"{name} has the tensor {found!r}, but its config.json gives no number of experts above 1: {UNRELIABLE}",
            advice=ANOTHER,
        )
    return True


def expert_tensor(tensors: Sequence[TensorInfo]) -> str | None:
    """Return the name of a GGUF file's first tensor of a router or of routed experts; None if it has none."""
    return next((tensor.name for tensor in tensors if EXPERT_TENSORS.fullmatch(tensor.name)), None)


def check_without_experts(name: str, layers: Sequence[int]) -> None:
    """Refuse routers in a model that is dense by its files: its experts would go unseen.

    Args:
        name: name of the model.
        layers: model layer index of each router that the engine evaluates.

    Raises:
        UserError: there is a router.
    """
    if layers:
        raise UserError(
            f"{name} is dense by its files, but layer {layers[0]} has a router: {UNRELIABLE}", advice=ANOTHER
        )


def check_generates(name: str, file: GgufFile) -> None:
    """Refuse a GGUF model that does not predict the next token.

    Raises:
        UserError: it is an encoder, an embedding model, a classifier, or of another kind.
    """
    if kind := OTHER_KINDS.get(file.architecture):
        raise UserError(f"{name} ({file.architecture}) {kind}", advice=GENERATOR)
    if file.metadata.get(f"{file.architecture}.attention.causal") is False:
        raise UserError(f"{name} attends to later tokens, so it does not generate token by token", advice=GENERATOR)
    if file.number("pooling_type"):
        raise UserError(f"{name} is an embedding or ranking model, which generates no text", advice=GENERATOR)


def check_task(name: str, config: Config) -> None:
    """Refuse a model folder whose config.json names a task other than the next token.

    Raises:
        UserError: the model is an encoder, has an encoder, or has the head of another task.
    """
    if config.get("is_encoder_decoder") is True:
        raise UserError(f"{name} is an encoder-decoder model", advice=GENERATOR)
    classes = config.get("architectures")
    named = [each for each in classes if isinstance(each, str)] if isinstance(classes, list) else []
    if named and all(OTHER_TASK.fullmatch(each) for each in named):
        raise UserError(f"{name} ({named[0]}) does not generate text", advice=GENERATOR)
    kind = config.get("model_type")
    if isinstance(kind, str) and ENCODER_TYPES.fullmatch(kind):
        raise UserError(f"{name} ({kind}) {OTHER_KINDS['bert']}", advice=GENERATOR)


def _selected(config: Config) -> str | None:
    """Return the key and value of a number of experts per token above 1; None if there is none."""
    for section in config_sections(config):
        for key in SELECTED_COUNTS:
            given = section.get(key)
            if isinstance(given, int) and not isinstance(given, bool) and given > 1:
                return f"{key} {given}"
    return None


def _moe_tensor(names: Sequence[str]) -> str | None:
    return next((name for name in names if not MOE_BLOCKS.isdisjoint(name.split("."))), None)
