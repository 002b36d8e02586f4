"""Observation cost in transformers: `output_router_logits=True` against the default, on the same weights.

Runs as a script, by a Python that has torch: reads a request from standard input, prints rates in tokens per second.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TRAINING = ROOT / "build" / "train" / "bin" / "python"
"""Python that `make pocket` and `make truth` install."""
TOKENS = 20
WITHOUT, WITH = "bare transformers", "output_router_logits=True"


def measured(config: Mapping[str, object], rounds: int, python: Path | None) -> str:
    """Return the table of a random model of this config.json, or a line with the reason that there is none."""
    from moe_watch.routing.stats.ratios import table

    python = python or (Path(sys.executable) if find_spec("torch") else TRAINING)
    if not python.exists():
        return "n/a: torch is not installed; `make pocket` does, or give --torch PYTHON"
    asked = json.dumps({"config": config, "rounds": rounds})
    done = subprocess.run(
        [python, "-m", "benchmarks.transformers_cost"], input=asked, capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode:
        return f"n/a: {next(reversed(done.stderr.splitlines()), 'it failed')}"
    return table(json.loads(done.stdout), corner="decode")


def main() -> None:
    """Measure the model of the request on standard input."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from moe_watch.routing.stats.ratios import interleave

    asked = json.loads(sys.stdin.read())
    config = asked["config"]
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    torch.set_num_threads(max(1, torch.get_num_threads() - 1))
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).eval()
    variants = {name: partial(_rate, model, router_logits=name == WITH) for name in (WITHOUT, WITH)}
    print(json.dumps(interleave(variants, asked["rounds"], warm_up=1)))


def _rate(model: Any, *, router_logits: bool) -> float:
    """Measure greedy tokens per second; router logits, if requested, are converted to NumPy."""
    import torch

    ids, cache, began = torch.tensor([[1, 2, 3]]), None, 0.0
    for number in range(TOKENS + 1):
        if number == 1:
            began = time.perf_counter()
        output = model(ids, past_key_values=cache, use_cache=True, output_router_logits=router_logits)
        if router_logits:
            [layer.numpy() for layer in output.router_logits]
        ids, cache = output.logits[:, -1:].argmax(-1), output.past_key_values
    return TOKENS / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
