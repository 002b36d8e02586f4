"""Write the norms of the experts' weighted outputs in the tiny models, computed by `transformers` in float32.

    python models/truth/saliency.py [NAME …]

The experts of a layer are one fused module. Its inputs (hidden states, expert indices, weights) are hooked, and the
module is evaluated again for one selected expert at a time. tests/truth/saliency/references.npz has, for each model of
tests/truth/models, the norms [T, L, E] of its sequence of golden.npz, 0 for experts that were not selected.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from families import MODELS
from make import ROUTERS, TRUTH, build
from transformers.utils import logging

REFERENCES = TRUTH / "saliency" / "references.npz"

LOGITS_TOLERANCE = 1e-4
"""Largest difference of output logits from golden.npz: the model is built again."""


@dataclass
class Outputs:
    """Norms of the experts' weighted outputs in one layer."""

    experts: int
    norms: list[torch.Tensor] = field(default_factory=list)
    """[T, E] of each pass."""

    def keep(self, module: Any, given: tuple[Any, ...], named: dict[str, Any], output: torch.Tensor) -> None:
        """Store a pass; forward hook of the experts."""
        values = [*given, *named.values()]
        if len(values) == 1:  # Llama 4: every expert gets its weighted input, 0 if it is not selected
            rows = output.reshape(self.experts, -1, output.shape[-1])
            self.norms.append(rows.norm(dim=-1).T)
            return
        x, indices, weights = values[0].reshape(-1, values[0].shape[-1]), values[1], values[2]
        tokens, chosen = indices.shape
        every = torch.zeros(tokens, self.experts)
        for rank in range(chosen):
            one = indices[:, rank : rank + 1]
            outputs = of_one(module, x, one)
            of_rank = weights[:, rank : rank + 1] if weights.shape == indices.shape else weights.gather(1, one)
            every.scatter_(1, one, outputs.norm(dim=-1, keepdim=True) * of_rank)
        self.norms.append(every)


def of_one(module: Any, x: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
    """Return the outputs [T, d] of one expert per token, without weights.

    The code of LongCat's experts drops the axis of a single rank, so it gets each expert twice, with half the weight.
    """
    if "Longcat" in type(module).__name__:
        return type(module).forward(module, x, experts.expand(-1, 2), torch.full((len(x), 2), 0.5))
    return type(module).forward(module, x, experts, torch.ones(len(x), 1)).reshape(len(x), -1)


def hook_experts(model: Any, experts: int) -> list[Outputs]:
    """Hook the experts of all MoE layers, in the order of layers."""
    hooked = []
    for module in model.modules():
        if hasattr(module, "experts") and any(hasattr(module, name) for name in ROUTERS):
            hooked.append(Outputs(experts))
            module.experts.register_forward_hook(hooked[-1].keep, with_kwargs=True)
    return hooked


def norms(name: str) -> np.ndarray:
    """Return the norms [T, L, E] of one model, with the factor that its block applies to the sum over experts."""
    golden = np.load(TRUTH / "models" / name / "golden.npz")
    model = build(MODELS[name])
    hooked = hook_experts(model, golden["router_logits"].shape[-1])
    with torch.no_grad():
        output = model(input_ids=torch.tensor(golden["ids"][None].astype(np.int64))).logits[0].numpy()
    difference = np.abs(output - golden["output_logits"]).max()
    if difference > LOGITS_TOLERANCE:
        raise SystemExit(f"{name}: the model is not the one in golden.npz (logits differ by {difference:.2g})")
    found = np.stack([torch.cat(layer.norms).numpy() for layer in hooked], axis=1)
    return (found * MODELS[name].scaled_later).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*MODELS, []], metavar="NAME", help="all, if none is given")
    names = parser.parse_args().names or list(MODELS)
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    found = dict(np.load(REFERENCES)) if REFERENCES.exists() else {}
    for name in names:
        found[name] = norms(name)
        print(f"{name}: {found[name].shape}", flush=True)
    REFERENCES.parent.mkdir(exist_ok=True)
    np.savez_compressed(REFERENCES, **{name: found[name] for name in sorted(found)})


if __name__ == "__main__":
    main()
