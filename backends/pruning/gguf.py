"""Writer of pruned GGUF files: raw bytes of the kept experts, in the types of the source.

Experts are the slowest axis of their tensors, so each is one range of bytes in any type, K-quants included. Metadata is
copied byte by byte except `expert_count`, the split of the source into parts, and the record of the pruning.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from moe_watch.backends.model_files.gguf import (
    ARRAY,
    COUNT,
    MAGIC,
    NUMBER,
    SCALARS,
    STRING,
    TENSOR_TYPES,
    GgufFile,
    read_parts,
)
from moe_watch.backends.model_files.safetensors import AGAIN, TensorInfo
from moe_watch.backends.model_files.sizes import fingerprint
from moe_watch.backends.prune_record import GGUF_PREFIX, PruneRecord, fitting, record_of_gguf, text_of
from moe_watch.backends.pruning.copying import Advance, CopiedRange, copy_ranges, kept_ranges
from moe_watch.backends.pruning.experts_of_model import PrunableModel, no_experts, unknown_tensor, wrong_axis
from moe_watch.routing.errors import UserError
from moe_watch.routing.router.masks import ExpertGroups

IN_LAYER = re.compile(r"blk\.([0-9]{1,9})\.(.+)", re.DOTALL)
SLICED = re.compile(
    r"ffn_(?:gate|up|down|gate_up)_exps\.(?:weight|bias|scale|input_scale)"
    r"|ffn_gate_inp\.(?:weight|bias)|exp_probs_b(?:_vl)?(?:\.bias)?"
)
"""Tensors with an axis of experts, of all architectures in llama.cpp's `llama-arch.cpp`."""
WEIGHTS = re.compile(r"ffn_(?:gate|up|down|gate_up)_exps\.weight")
ROUTER = "ffn_gate_inp.weight"
WITHOUT_EXPERTS = re.compile(r"ffn_norm_exps\..+|ffn_gate_inp\.scale|\w+_shexp\..+")
"""Tensors of MoE layers without that axis: a norm, a scale of the router's input, shared experts."""
ABOUT_EXPERTS = re.compile(r".*(?:exp|gate_inp|router).*", re.DOTALL)
"""Any other name of this form may have an axis of experts."""
HASHED = re.compile(r"ffn_gate_tid2eid(?:\..+)?")
"""Table of a router that selects experts by the token."""
SPLIT = "split."
INT32, UINT32 = 5, 4
DIGEST = 64
"""Characters of a SHA-256. The digests are written after the data, in place of as many zeros."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunableGguf(PrunableModel):
    """GGUF model whose experts can be removed."""

    parts: list[GgufFile]


@dataclass(frozen=True, slots=True)
class _PlacedTensor:
    """Tensor of the source with its place in the output."""

    part: int
    tensor: TensorInfo
    kind: int
    start: int
    kept: Sequence[int] | None
    """Experts that remain; None for a tensor that is copied whole."""
    shape: tuple[int, ...]
    """In the output."""
    bytes: int
    """In the output."""


def read_prunable(name: str, path: Path) -> PrunableGguf:
    """Read the shape of a GGUF model that passed `preflight`.

    Raises:
        UserError: it is dense, or its experts cannot be removed.
    """
    parts = read_parts(path)
    first = parts[0]
    experts = first.number("expert_count") or 0
    if experts < 2:
        raise no_experts(name)
    _check_names(name, parts)
    sliced: dict[int, dict[str, TensorInfo]] = {}
    for tensor in (tensor for part in parts for tensor in part.tensors):
        layer, inside = _place(tensor)
        if HASHED.fullmatch(inside):
            raise UserError(
                f"layer {layer} of {name} selects experts by a table of tokens: pruning would change the table",
                advice="such models cannot be pruned",
            )
        if SLICED.fullmatch(inside):
            _check_tensor(name, tensor, experts)
            sliced.setdefault(layer, {})[inside] = tensor
        elif ABOUT_EXPERTS.fullmatch(inside) and not WITHOUT_EXPERTS.fullmatch(inside):
            raise unknown_tensor(name, tensor.name)
    for layer, found in sliced.items():
        if ROUTER not in found or not any(WEIGHTS.fullmatch(inside) for inside in found):
            raise UserError(f"layer {layer} of {name} has a router or experts, but not both", advice=AGAIN)
    if not sliced:
        raise no_experts(name)
    after = (first.number("block_count") or 0) - (first.number("nextn_predict_layers") or 0)
    tensors = [tensor for part in parts for tensor in part.tensors]
    layers = sorted(layer for layer in sliced if layer < after)
    return PrunableGguf(
        name=name,
        path=path,
        layers=layers,
        ahead=[f"blk.{layer}" for layer in sorted(sliced) if layer >= after],
        experts=experts,
        chosen=max(first.array("expert_used_count") or (first.number("expert_used_count") or 1,)),
        groups=_groups(first),
        bytes=sum(part.path.stat().st_size for part in parts),
        expert_bytes=sum(tensor.bytes for found in sliced.values() for tensor in found.values()),
        fingerprint=fingerprint(first.metadata, tensors),
        record=fitting(record_of_gguf(first), layers, experts),
        parts=parts,
    )


def _groups(file: GgufFile) -> ExpertGroups | None:
    count, used = file.number("expert_group_count") or 0, file.number("expert_group_used_count") or 0
    return ExpertGroups(count, used) if count > 1 and 0 < used < count else None


def _check_names(name: str, parts: Sequence[GgufFile]) -> None:
    """Refuse names that occur twice: which one llama.cpp reads is not defined."""
    tensors = [tensor.name for part in parts for tensor in part.tensors]
    keys = [key for key, _, _ in parts[0].layout.entries]
    for what, found in (("tensors", tensors), ("metadata entries", keys)):
        twice = [each for each, times in Counter(found).items() if times > 1]
        if twice:
            raise UserError(f"{name} is corrupt: two {what} named {min(twice)!r}", advice=AGAIN)
    if any("\N{REPLACEMENT CHARACTER}" in tensor for tensor in tensors):
        raise UserError(f"{name} is corrupt: a tensor's name is not UTF-8", advice=AGAIN)


def _place(tensor: TensorInfo) -> tuple[int, str]:
    """Return a tensor's layer and its name inside the layer; −1 outside the layers."""
    found = IN_LAYER.fullmatch(tensor.name)
    return (int(found[1]), found[2]) if found else (-1, tensor.name)


def _check_tensor(name: str, tensor: TensorInfo, experts: int) -> None:
    shape = tensor.shape
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    if not shape or shape[-1] != experts:
        raise wrong_axis(name, tensor.name, tensor.shape, experts)
    if tensor.dtype not in {dtype for dtype, _, _ in TENSOR_TYPES.values()}:
        raise UserError(
            f"tensor {tensor.name!r} of {name} has {tensor.dtype}, whose size this version does not have",
            advice="prune the model in another type",
        )
    block = next(size for dtype, size, _ in TENSOR_TYPES.values() if dtype == tensor.dtype)
    if math.prod(tensor.shape) // experts % block:
        raise UserError(
            f"experts of tensor {tensor.name!r} of {name} share blocks of {tensor.dtype}",
            advice="prune the model in another type",
        )


# -- writing


def write_pruned(
    model: PrunableGguf,
    kept: Mapping[int, Sequence[int]],
    record: PruneRecord,
    output: Path,
    advance: Advance,
) -> None:
    """Write a file with the kept experts.

    Args:
        model: the source.
        kept: numbers of the kept experts in the source, ascending, by model layer index.
        record: record of all prunings; the digests of the last step are filled in here.
        output: a path where nothing exists.
        advance: receives the progress.

    Raises:
        UserError: the source cannot be read.
        OSError: the output cannot be written.
    """
    keep = len(next(iter(kept.values())))
    rows = _rows(model, kept, model.first_of_groups(keep))
    names = [text_of(part.path.name) for part in model.parts]
    alignment = model.parts[0].layout.alignment
    header = _header(model, keep, record.with_digests(dict.fromkeys(names, "0" * DIGEST)), rows)
    data = -(-len(header) // alignment) * alignment
    ranges: list[list[CopiedRange]] = [[] for _ in model.parts]
    at = data
    for row in rows:
        count, numbers = (1, [0]) if row.kept is None else (model.experts, row.kept)
        if row.bytes:
            ranges[row.part] += kept_ranges(row.start, row.tensor.bytes, count, numbers, at)
        at += -(-row.bytes // alignment) * alignment
    with output.open("xb") as file:
        file.write(header)
        file.truncate(at)
        digests = {
            name: copy_ranges(part.path, each, file, advance)
            for name, part, each in zip(names, model.parts, ranges, strict=True)
        }
        final = _header(model, keep, record.with_digests(digests), rows)
        if len(final) != len(header):
            raise ValueError("the header changed its length")
        file.seek(0)
        file.write(final)


def _rows(model: PrunableGguf, kept: Mapping[int, Sequence[int]], others: Sequence[int]) -> list[_PlacedTensor]:
    """Return all tensors in the order of their data."""
    rows = []
    for index, part in enumerate(model.parts):
        layout = part.layout
        for start, kind, tensor in sorted(
            zip(layout.starts, layout.kinds, part.tensors, strict=True), key=lambda each: (each[0], each[2].bytes)
        ):
            layer, inside = _place(tensor)
            if not SLICED.fullmatch(inside):
                rows.append(_PlacedTensor(index, tensor, kind, start, None, tensor.shape, tensor.bytes))
                continue
            numbers = kept.get(layer, others)
            axis = max(place for place, length in enumerate(tensor.shape) if length == model.experts)
            shape = (*tensor.shape[:axis], len(numbers), *tensor.shape[axis + 1 :])
            size = tensor.bytes // model.experts * len(numbers)
            rows.append(_PlacedTensor(index, tensor, kind, start, numbers, shape, size))
    return rows


def _header(model: PrunableGguf, keep: int, record: PruneRecord, rows: Sequence[_PlacedTensor]) -> bytes:
    first = model.parts[0]
    entries = [*_copied_entries(model, keep), *_record_entries(record)]
    parts = [MAGIC, NUMBER.pack(first.layout.version), COUNT.pack(len(rows)), COUNT.pack(len(entries)), *entries]
    at = 0
    for row in rows:
        parts.append(_string(row.tensor.name) + NUMBER.pack(len(row.shape)))
        parts.append(struct.pack(f"<{len(row.shape)}QIQ", *row.shape, row.kind, at))
        at += -(-row.bytes // first.layout.alignment) * first.layout.alignment
    return b"".join(parts)


def _copied_entries(model: PrunableGguf, keep: int) -> list[bytes]:
    """Return the source's metadata, with the new number of experts."""
    first = model.parts[0]
    entries = []
    with first.path.open("rb") as file:
        for key, start, stop in first.layout.entries:
            file.seek(start)
            entry = file.read(stop - start)
            if key.startswith(GGUF_PREFIX) or (key.startswith(SPLIT) and len(model.parts) > 1):
                continue
            if key == f"{first.architecture}.expert_count":
                value = COUNT.size + COUNT.unpack_from(entry)[0] + NUMBER.size
                [kind] = NUMBER.unpack_from(entry, value - NUMBER.size)
                entry = entry[:value] + SCALARS[kind].pack(keep)
            entries.append(entry)
    return entries


def _record_entries(record: PruneRecord) -> list[bytes]:
    history = msgspec.json.encode(record.history).decode()
    layers = {"layers": list(record.kept)} | {f"kept.{layer}": numbers for layer, numbers in record.kept.items()}
    return [
        _string(f"{GGUF_PREFIX}experts") + NUMBER.pack(UINT32) + SCALARS[UINT32].pack(record.experts),
        *(
            _string(f"{GGUF_PREFIX}{name}")
            + NUMBER.pack(ARRAY)
            + NUMBER.pack(INT32)
            + COUNT.pack(len(numbers))
            + struct.pack(f"<{len(numbers)}i", *numbers)
            for name, numbers in layers.items()
        ),
        _string(f"{GGUF_PREFIX}history") + NUMBER.pack(STRING) + _string(history),
    ]


def _string(text: str) -> bytes:
    encoded = text.encode()
    return COUNT.pack(len(encoded)) + encoded
