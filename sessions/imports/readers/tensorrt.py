"""Reader of TensorRT-LLM's expert statistics: `rankN.safetensors`, with counts `[E]` for each iteration and layer.

Tensors are named `ITERATION_LAYER`. `meta_info.json` in the same folder has the numbers of experts.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import numpy as np

from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.count_steps import counts_by_step
from moe_watch.sessions.imports.document import Document
from moe_watch.sessions.imports.plausibility import check_counts, validated_counts
from moe_watch.sessions.imports.safe_loading import read_bytes
from moe_watch.sessions.imports.traces import (
    MAX_LAYER,
    CountedTrace,
    ImportOptions,
    known_experts,
    known_experts_per_token,
    layers_of,
    phase_of_counts,
)
from moe_watch.sessions.imports.typed_json import array_of, typed

KEY = re.compile(r"(\d{1,9})_(\d{1,7})")
META = "meta_info.json"
MOST_META = 1 << 20
RANK = "one rank's counts: with attention data parallelism, the counts of this rank's tokens only"
MOST_NUMBERS = 1 << 27


class MetaInfo(msgspec.Struct):
    """`meta_info.json`."""

    num_experts: int
    num_experts_per_token: int


def is_statistics(document: Document) -> bool:
    """Return whether a file of tensors is expert statistics."""
    return document.kind == "tensors" and bool(document.first) and all(KEY.fullmatch(name) for name in document.first)


def is_meta(document: Document) -> bool:
    """Return whether a file is the `meta_info.json` of expert statistics."""
    return document.kind == "json" and document.has("num_experts", "num_experts_per_token")


def read_statistics(document: Document, options: ImportOptions) -> CountedTrace:
    """Read the counts of one rank, iteration by iteration.

    Raises:
        UserError: it is damaged, or does not fit the number of experts.
    """
    where = str(document.path)
    found = {tuple(map(int, name.split("_"))): array_of(each, where) for name, each in document.first.items()}
    sizes = {counts.shape for counts in found.values()}
    if len(sizes) != 1 or len(next(iter(sizes))) != 1:
        raise UserError(f"{where}: tensors have different shapes", advice="give it as TensorRT-LLM wrote it")
    meta = _meta(document.path.with_name(META))
    experts = known_experts(options, where, next(iter(sizes))[0])
    if meta is not None and meta.num_experts != experts:
        what = f"{where}: counts of {experts} experts, but {META} in its folder has {meta.num_experts}"
        raise UserError(what, advice="give the folder as TensorRT-LLM wrote it")
    iterations, layers = sorted({key[0] for key in found}), sorted({key[1] for key in found})
    if layers[-1] > MAX_LAYER or len(iterations) * len(layers) * experts > MOST_NUMBERS:
        raise UserError(f"{where}: {len(iterations):,} iterations are too many", advice="record fewer of them")
    counts = np.zeros((len(iterations), len(layers), experts), np.int64)
    for (iteration, layer), row in found.items():
        check_counts(row, where)
        counts[iterations.index(iteration), layers.index(layer)] = row
    chosen = known_experts_per_token(options, where, None if meta is None else meta.num_experts_per_token)
    named = layers if options.layers is None else layers_of(len(layers), options, where)
    known = ImportOptions(experts=experts, experts_per_token=chosen, layers=named)
    check_counts(counts, where)
    shape, whole, rows = validated_counts(counts.sum(0), known, where)
    warnings = [RANK]
    phase = phase_of_counts(options, warnings)
    steps = counts_by_step(counts, shape, warnings)
    what = "TensorRT-LLM's expert statistics"
    return CountedTrace("TensorRT-LLM", what, shape, whole, rows, phase, warnings=warnings, steps=steps)


def _meta(path: Path) -> MetaInfo | None:
    """Return the content of `meta_info.json`; None if there is no such file."""
    if not path.is_file():
        return None
    content = read_bytes(path, MOST_META)
    try:
        return typed(json.loads(content), MetaInfo, str(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}", advice="give it as TensorRT-LLM wrote it") from error
