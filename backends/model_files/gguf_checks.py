"""Checks of a GGUF file's metadata and tensors before llama.cpp loads it, which aborts the process on most faults."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from moe_watch.backends.model_files.dense import expert_tensor
from moe_watch.backends.model_files.gguf import GgufFile
from moe_watch.backends.model_files.safetensors import AGAIN, TensorInfo
from moe_watch.routing.errors import UserError

CONVERT = "convert the model again, or download another conversion of it"

ROUTER = re.compile(r"blk\.(\d+)\.ffn_gate_inp\.weight")
ONE_EXPERT = re.compile(r"blk\.\d+\.ffn_(?:gate|up|down)\.\d+\.weight")
"""Tensor of a single expert, as in files made before April 2024."""
MULTIPLIED = re.compile(r"(?:blk\.\d+\.(?:ffn_(?!.*tid2eid)|attn_)\w+|token_embd|output(?:_norm)?)\.weight")
"""Tensors of matrix products; other tensors may contain integers."""
INTEGERS = frozenset({"I8", "I16", "I32", "I64"})

SCORE_FUNCTIONS = frozenset({1, 2, 3, 4})
READS_SCORE_FUNCTION = frozenset(
    {
        *("afmoe", "bailingmoe2", "bailingmoe3", "cohere2moe", "deepseek2", "deepseek2-ocr", "deepseek32", "deepseek4"),
        *("dots1", "dots3note", "exaone-moe", "glm-dsa", "glm4moe", "glm5-next", "hy_v3", "hy_v4", "kimi-k3", "laguna"),
        *("kimi-linear", "lfm2moe", "minimax-m2", "minimax-m3", "smallthinker", "step35"),
    }
)
"""Architectures whose code reads `expert_gating_func`; the others have a fixed function."""

NORM_EPSILONS = tuple(f"attention.{kind}_epsilon" for kind in ("layer_norm_rms", "layer_norm", "group_norm"))

MOST_LAYERS, MOST_EXPERTS = 512, 1024
"""Largest numbers that llama-cpp-python 0.3.36 supports."""


def check_model(name: str, parts: Sequence[GgufFile]) -> None:
    """Check the numbers of a model that llama.cpp asserts on, and the tensors of its experts. A dense model has none.

    Args:
        name: name of the model.
        parts: headers of all its files.

    Raises:
        UserError: llama.cpp cannot run the model, or metadata and tensors contradict each other about experts.
    """
    first, tensors = parts[0], [tensor for part in parts for tensor in part.tensors]
    if any(ONE_EXPERT.fullmatch(tensor.name) for tensor in tensors):
        raise UserError(
            f"{name} has one tensor per expert, a format from before April 2024 that llama.cpp no longer reads",
            advice=CONVERT,
        )
    experts = _count(name, first, expert_tensor(tensors))
    if experts:
        _check_used(name, first, experts)
        _check_groups(name, first, experts)
        _check_scores(name, first)
    _check_sizes(name, first, experts)
    _check_rotation(name, first)
    _check_types(name, tensors)


def _count(name: str, file: GgufFile, expert_tensor: str | None) -> int:
    """Return the number of experts of all layers; 0 for a dense model.

    Args:
        name: name of the model.
        file: header of its first file.
        expert_tensor: name of a tensor of a router or of routed experts; None if there is none.
    """
    key = f"{file.architecture}.expert_count"
    if file.array("expert_count") is not None:
        raise UserError(
            f"{name} has one number of experts per layer ({key} is an array), which llama.cpp does not read",
            advice="give a conversion in which all layers have the same number",
        )
    experts = file.number("expert_count") or 0
    if experts > 1:
        return experts
    if expert_tensor is None:
        return 0
    if experts == 1:
        raise UserError(f"{name} has one expert per layer: its routers select nothing", advice="give another model")
    raise UserError(f"{name} has routers, but {key} does not give the number of experts", advice=CONVERT)


def _check_used(name: str, file: GgufFile, experts: int) -> None:
    """Check the number of experts per token, which may differ between layers."""
    key = f"{file.architecture}.expert_used_count"
    by_layer, used = file.array("expert_used_count"), file.number("expert_used_count")
    if by_layer is None and used is None:
        raise UserError(f"{name} does not give the number of experts per token ({key} is missing)", advice=CONVERT)
    counts = by_layer if by_layer is not None else (used or 0,)
    most = max(counts, default=0)
    if most < 1 or min(counts) < 0:
        raise UserError(f"{name} selects no experts for a token ({key} is {min(counts, default=0)})", advice=CONVERT)
    if most > experts:
        raise UserError(f"{name} selects {most} of {experts} experts for a token ({key})", advice=CONVERT)
    layers = file.number("block_count")
    if by_layer is not None and layers is not None and len(by_layer) != layers:
        raise UserError(f"{key} of {name} has {len(by_layer)} numbers for {layers} layers", advice=CONVERT)


def _check_groups(name: str, file: GgufFile, experts: int) -> None:
    groups, used = (file.number(f"expert_group_{what}") or 0 for what in ("count", "used_count"))
    if groups > 1 and (experts % groups or groups >= experts):
        raise UserError(f"{name} divides {experts} experts into {groups} groups", advice=CONVERT)
    if groups > 1 and not 0 < used < groups:
        raise UserError(f"{name} uses {used} of {groups} groups of experts", advice=CONVERT)


def _check_scores(name: str, file: GgufFile) -> None:
    """Check the function from logits to scores; llama.cpp supports four."""
    function = file.number("expert_gating_func")
    if function is not None and function not in SCORE_FUNCTIONS and file.architecture in READS_SCORE_FUNCTION:
        raise UserError(
            f"{name} has {file.architecture}.expert_gating_func {function}, which llama.cpp does not support",
            advice=CONVERT,
        )


def _check_rotation(name: str, file: GgufFile) -> None:
    """Check the number of rotated dimensions of a head: llama.cpp aborts on an odd number, and hangs on 0."""
    heads = file.number("attention.head_count") or 0
    width = file.number("attention.key_length") or ((file.number("embedding_length") or 0) // heads if heads else 0)
    for kind, longest in {"": width, "_swa": file.number("attention.key_length_swa") or width}.items():
        rotated = file.number(f"rope.dimension_count{kind}")
        if rotated is None or (rotated > 0 and rotated % 2 == 0 and (not longest or rotated <= longest)):
            continue
        of = f" of {longest}" if longest else ""
        raise UserError(f"{name} rotates {rotated:,}{of} dimensions of a head", advice=CONVERT)


def _check_sizes(name: str, file: GgufFile, experts: int) -> None:
    layers, context = file.number("block_count"), file.number("context_length")
    if experts > MOST_EXPERTS:
        raise UserError(
            f"{name} has {experts:,} experts", advice=f"give a model with at most {MOST_EXPERTS:,}, llama.cpp's limit"
        )
    if layers is not None and not 1 <= layers <= MOST_LAYERS:
        raise UserError(f"{name} claims {layers:,} layers", advice=AGAIN)
    ahead = file.number("nextn_predict_layers") or 0
    if layers is not None and ahead > layers:
        raise UserError(f"{name} claims {ahead:,} nextn_predict_layers of {layers} layers", advice=AGAIN)
    for key in NORM_EPSILONS:
        epsilon = file.metadata.get(f"{file.architecture}.{key}")
        if isinstance(epsilon, float) and not 0 <= epsilon < math.inf:
            raise UserError(f"{name} has {file.architecture}.{key} {epsilon:g}", advice=AGAIN)
    if context is not None and context < 1:
        raise UserError(f"{name} claims a context of {context} tokens", advice=CONVERT)


def _check_types(name: str, tensors: Sequence[TensorInfo]) -> None:
    for tensor in tensors:
        if tensor.dtype in INTEGERS and MULTIPLIED.fullmatch(tensor.name):
            raise UserError(
                f"tensor {tensor.name!r} of {name} has type {tensor.dtype}, which is no weight type",
                advice=AGAIN,
            )
