"""Measure the share of Qwen3.5's expert sets that rounding decides: `transformers` against itself, in three ways.

    python models/truth/rounding.py [--models 10] [--eps 1e-6]

The numbers are in docs/families.md, "Where rounding decides". About 25 seconds per model.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from families import SHAPES
from make import Routes, build, run
from transformers.utils import logging

SETTINGS = {"hidden_size": 64, "moe_intermediate_size": 8}
TOKENS = 734


def stacked(routes: list[Routes]) -> tuple[Any, Any]:
    """Return router logits [T, L, E] and selected experts [T, L, k], ascending."""
    logits, _, experts = (np.stack(arrays, axis=1) for arrays in zip(*(r.arrays() for r in routes), strict=True))
    return logits, np.sort(experts)


def three_ways(seed: int, eps: float) -> dict[str, tuple[Any, Any]]:
    """Evaluate one random model on one sequence: as one pass, token by token, and in float64."""
    tiny = SHAPES["qwen3_5_moe_text_8_of_256"]
    model = build(replace(tiny, settings=tiny.settings | SETTINGS | {"rms_norm_eps": eps}), seed)
    ids = torch.randint(2, model.config.vocab_size, (TOKENS,))
    ways = {"at once": stacked(run(model, [ids])[0]), "token by token": stacked(run(model, list(ids[:, None]))[0])}
    return ways | {"float64": stacked(run(model.double(), [ids])[0])}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--eps", type=float, default=1e-6, help="in place of the norms' 1e-6")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    for seed in range(arguments.models):
        for (first, one), (second, other) in itertools.combinations(three_ways(seed, arguments.eps).items(), 2):
            unequal = int((one[1] != other[1]).any(-1).sum())
            furthest = np.abs(one[0] - other[0]).max(axis=(0, 2))
            print(f"model {seed}, {first} and {second}: {unequal} sets differ, logits by layer {furthest}", flush=True)


if __name__ == "__main__":
    main()
