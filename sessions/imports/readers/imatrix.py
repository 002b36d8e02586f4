"""Reader of llama.cpp's importance matrix: the selections of each expert that `llama-imatrix` counted over a text.

In its GGUF form, `blk.N.ffn_down_exps.weight.counts [1, experts]` holds the selections; the counts of attention tensors
are the number of tokens. The older form (`.dat`: entries of name, calls, and sums of squares) has no counts per expert.
"""

from __future__ import annotations

import re
import struct
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np

from moe_watch.backends.model_files.gguf import GgufFile, read_gguf
from moe_watch.backends.optional_packages import install_command
from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.document import Document
from moe_watch.sessions.imports.plausibility import validated_counts
from moe_watch.sessions.imports.safe_loading import Array
from moe_watch.sessions.imports.traces import CountedTrace, ImportOptions

EXPERTS = re.compile(r"blk\.(\d{1,6})\.ffn_(?:down|up|gate|gate_up)_exps\.weight\.counts")
ATTENTION = re.compile(r"blk\.\d{1,6}\.attn_\w+\.weight\.counts")
LEGACY_NAME = re.compile(rb"(?:blk\.\d{1,6}\.|output|token_embd)[\w.]*")
MOST_ENTRIES = 1 << 20
LONGEST_NAME = 256


def is_imatrix(document: Document) -> bool:
    """Return whether a file is GGUF; its content is checked on reading."""
    return document.kind == "gguf"


def is_legacy(document: Document) -> bool:
    """Return whether a file is an importance matrix in the older form: number of entries, then a tensor's name."""
    if document.kind != "bytes" or len(document.data) < 8:
        return False
    entries, length = struct.unpack_from("<ii", document.data)
    name = document.data[8 : 8 + max(0, min(length, LONGEST_NAME))]
    return 0 < entries < MOST_ENTRIES and len(name) == length and LEGACY_NAME.fullmatch(name) is not None


def read_imatrix(document: Document, options: ImportOptions) -> CountedTrace:
    """Read the counts of an importance matrix.

    Raises:
        UserError: it cannot be read, or counts no experts.
    """
    path = document.path
    file = read_gguf(path)
    if file.metadata.get("general.type") != "imatrix":
        raise UserError(f"{path}: a GGUF file, but not an importance matrix", advice="give a file of llama-imatrix")
    tensors = _tensors(path, file)
    by_layer = _expert_counts(tensors, path)
    layers, counts = sorted(by_layer), [by_layer[layer] for layer in sorted(by_layer)]
    if len({len(each) for each in counts}) != 1:
        raise UserError(f"{path}: layers with different numbers of experts", advice="such models cannot be imported")
    chosen = options.experts_per_token or _experts_per_token(counts, tensors, path)
    known = ImportOptions(experts=options.experts, experts_per_token=chosen, layers=options.layers or layers)
    shape, whole, rows = validated_counts(np.stack(counts), known, str(path))
    warnings = ["llama-imatrix evaluates a text and generates no tokens: all selections are taken as prefill"]
    return CountedTrace("llama.cpp", "llama.cpp's importance matrix", shape, whole, rows, "prefill", warnings=warnings)


def _tensors(path: Path, file: GgufFile) -> dict[str, Array]:
    """Return the tensors of counts by name, flat."""
    wanted = {tensor.name for tensor in file.tensors if tensor.name.endswith(".counts") and tensor.dtype == "F32"}
    reader = _gguf_reader(path)
    return {
        tensor.name: np.array(tensor.data, np.float64).ravel() for tensor in reader.tensors if tensor.name in wanted
    }


class _ReaderTensor(Protocol):
    """A tensor of `gguf.GGUFReader`."""

    name: str
    data: Array


class _GgufReader(Protocol):
    """The part of `gguf.GGUFReader` that is used here."""

    tensors: list[_ReaderTensor]


def _gguf_reader(path: Path) -> _GgufReader:
    try:
        gguf = import_module("gguf")
    except ImportError as error:
        advice = f"run `{install_command('import')}`"
        raise UserError(f"{path}: needs gguf, which is not installed", advice=advice) from error
    try:
        reader: _GgufReader = gguf.GGUFReader(path)
        return reader
    except (ValueError, KeyError, IndexError, OverflowError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: gguf cannot read it ({error})", advice="write it again with llama-imatrix") from error


def _expert_counts(tensors: dict[str, Array], path: Path) -> dict[int, Array]:
    """Return selections `[E]` by layer; an expert's matrices are used together, so the counts of any one are enough."""
    found = {int(match[1]): tensors[name] for name in sorted(tensors) if (match := EXPERTS.fullmatch(name))}
    if not found:
        raise UserError(f"{path}: no counts of experts", advice="give the importance matrix of an MoE model")
    return found


def _experts_per_token(counts: list[Array], tensors: dict[str, Array], path: Path) -> int:
    """Return selections per token; the number of tokens is the count of an attention tensor."""
    tokens = max((each[0] for name, each in tensors.items() if ATTENTION.fullmatch(name) and each.size == 1), default=0)
    selections = max(each.sum() for each in counts)
    if not tokens or selections % tokens:
        advice = "use --experts-per-token N"
        raise UserError(f"{path}: does not state the experts per token", advice=advice)
    return int(selections // tokens)
