"""Tiny models of published shape: their files, and their runs on MLX, loaded as the worker does.

Each run has a prompt of 560 tokens, longer than llama.cpp's micro-batch and than MLX's step, and 40 single tokens.
"""

from __future__ import annotations

import lzma
import pathlib
import shutil
import tempfile
from functools import cache

import mlx.nn as nn
import numpy as np
from mlx_lm.utils import load_model as mlx_load_model

from moe_watch.backends.mlx.engine import PREFILL_STEP
from moe_watch.backends.mlx.loading import load_model
from moe_watch.backends.mlx.tap import RouterTap
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions
from tests.backends import tiny
from tests.truth.mlx_comparison import Array, EngineRun, Golden, run_pieces

SHAPES = pathlib.Path(__file__).with_name("shapes")

PROMPT = 560
"""Tokens of the prompt; the others are evaluated one by one."""


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
    """Unpack a model as both engines read it, with a tokenizer, until the process ends."""
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
    """Return the tokens that MLX evaluates at once: steps of the prompt, then single tokens."""
    prompt = [ids[start : min(start + PREFILL_STEP, PROMPT)] for start in range(0, PROMPT, PREFILL_STEP)]
    return [*prompt, *np.split(ids[PROMPT:], len(ids) - PROMPT)]


@cache
def run_on_mlx(name: str, *, plain: bool = False) -> EngineRun:
    """Load a model as the worker does, or `plain` as mlx-lm does, and run it in float32."""
    model, tap = _load_plain(name) if plain else _load(name)
    return run_pieces(model, tap, pieces(read_golden(name).ids))
