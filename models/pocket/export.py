"""Write the trained pocket into the package: one set of numbers, in the two formats that the engines read.

    python models/pocket/export.py --trained build/pocket --output backends/pocket

The weights are rounded once, to float16, norms included. `model.safetensors` stores them in float16;
`pocket.gguf` stores the very same values in float32 tensors, because llama.cpp computes a float16 tensor
with float16 activations, and then selects other experts. The same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pathlib

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file
from to_gguf import Json, write_gguf
from tokenizers import Tokenizer, processors

Weights = dict[str, npt.NDArray[np.float16]]

CONTENTS = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "pocket.gguf",
    "provenance.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


def rounded_weights(trained: pathlib.Path) -> Weights:
    """Return every trained tensor in float16.

    Raises:
        SystemExit: A weight is too large for float16, so training went wrong.
    """
    weights = {name: tensor.astype(np.float16) for name, tensor in load_file(trained / "model.safetensors").items()}
    broken = [name for name, tensor in weights.items() if not np.isfinite(tensor).all()]
    if broken:
        raise SystemExit(f"{trained}: not finite as float16: {', '.join(broken)}. Train again with another seed.")
    return weights


def shipped_config(trained: Json) -> Json:
    """Return the trained configuration, as every engine must find it.

    transformers 5 writes `rope_theta` into `rope_parameters` only, and mlx-lm reads it at the top level only,
    falling back to another value without a word; `dtype` has an older name that mlx-lm and older versions read.
    """
    return trained | {
        "dtype": "float16",
        "torch_dtype": "float16",
        "rope_theta": trained["rope_parameters"]["rope_theta"],
        "head_dim": trained["hidden_size"] // trained["num_attention_heads"],
        "output_router_logits": False,
        "moe_watch_trained_length": trained["max_position_embeddings"],
    }


def shipped_tokenizer(trained: pathlib.Path, config: Json) -> Tokenizer:
    """Return the trained tokenizer, with the begin-of-text token first, as in training."""
    tokenizer = Tokenizer.from_file(str(trained / "tokenizer.json"))
    begin = tokenizer.id_to_token(config["bos_token_id"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, config["bos_token_id"])]
    )
    return tokenizer


def tokenizer_config(tokenizer: Tokenizer, config: Json) -> Json:
    """Return the settings that `AutoTokenizer` needs beside `tokenizer.json`."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.id_to_token(config["bos_token_id"]),
        "eos_token": tokenizer.id_to_token(config["eos_token_id"]),
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
    }


def generation_config(config: Json) -> Json:
    """Return the tokens at which generation begins and ends."""
    return {name: config[name] for name in ("bos_token_id", "eos_token_id", "transformers_version")}


def provenance(trained: pathlib.Path) -> Json:
    """Return the record of the training, with the digest of the float32 weights before rounding."""
    digest = hashlib.sha256((trained / "model.safetensors").read_bytes()).hexdigest()
    noted: Json = json.loads((trained / "provenance.json").read_text())
    return noted | {"rounded_to": "float16", "trained_float32_sha256": digest}


def write_json(path: pathlib.Path, content: Json) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def export(trained: pathlib.Path, output: pathlib.Path) -> None:
    """Write `CONTENTS` from the folder that training wrote."""
    config = shipped_config(json.loads((trained / "config.json").read_text()))
    weights = rounded_weights(trained)
    tokenizer = shipped_tokenizer(trained, config)
    output.mkdir(parents=True, exist_ok=True)
    save_file(weights, output / "model.safetensors", metadata={"format": "pt"})
    (output / "model.safetensors").chmod(0o644)
    tokenizer.save(str(output / "tokenizer.json"))
    write_json(output / "config.json", config)
    write_json(output / "tokenizer_config.json", tokenizer_config(tokenizer, config))
    write_json(output / "generation_config.json", generation_config(config))
    write_json(output / "provenance.json", provenance(trained))
    write_gguf(output / "pocket.gguf", weights, config, json.loads(tokenizer.to_str()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trained", type=pathlib.Path, required=True, help="the folder that train.py wrote")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    export(arguments.trained, arguments.output)
    for name in CONTENTS:
        print(f"{(arguments.output / name).stat().st_size / 1e6:8.2f} MB  {name}")


if __name__ == "__main__":
    main()
