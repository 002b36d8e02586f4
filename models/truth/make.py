"""Make tiny random models with `transformers`, and write their router outputs as references for other engines.

    python models/truth/make.py [NAME …]

Each goes into tests/truth/models/NAME: config.json, model.safetensors (half precision, so that a file stays small),
and golden.npz: one sequence of ids, and what float32 arithmetic on those weights makes of it, with plain attention.
Dense models go into tests/truth/dense/NAME; their golden.npz has the logits alone.
Models of published shape go into tests/truth/shapes/NAME, compressed, with the logits of some tokens only.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import transformers
from families import DENSE, MODELS, SHAPES, folder_of
from layouts import as_published, config_as_published
from packing import Arrays, pack
from tiny_model import COMMON, TinyModel
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

TRUTH = pathlib.Path(__file__).resolve().parents[2] / "tests" / "truth"

STEPWISE_TOLERANCE = 1e-3
"""Largest difference of output logits between the whole sequence at once and token by token."""

TINY = MODELS | SHAPES | DENSE

ROUTERS = ("router", "gate")

SELECTION_BIAS = ("e_score_correction_bias", "expert_bias", "router_bias")
"""Names of the selection bias, which is added to the scores for the selection only."""

KEPT_AS_MADE = ("A_log", "dt_bias", "D")
"""Parameters of recurrent layers that only work within their initial range."""


@dataclass
class Routes:
    """Outputs of the router of one layer, pass by pass."""

    layer: int
    logits: list[torch.Tensor] = field(default_factory=list)
    weights: list[torch.Tensor] = field(default_factory=list)
    experts: list[torch.Tensor] = field(default_factory=list)

    def keep(self, router: Any, _given: Any, output: Any) -> None:
        """Store a pass; forward hook of the router."""
        if isinstance(output, torch.Tensor):  # DBRX: the block around it selects
            self.logits.append(output)
            return
        logits, weights, experts = output if len(output) == 3 else scattered(*output)
        # Gemma 4's router returns probabilities; their logarithms are valid logits.
        self.logits.append(logits.log() if "Gemma4" in type(router).__name__ else logits)
        self.weights.append(weights)
        self.experts.append(experts)

    def keep_given(self, _experts: Any, given: tuple[torch.Tensor, ...]) -> None:
        """Store a pass; forward hook of the experts, for a router that does not select."""
        if len(self.experts) < len(self.logits):
            self.experts.append(given[1])
            self.weights.append(given[2])

    def arrays(self) -> tuple[Any, Any, Any]:
        """Return logits [T, E], weights [T, k] and experts [T, k]."""
        return tuple(torch.cat(kept).numpy() for kept in (self.logits, self.weights, self.experts))


def scattered(scores: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits, weights [T, k] and experts [T, k] of a router with a weight for every expert, mostly 0."""
    count = int((scores > 0).sum(-1)[0])
    weights, experts = scores.topk(count, dim=-1)
    return logits, weights, experts


def build(tiny: TinyModel, seed: int = 0) -> Any:
    """Build the random model in float32, with weights that half precision holds exactly."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(tiny.family, **{**COMMON, **tiny.settings})
    make = (
        getattr(transformers, tiny.model_class)._from_config if tiny.model_class else AutoModelForCausalLM.from_config
    )
    model = make(config, attn_implementation="eager", experts_implementation="eager")
    model = model.float().eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            fill(name, tensor, selection_bias=tiny.selection_bias, bias_offset=tiny.bias_offset)
            if tensor.is_floating_point():
                # Matrices have at most 8 significant bits, so that half of their bytes are 0 and compress well.
                tensor.copy_(tensor.to(torch.float8_e4m3fn if tensor.ndim > 1 else torch.half).float())
    return model


def fill(name: str, tensor: torch.Tensor, *, selection_bias: bool, bias_offset: float) -> None:
    """Draw weights large enough for clear router decisions, biases with an effect, and norms other than 1."""
    last = name.rpartition(".")[2]
    if last in KEPT_AS_MADE or not tensor.is_floating_point():
        return
    if last in SELECTION_BIAS:
        tensor.uniform_(0.0, 0.3 if selection_bias else 0.0).add_(bias_offset)
    elif last == "per_expert_scale":
        tensor.uniform_(0.5, 1.5)
    elif "norm" in name:
        # In steps, so that 1 + weight, which some families apply, is exact in half precision, too.
        tensor.add_((torch.randn_like(tensor) * 0.1 * 512).round() / 512)
    elif last.endswith("bias"):
        tensor.normal_(0.0, 0.1)
    else:
        fan_in = tensor.shape[-1] if tensor.ndim > 1 else 1
        tensor.normal_(0.0, (2.0 if is_router(name) else 1.2) / fan_in**0.5)


def is_router(name: str) -> bool:
    return any(part in ROUTERS for part in name.split("."))


def hook_routers(model: Any) -> list[Routes]:
    """Hook the routers of all MoE layers, in the order of layers."""
    routes = []
    for path, module in model.named_modules():
        router = next((getattr(module, name) for name in ROUTERS if hasattr(module, name)), None)
        if router is not None and hasattr(module, "experts"):
            layer = next(int(part) for part in path.split(".") if part.isdigit())
            routes.append(Routes(layer))
            router.register_forward_hook(routes[-1].keep)
            module.experts.register_forward_pre_hook(routes[-1].keep_given)
    return routes


def run(model: Any, pieces: list[torch.Tensor]) -> tuple[list[Routes], Any]:
    """Evaluate successive pieces of one sequence; return the routes and the output logits [T, V]."""
    routes = hook_routers(model)
    past, outputs = None, []
    with torch.no_grad():
        for piece in pieces:
            output = model(input_ids=piece[None], past_key_values=past, use_cache=True)
            past = output.past_key_values
            outputs.append(output.logits[0])
    for module in model.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return routes, torch.cat(outputs).numpy()


def golden(model: Any, name: str, tiny: TinyModel) -> Arrays:
    """Return arrays of `T` tokens, `L` MoE layers, `E` experts and `k` selected ones, by name; of a dense model two."""
    ids = torch.randint(2, model.config.get_text_config().vocab_size, (tiny.tokens,))
    routes, output = run(model, [ids])
    if not routes:
        return {
            "ids": ids.numpy().astype(np.int32),  # [T]
            "output_logits": output.astype(np.float32),  # [T, V]
        }
    logits, weights, experts = (np.stack(arrays, axis=1) for arrays in zip(*(r.arrays() for r in routes), strict=True))
    stepwise_routes, stepwise = run(model, list(ids[:, None]))
    difference = np.abs(stepwise - output).max()
    again = np.stack([r.arrays()[2] for r in stepwise_routes], axis=1)
    unequal = int((np.sort(again) != np.sort(experts)).any(-1).sum())
    if difference > STEPWISE_TOLERANCE or unequal:
        said = f"{name}: token by token is not the whole sequence at once ({difference:.2g}, {unequal} other sets)"
        if not tiny.rounding_grows:
            raise SystemExit(said)
        print(said, flush=True)
    return {
        "ids": ids.numpy().astype(np.int32),  # [T]
        "layers": np.array([r.layer for r in routes]),  # [L], index in the model
        "router_logits": logits.astype(np.float32),  # [T, L, E]
        "experts": experts.astype(np.int16),  # [T, L, k], in no particular order
        "weights": (weights * tiny.scaled_later).astype(np.float32),  # [T, L, k], as they are applied
        "output_logits": output.astype(np.float32),  # [T, V]
    }


def write(folder: pathlib.Path, model: Any, tiny: TinyModel, arrays: Arrays) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "golden.npz", **arrays)
    model.half().save_pretrained(folder)
    as_published(folder / "model.safetensors", tiny.family, model.config)
    (folder / "model.safetensors").chmod(0o644)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = json.dumps(config_as_published(config, tiny), indent=2, sort_keys=True)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*TINY, []], metavar="NAME", help="all, if none is given")
    parser.add_argument("--output", type=pathlib.Path, default=TRUTH)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    for name in arguments.names or TINY:
        tiny = TINY[name]
        model = build(tiny)
        arrays = golden(model, name, tiny)
        folder = arguments.output / folder_of(name) / name
        write(folder, model, tiny, arrays)
        if name in SHAPES:
            pack(folder, arrays)
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e3
        routers = f"{arrays['router_logits'].shape} {arrays['experts'].shape[-1]}" if "experts" in arrays else "dense"
        print(f"{name}: {routers} {size:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
