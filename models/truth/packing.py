"""Packing of models of published shape into small files: compressed weights, and the compared golden arrays."""

from __future__ import annotations

import lzma
import pathlib
from typing import Any

import numpy as np

Arrays = dict[str, Any]
"""NumPy arrays by name; NumPy types the keywords of `savez_compressed` as flags."""

SAMPLED = (0, 1, 127, 128, 200, 300, 400, 511, 512, 559, 560, 580, 599)
"""Tokens whose logits are kept: on both sides of windows, of micro-batches, and of the end of the prompt."""


def pack(folder: pathlib.Path, arrays: Arrays) -> None:
    """Replace golden.npz and the weights by the parts that the tests need."""
    compress(folder / "model.safetensors")
    np.savez_compressed(folder / "golden.npz", **compact(arrays))


def compress(path: pathlib.Path) -> None:
    """Replace a file by PATH.xz. Numbers of 2 and 4 bytes with low bytes of 0 compress well."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 2, "pb": 2}]
    packed = lzma.compress(path.read_bytes(), filters=filters)
    path.with_name(path.name + ".xz").write_bytes(packed)
    path.unlink()


def unpacked(path: pathlib.Path) -> bytes:
    """Return the content of a file that may be compressed."""
    return path.read_bytes() if path.exists() else lzma.decompress(path.with_name(path.name + ".xz").read_bytes())


def compact(arrays: Arrays) -> Arrays:
    """Return sets and weights of all tokens and logits of a few, each in the smallest type that holds it exactly."""
    sampled = np.array(SAMPLED, np.int16)
    small = np.uint8 if arrays["router_logits"].shape[-1] <= 256 else np.uint16
    return {
        "ids": arrays["ids"].astype(np.uint8),  # [T]
        "layers": arrays["layers"].astype(np.uint8),  # [L]
        "experts": arrays["experts"].astype(small),  # [T, L, k]
        "weights": arrays["weights"],  # [T, L, k]
        "sampled": sampled,  # [S], indices of tokens
        "router_logits": arrays["router_logits"][sampled],  # [S, L, E]
        "output_logits": arrays["output_logits"][sampled],  # [S, V]
    }
