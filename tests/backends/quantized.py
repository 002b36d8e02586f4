"""Models stored in several ways, made with the engines' own quantisers, and recorded as a user would."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_watch.commands.app import run

GROUP = 64
"""Weights that share a scale in MLX; what mlx-lm converts with by default."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to store a model."""

    engine: str
    name: str
    path: Path
    cache: str = "f32"
    """Type of the KV cache on llama.cpp: as exact as it can be, so that weights alone make a difference."""

    @property
    def options(self) -> list[str]:
        """Return the arguments of `moe-watch record`."""
        cache = ["--kv-type", self.cache] if self.engine == "llama.cpp" else []
        return [str(self.path), "--backend", self.engine, *cache]


def quantize_gguf(source: Path, target: Path, kind: str) -> Path:
    """Quantise a GGUF file with llama.cpp's own quantiser.

    Args:
        source: in float32.
        target: file to write; an existing one is replaced.
        kind: as llama.cpp names it, e.g. `Q4_K_M`. Rows that do not fit it are stored in another type.

    Raises:
        ValueError: llama.cpp cannot.
    """
    from llama_cpp import llama_cpp as lib

    params = lib.llama_model_quantize_default_params()
    params.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.nthread = 1
    with _silenced():
        status = lib.llama_model_quantize(os.fsencode(source), os.fsencode(target), params)
    if status:
        raise ValueError(f"llama.cpp cannot quantise {source} to {kind} (status {status})")
    return target


def quantize_folder(source: Path, target: Path, bits: int) -> Path:
    """Quantise a model folder with mlx-lm's own converter; tensors that are not quantised stay float32."""
    from mlx_lm import convert

    with _silenced():
        convert(str(source), str(target), quantize=True, q_bits=bits, q_group_size=GROUP, dtype="float32")
    return target


def made(config: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    """A model of random weights in float32: as a folder, and as a GGUF file."""
    from tests.backends import llama_files, tiny

    return tiny.write_model(folder / "float32", config), llama_files.write_gguf(folder / "float32.gguf", config)


def record(variant: Variant, output: Path, *options: str) -> dict[str, Any]:
    """Record one run as a user would, and return its summary.

    Raises:
        RuntimeError: it did not work.
    """
    arguments = ["record", *variant.options, "--output", str(output), *options, "--json"]
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()) as said:
        status = run(arguments)
    if status:
        raise RuntimeError(f"{variant.path} could not be recorded: {said.getvalue().strip()}")
    summary: dict[str, Any] = json.loads(printed.getvalue())
    return summary


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Without what libraries in C and in Python write meanwhile."""
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(io.StringIO()):
        for descriptor in (1, 2):
            os.dup2(nowhere.fileno(), descriptor)
        try:
            yield
        finally:
            for descriptor, before in zip((1, 2), kept, strict=True):
                os.dup2(before, descriptor)
                os.close(before)
