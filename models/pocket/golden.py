"""Write the results of `transformers` for the shipped pocket, as references for other engines.

    python models/pocket/golden.py

One prompt and a greedy continuation, run in float32 with plain attention: the ids, every router's logits,
the experts selected, and the output logits of the last token.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, MixtralForCausalLM

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROMPT = '''def read_header(stream):
    """Return the first line of the stream, decoded as UTF-8.

    Raise ValueError if the stream is empty.
    """
    line ='''
CONTINUATION = 48


def load(model: pathlib.Path) -> MixtralForCausalLM:
    """Load the shipped weights, to be computed in float32."""
    torch.set_num_threads(1)
    loaded: MixtralForCausalLM = MixtralForCausalLM.from_pretrained(
        model, dtype=torch.float32, attn_implementation="eager"
    )
    return loaded.eval()


def golden(folder: pathlib.Path) -> dict[str, Any]:
    """Return arrays of `T` tokens, `L` layers, `E` experts and `k` selected ones, by name."""
    model, tokenizer = load(folder), AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    ids = model.generate(prompt, do_sample=False, min_new_tokens=CONTINUATION, max_new_tokens=CONTINUATION)
    with torch.no_grad():
        output = model(input_ids=ids, output_router_logits=True)
    router_logits = torch.stack(output.router_logits, dim=1)
    selected = router_logits.topk(model.config.num_experts_per_tok, dim=-1).indices
    return {
        "prompt": np.array(PROMPT),
        "prompt_tokens": np.array(prompt.shape[1]),
        "ids": ids[0].numpy().astype(np.int32),  # [T]
        "router_logits": router_logits.numpy(),  # [T, L, E]
        "experts": selected.numpy().astype(np.int8),  # [T, L, k], by logit, descending
        "last_logits": output.logits[0, -1].numpy(),  # [vocabulary]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "backends" / "pocket")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "tests" / "pocket" / "golden_transformers.npz")
    arguments = parser.parse_args()
    arrays = golden(arguments.model)
    np.savez_compressed(arguments.output, **arrays)
    tokens, layers, experts = arrays["router_logits"].shape
    print(f"{tokens} tokens x {layers} layers x {experts} experts, {arguments.output.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
