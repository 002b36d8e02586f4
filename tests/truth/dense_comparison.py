"""Comparison of both engines and `transformers` on tiny dense models: log-probabilities of forced tokens."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moe_watch.backends.engine import Engine, SampledToken
from moe_watch.backends.model_files import catalog
from moe_watch.backends.model_files.preflight import preflight
from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.events import Sampling
from tests.backends import tiny

DENSE = pathlib.Path(__file__).with_name("dense")
NAMES = ("llama", "mistral", "qwen3")
ENGINES = ("mlx", "llama.cpp")

PROMPT = 8
"""Tokens that are evaluated at once; the tokens after them are forced one by one."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of the tokens after the prompt, [T] each."""

    ids: npt.NDArray[Any]
    logprob: npt.NDArray[Any]
    top_margin: npt.NDArray[Any]
    choice_gap: npt.NDArray[Any]


@contextmanager
def opened(name: str, kind: str, folder: pathlib.Path) -> Iterator[Engine]:
    """Yield an engine with a model, loaded as the worker loads it; `folder` is empty."""
    if kind == "llama.cpp":
        from moe_watch.backends.llama.engine import load as load_gguf

        location = catalog.locate(str(DENSE / name / "model.gguf"))
        preflight(location)
        engine: Engine = load_gguf(location, options=EngineOptions(threads=1), progress=lambda _: None)
    else:
        from moe_watch.backends.mlx.engine import load

        for file in ("config.json", "model.safetensors"):
            shutil.copy(DENSE / name / file, folder)
        tiny.write_tokenizer(folder)
        location = catalog.locate(str(folder))
        preflight(location)
        engine = load(location, options=EngineOptions(), progress=lambda _: None)
    try:
        yield engine
    finally:
        engine.close()


def expected(name: str) -> Predictions:
    """Return what `transformers` computed in float32."""
    golden = np.load(DENSE / name / "golden.npz")
    ids, logits = golden["ids"], golden["output_logits"].astype(np.float64)[PROMPT - 1 : -1]
    logprobs = logits - logits.max(-1, keepdims=True)
    logprobs -= np.log(np.exp(logprobs).sum(-1, keepdims=True))
    chosen = logprobs[np.arange(len(logprobs)), ids[PROMPT:]]
    ranked = np.sort(np.exp(logprobs), -1)
    return Predictions(ids, chosen, ranked[:, -1] - ranked[:, -2], ranked[:, -1] - np.exp(chosen))


def forced(engine: Engine, ids: list[int]) -> list[SampledToken]:
    """Return the tokens after the prompt, forced, with the model's predictions."""
    engine.configure(Sampling(temperature=1.0, seed=0, stop="never"), reseed=True)
    list(engine.prefill(ids[:PROMPT], lambda _: None))
    engine.force(ids[PROMPT:])
    return [engine.draw(last=at == len(ids) - PROMPT - 1) for at in range(len(ids) - PROMPT)]


def seen(engine: Engine, ids: list[int]) -> Predictions:
    """Return what an engine computes for the same tokens."""
    tokens = forced(engine, ids)
    quantities = ([getattr(token, name) for token in tokens] for name in ("logprob", "top_margin", "choice_gap"))
    return Predictions(np.array([token.id for token in tokens]), *map(np.array, quantities))
