"""Run the tiny models with experts switched off, and with another number of experts per token, in `transformers`.

    python models/truth/masked.py [NAME …]

The results are references for engines: masked.npz and another_k.npz in tests/truth/masked/NAME, in the format of
golden.npz. Models, ids and arithmetic are the same; logits are kept for every fourth token.
Masking is before selection: logits of masked experts are −∞, and so is their selection bias where there is one.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from families import MODELS
from make import ROUTERS, SELECTION_BIAS, TRUTH, build, run
from packing import Arrays
from tiny_model import TinyModel
from transformers.utils import logging

KEPT = 4
"""Distance of the tokens whose logits are kept; the last token is one of them."""

MASKED, ANOTHER_K = "masked.npz", "another_k.npz"

MOST_MASKED = 2
"""Experts of a layer."""

FEWEST_IN_GROUP = 2
"""Experts that every group keeps: a group's score is the sum of its two best."""

SELECTS_TWO = ("phimoe",)
"""Models with a sparsemixer, which selects two experts."""

SAME = 1e-5
"""Largest difference from golden.npz of a run without a mask."""

Masked = dict[int, list[int]]
"""Masked experts by model layer index."""


def moe_blocks(model: Any) -> Iterator[tuple[int, Any, Any]]:
    """Yield the layer, the block and the router of all MoE layers."""
    for path, module in model.named_modules():
        router = next((getattr(module, name) for name in ROUTERS if hasattr(module, name)), None)
        if router is not None and hasattr(module, "experts"):
            yield next(int(part) for part in path.split(".") if part.isdigit()), module, router


def groups(model: Any) -> tuple[int, int]:
    """Return the number of groups of experts, and of groups that a token selects from."""
    config = model.config.get_text_config()
    count, used = getattr(config, "n_group", None) or 1, getattr(config, "topk_group", None) or 1
    return (count, used) if count > 1 else (1, 1)


def choose_mask(golden: Arrays, count: int, used: int) -> Masked:
    """Return the most used experts of every layer but the second: two, or fewer if the router would have no choice."""
    experts, k = golden["router_logits"].shape[-1], golden["experts"].shape[-1]
    found: Masked = {}
    for place, layer in enumerate(golden["layers"].tolist()):
        if place == 1:
            continue
        masked: list[int] = []
        for expert in np.bincount(golden["experts"][:, place].ravel(), minlength=experts).argsort()[::-1].tolist():
            left = np.bincount(
                np.setdiff1d(np.arange(experts), [*masked, expert]) // (experts // count), minlength=count
            )
            fits = left.sum() >= k if count == 1 else left.min() >= FEWEST_IN_GROUP and np.sort(left)[:used].sum() >= k
            if fits and len(masked) < MOST_MASKED:
                masked.append(expert)
        if masked:
            found[layer] = sorted(masked)
    return found


def another_k(golden: Arrays, count: int, used: int) -> int:
    """Return one more expert per token than the model's own number, or one fewer if its groups hold no more."""
    experts, k = golden["router_logits"].shape[-1], golden["experts"].shape[-1]
    return int(k + 1 if k < experts // count * used else k - 1)


@contextmanager
def switched_off(model: Any, mask: Masked) -> Iterator[None]:
    """Set the logits of masked experts to −∞ when a router computes them, and their selection bias."""
    infinite: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for layer, block, router in moe_blocks(model):
            experts = mask.get(layer, [])
            weights = [weight for weight in router.parameters() if weight.ndim == 2 and len(weight) > 1]
            added = torch.zeros(len(weights[0]))
            added[experts] = -torch.inf
            infinite[weights[0].data_ptr()] = added
            for name, tensor in [*block.named_parameters(), *block.named_buffers()]:
                if name.rpartition(".")[2] in SELECTION_BIAS:
                    tensor[..., experts] = -torch.inf
    linear = torch.nn.functional.linear

    def masked_linear(given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        result = linear(given, weight, bias)
        added = infinite.get(weight.data_ptr())
        return result if added is None else result + added

    torch.nn.functional.linear = masked_linear
    try:
        yield
    finally:
        torch.nn.functional.linear = linear


def set_k(model: Any, k: int) -> None:
    """Set the number of experts per token of all routers."""
    for _, block, router in moe_blocks(model):
        places = [each for each in (router, block) if hasattr(each, "top_k")]
        for each in places:
            each.top_k = k
        if not places:
            router.config.top_k_experts = k  # Gemma 4


def results(model: Any, golden: Arrays, tiny: TinyModel, *, every: int = 1) -> Arrays:
    """Run the sequence of a golden, and return the same arrays; logits for every few tokens only."""
    ids = torch.from_numpy(golden["ids"].astype(np.int64))
    routes, output = run(model, [ids])
    logits, weights, experts = (np.stack(arrays, axis=1) for arrays in zip(*(r.arrays() for r in routes), strict=True))
    kept = np.arange(len(ids) - 1, -1, -every)[::-1]
    return {
        "ids": golden["ids"],
        "layers": golden["layers"],
        "router_logits": logits[kept].astype(np.float32),
        "experts": experts.astype(np.int16),
        "weights": (weights * tiny.scaled_later).astype(np.float32),
        "output_logits": output[kept].astype(np.float32),
        "sampled": kept,
    }


def check_model(name: str, golden: Arrays, found: Arrays) -> None:
    """Refuse a model that is not the one of the suite."""
    difference = np.abs(found["output_logits"] - golden["output_logits"]).max()
    if difference > SAME or not np.array_equal(np.sort(found["experts"]), np.sort(golden["experts"])):
        raise SystemExit(f"{name}: without a mask it is not the model of golden.npz ({difference:.2g})")


def write(folder: pathlib.Path, name: str, arrays: Arrays) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / name, **arrays)


def make(name: str, folder: pathlib.Path) -> str:
    """Write the references of one model; return a line about them."""
    tiny = MODELS[name]
    golden = dict(np.load(TRUTH / "models" / name / "golden.npz"))
    model = build(tiny)
    check_model(name, golden, results(model, golden, tiny))
    count, used = groups(model)
    k, mask = another_k(golden, count, used), choose_mask(golden, count, used)
    said = f"{name}: "
    if name not in SELECTS_TWO:
        set_k(model, k)
        found = results(model, golden, tiny, every=KEPT)
        if found["experts"].shape[-1] != k:
            raise SystemExit(f"{name}: the number of experts per token is still {found['experts'].shape[-1]}")
        write(folder, ANOTHER_K, found)
        set_k(model, golden["experts"].shape[-1])
        said += f"{k} experts per token, "
    if not mask:
        return f"{said}no expert can be switched off"
    with switched_off(model, mask):
        found = results(model, golden, tiny, every=KEPT)
    for place, layer in enumerate(golden["layers"].tolist()):
        if np.isin(found["experts"][:, place], mask.get(layer, [])).any():
            raise SystemExit(f"{name}: a masked expert of layer {layer} is selected")
    pairs = [(layer, expert) for layer, experts in mask.items() for expert in experts]
    write(folder, MASKED, found | {"mask": np.array(pairs)})
    changed = np.abs(found["output_logits"] - golden["output_logits"][found["sampled"]]).max()
    return f"{said}masked {','.join(f'{layer}:{expert}' for layer, expert in pairs)}, logits differ by {changed:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*MODELS, []], metavar="NAME", help="all, if none is given")
    parser.add_argument("--output", type=pathlib.Path, default=TRUTH / "masked")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    for name in arguments.names or MODELS:
        print(make(name, arguments.output / name), flush=True)


if __name__ == "__main__":
    main()
