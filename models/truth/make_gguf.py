"""Make GGUF files of the tiny models with llama.cpp's own converter, for the tests of llama.cpp.

    python models/truth/make_gguf.py --llama-cpp SOURCE [NAME …]

Each goes beside what models/truth/make.py wrote, as model.gguf, all tensors float32; compressed for models of published
shape. SOURCE is llama.cpp's source, of the version that is tested: vendor/llama.cpp of llama-cpp-python's archive.

    pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36
    tar -xf llama_cpp_python-0.3.36.tar.gz

The converter needs torch and transformers, as make.py does. What it cannot convert is said, and left out.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from families import DENSE, MODELS, SHAPES, folder_of
from packing import compress, unpacked
from safetensors.torch import load, save_file
from tiny_model import Entries

TRUTH = pathlib.Path(__file__).resolve().parents[2] / "tests" / "truth"

TOKENS = [f"<{token}>" for token in range(128)]
"""A vocabulary of invented names: the tests use ids."""

Tensors = dict[str, torch.Tensor]

SIGMOID = {"scoring_func": "sigmoid"}

ENTRIES: dict[str, Entries] = {
    "afmoe": {"route_norm": True, "score_func": "sigmoid"},
    "bailing_hybrid": {
        "gated_attention_proj_granularity_type": "head_wise",
        "n_group": 4,
        "no_kda_lora": True,
        "norm_topk_prob": True,
        "score_function": "sigmoid",
    },
    "deepseek_v32": {"index_head_dim": 64},
    "dots1": SIGMOID | {"num_key_value_heads": 4},
    "exaone_moe": SIGMOID,
    "gemma4_text": {"global_head_dim": 16},
    "glm4_moe_lite": SIGMOID | {"first_k_dense_replace": 1, "topk_method": "noaux_tc"},
    "bailing_hybrid_8_of_256": {"n_group": 8},
    "hunyuan_v1_moe": {
        "moe_intermediate_size": [16] * 3,
        "moe_topk": [3] * 3,
        "num_shared_expert": [1] * 3,
        # The result of "dynamic" scaling by alpha, which the converter supports for heads of 128 only.
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0 * 1000.0 ** (16 / 14)},
    },
    "hunyuan_v1_moe_8_of_64": {"moe_intermediate_size": [2] * 3, "moe_topk": [8] * 3},
    "llama4_text": {"architectures": ["Llama4ForConditionalGeneration"]},
    "mimo_v2_flash": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e6}, "sliding_window": 16},
    "mimo_v2_flash_8_of_256": {"sliding_window": 128},
    "minimax_m3_vl_text": SIGMOID
    | {
        "architectures": ["MiniMaxM3SparseForConditionalGeneration"],
        "n_shared_experts": 1,
        "moe_layer_freq": [0, 1, 1],
        "sparse_attention_config": {
            "sparse_num_index_heads": 2,
            "sparse_index_dim": 16,
            "sparse_topk_blocks": 16,
            "sparse_block_size": 128,
            "sparse_local_block": 1,
        },
    },
    "mistral4": {"architectures": ["Mistral3ForConditionalGeneration"]},
    "olmoe": {"num_key_value_heads": 4},
    "phimoe": {
        "architectures": ["PhiMoEForCausalLM"],
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1000000.0,
            "original_max_position_embeddings": 512,
        },
    },
    "qwen3_5_moe_text": {"model_type": "qwen3_5_moe_text"},
}
"""Entries that replace config.json's: entries of published models that `transformers` does not write, equivalent
entries that the converter reads, and sizes of another tensor layout. A model of published shape has the entries of its
family's model and further ones."""

FIELDS: dict[str, Entries] = {
    "afmoe": {"attention.sliding_window_pattern": [True, False, True]},
    "afmoe_8_of_128": {"attention.sliding_window_pattern": [True, True, True, False]},
    "ernie4_5_moe": {"expert_shared_feed_forward_length": 16},
    "ernie4_5_moe_biased": {"expert_shared_feed_forward_length": 16},
    "ernie4_5_moe_6_of_64": {"expert_shared_feed_forward_length": 2},
    "ernie4_5_moe_6_of_64_biased": {"expert_shared_feed_forward_length": 2},
    "gemma4_text": {"final_logit_softcapping": 0.0},
    "kimi_linear": {"expert_group_count": 4, "expert_group_used_count": 2},
    "kimi_linear_8_of_256": {"expert_group_count": 1, "expert_group_used_count": 1},
    "laguna": {"attention.sliding_window_pattern": [False, True, False]},
    "qwen3_5_moe_text": {"rope.dimension_sections": [1, 1, 0, 0]},
}
"""Metadata that llama.cpp reads, and that the converter omits or guesses from the shape of published models."""


def joined_experts(tensors: Tensors) -> Tensors:
    """Return gpt-oss's experts in the layout of `transformers`; the tiny models have MLX's layout."""
    joined = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    for name in (name for name in tensors if ".experts.gate_proj." in name):
        prefix, _, kind = name.rpartition(".gate_proj.")
        pair = torch.stack([tensors[name], tensors[f"{prefix}.up_proj.{kind}"]], dim=2).flatten(1, 2)
        down = tensors[f"{prefix}.down_proj.{kind}"]
        suffix = "_bias" if kind == "bias" else ""
        joined[f"{prefix}.gate_up_proj{suffix}"] = pair if suffix else pair.transpose(1, 2)
        joined[f"{prefix}.down_proj{suffix}"] = down if suffix else down.transpose(1, 2)
    return joined


def repeated_heads(tensors: Tensors) -> Tensors:
    """Return the model with one key and value head for each query head, as llama.cpp needs for some families."""
    parts = ("k_proj.weight", "v_proj.weight", "k_norm.weight")
    return {
        name: doubled(tensor) if name.endswith(parts) and len(tensor) == 32 else tensor
        for name, tensor in tensors.items()
    }


def doubled(tensor: torch.Tensor) -> torch.Tensor:
    """Return two heads with the rows of each repeated, one copy after the other."""
    return tensor.unflatten(0, (2, -1)).repeat_interleave(2, dim=0).flatten(0, 1)


def with_indexers(tensors: Tensors) -> Tensors:
    """Add the indexers of MiniMax-M3's MoE layers, which select blocks to attend to; few tokens are all selected."""
    shapes = {"q_proj.weight": (32, 64), "k_proj.weight": (16, 64), "q_norm.weight": (16,), "k_norm.weight": (16,)}
    layers = (f"language_model.model.layers.{layer}.self_attn" for layer in (1, 2))
    added = {f"{layer}.index_{part}": torch.zeros(shape) for layer in layers for part, shape in shapes.items()}
    return tensors | added


def wide_indexers(tensors: Tensors) -> Tensors:
    """Widen DeepSeek-V3.2's indexers, which select all of these few tokens; llama.cpp needs more than 32 dimensions."""
    if all(len(tensor) >= 64 for name, tensor in tensors.items() if name.endswith("indexer.wk.weight")):
        return tensors
    rows = {"wk.weight": 64, "wq_b.weight": 128, "k_norm.weight": 64, "k_norm.bias": 64}
    wide = dict(tensors)
    for name in tensors:
        if count := rows.get(name.rpartition("indexer.")[2]):
            wide[name] = torch.zeros(count, *tensors[name].shape[1:])
    return wide


LAID_OUT: dict[str, Callable[[Tensors], Tensors]] = {
    "deepseek_v32": wide_indexers,
    "dots1": repeated_heads,
    "gpt_oss": joined_experts,
    "gpt_oss_untruncated_yarn": joined_experts,
    "minimax_m3_vl_text": with_indexers,
    "olmoe": repeated_heads,
}
"""Tensors that the converter needs in another layout."""


def like(name: str) -> str:
    """Return the name of the model of the suite with the same family and layout."""
    return SHAPES[name].like if name in SHAPES else name


def own(settings: dict[str, Entries], name: str) -> Entries:
    """Return `ENTRIES` or `FIELDS` of one model."""
    return settings.get(like(name), {}) | settings.get(name, {})


def prepare(name: str, made: pathlib.Path, folder: pathlib.Path) -> None:
    """Write the converter's input into `folder`, from the model in `made`."""
    entries = own(ENTRIES, name)
    config = json.loads((made / "config.json").read_text(encoding="utf-8"))
    if "text_config" in config:
        config["text_config"] |= entries
    write_json(folder / "config.json", config | entries)
    tensors = LAID_OUT.get(like(name), dict)(load(unpacked(made / "model.safetensors")))
    # The converter computes in the type of its input, e.g. −exp(A_log): half precision would round.
    exact = {key: tensor.float().contiguous() for key, tensor in tensors.items()}
    save_file(exact, folder / "model.safetensors", metadata={"format": "pt"})
    # Gemma's converter only counts them.
    vocabulary = {token: index for index, token in enumerate(TOKENS)}
    write_json(folder / "tokenizer.json", {"model": {"vocab": vocabulary}, "added_tokens": []})


def write_json(path: pathlib.Path, content: Entries) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def add_tokenizer(writer: Any, gguf: Any) -> None:
    """Add a vocabulary that llama.cpp accepts as byte-level BPE."""
    kinds = [gguf.TokenType.CONTROL if token < 2 else gguf.TokenType.NORMAL for token in range(len(TOKENS))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_types(kinds)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)


def add_fields(writer: Any, fields: Entries) -> None:
    """Set metadata of the model, replacing existing fields."""
    adding = {list: writer.add_array, float: writer.add_float32, int: writer.add_uint32}
    for key, value in fields.items():
        full = f"{writer.arch}.{key}"
        for stored in writer.kv_data:
            stored.pop(full, None)
        adding[type(value)](full, value)


def make_converter(name: str, folder: pathlib.Path) -> Any:
    """Return llama.cpp's converter for the model that `prepare` wrote, with our vocabulary and metadata."""
    conversion, gguf = importlib.import_module("conversion"), importlib.import_module("gguf")
    settings = conversion.ModelBase.load_hparams(folder, False) | own(ENTRIES, name)
    kind = conversion.get_model_class(conversion.get_model_architecture(settings, conversion.ModelType.TEXT))
    kind.no_mtp = True
    # Without entries the converter reads the configuration itself, which differs between families.
    given = {"hparams": settings} if own(ENTRIES, name) else {}
    outer = kind(folder, gguf.LlamaFileType.ALL_F32, folder / "model.gguf", eager=True, **given)
    converter = getattr(outer, "impl", outer)
    add_parameters = converter.set_gguf_parameters

    def add_all_parameters() -> None:
        add_parameters()
        add_fields(converter.gguf_writer, own(FIELDS, name))

    converter.set_gguf_parameters = add_all_parameters
    converter.set_vocab = lambda: add_tokenizer(converter.gguf_writer, gguf)
    return converter


def convert(name: str, made: pathlib.Path) -> None:
    """Write the file of one model into `made`. Errors of the converter are raised."""
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        folder = pathlib.Path(temporary) / name  # which the file is named after, inside
        folder.mkdir()
        prepare(name, made, folder)
        make_converter(name, folder).write()
        shutil.copyfile(folder / "model.gguf", made / "model.gguf")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "names", nargs="*", choices=[*MODELS, *SHAPES, *DENSE, []], metavar="NAME", help="all, if none is given"
    )
    parser.add_argument("--llama-cpp", type=pathlib.Path, required=True, metavar="SOURCE")
    parser.add_argument("--output", type=pathlib.Path, default=TRUTH)
    arguments = parser.parse_args()
    sys.path[:0] = [str(arguments.llama_cpp / "gguf-py"), str(arguments.llama_cpp)]
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    for name in arguments.names or sorted([*MODELS, *SHAPES, *DENSE]):
        made = arguments.output / folder_of(name) / name
        for file in made.glob("model.gguf*"):
            file.unlink()
        try:
            convert(name, made)
            if name in SHAPES:
                compress(made / "model.gguf")
            size = sum(file.stat().st_size for file in made.glob("model.gguf*"))
            print(f"{name}: {size / 1e3:.0f} kB", flush=True)
        except Exception as error:
            print(f"{name}: not converted: {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main()
