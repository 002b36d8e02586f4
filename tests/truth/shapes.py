"""Tiny models of published shape: where they are, and how MLX runs them, as the worker does.

Each run has a prompt of 560 tokens, longer than llama.cpp's micro-batch and than MLX's step, and 40 single tokens.
"""

from __future__ import annotations

import lzma
import pathlib
import shutil
import tempfile
from functools import cache

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model as mlx_load_model

from moe_watch.backends.engine import RouterOutputs
from moe_watch.backends.mlx.engine import PREFILL_STEP
from moe_watch.backends.mlx.loading import load_model
from moe_watch.backends.mlx.tap import RouterTap
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions
from tests.backends import tiny
from tests.truth.compare import Array, Golden, Seen, stacked

SHAPES = pathlib.Path(__file__).with_name("shapes")

PROMPT = 560
"""Tokens of the prompt; the others come one by one."""


def names() -> list[str]:
    return sorted(folder.name for folder in SHAPES.iterdir())


def read_golden(name: str) -> Golden:
    arrays = dict(np.load(SHAPES / name / "golden.npz"))
    return Golden(
        **{key: array.astype(np.int64) if array.dtype.kind in "iu" else array for key, array in arrays.items()}
    )


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="moe-watch-shapes-")


@cache
def folder(name: str) -> pathlib.Path:
    """A model as both engines read it, with a tokenizer, unpacked until the process ends."""
    unpacked = pathlib.Path(_temporary().name) / name
    unpacked.mkdir()
    shutil.copy(SHAPES / name / "config.json", unpacked)
    for packed in (SHAPES / name).glob("*.xz"):
        (unpacked / packed.stem).write_bytes(lzma.decompress(packed.read_bytes()))
    tiny.write_tokenizer(unpacked)
    return unpacked


def _load(name: str) -> tuple[nn.Module, RouterTap]:
    location = catalog.locate(str(folder(name)), "mlx")
    loaded = load_model(location, options=EngineOptions(), progress=lambda _: None)
    return loaded.model, loaded.tap


def _load_plain(name: str) -> tuple[nn.Module, RouterTap]:
    model, _ = mlx_load_model(folder(name))
    return model, RouterTap(model)


def pieces(ids: Array) -> list[Array]:
    """What MLX evaluates at once."""
    prompt = [ids[start : min(start + PREFILL_STEP, PROMPT)] for start in range(0, PROMPT, PREFILL_STEP)]
    return [*prompt, *np.split(ids[PROMPT:], len(ids) - PROMPT)]


@cache
def on_mlx(name: str, *, plain: bool = False) -> Seen:
    """Load a model as the worker does, or `plain` as mlx-lm does, and run it in float32."""
    model, tap = _load_plain(name) if plain else _load(name)
    model.set_dtype(mx.float32)
    context = make_prompt_cache(model)
    routings: list[RouterOutputs] = []
    outputs = []
    for piece in pieces(read_golden(name).ids):
        outputs.append(np.array(model(mx.array(piece)[None], cache=context))[0])
        routings.append(tap.frame.read(len(piece)))
    return Seen(
        layers=[layer.index for layer in tap.layers],
        gate=tap.gate,
        logits=stacked(routings, "logits"),
        experts=stacked(routings, "experts").astype(np.int64),
        applied=stacked(routings, "weights") if routings[0].weights else None,
        output_logits=np.concatenate(outputs),
    )
