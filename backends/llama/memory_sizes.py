"""Sizes of llama.cpp's buffers: weights, KV cache, compute buffers, without allocating any of them.

The engine returns them as a C++ map (`llama-ext.h`, which has no C interface yet), also for a model that is opened
without allocating memory. The map is read here by the layouts that libstdc++ and libc++ keep for all versions.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llama_cpp import llama_cpp as lib

from moe_watch.backends.engine_options import check_ranges
from moe_watch.backends.engine_sizes import BufferSizes, EngineSizes
from moe_watch.backends.llama import model_facts as llama_facts
from moe_watch.backends.llama.bindings import (
    VERSION,
    buffer_name,
    device_memory,
    is_host_buffer,
    log,
    optional_function,
)
from moe_watch.backends.llama.context import new_context
from moe_watch.backends.llama.loading import check_threads, context_settings
from moe_watch.backends.llama.model import maps_file, open_model
from moe_watch.backends.llama.tap.compiled_tap import tap_bytes
from moe_watch.backends.model_files.catalog import ModelLocation
from moe_watch.backends.model_files.gguf import GgufFile, read_parts
from moe_watch.backends.model_files.gguf_checks import ROUTER
from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.errors import UserError

BREAKDOWN = "_Z26llama_get_memory_breakdownPK13llama_context"
"""`llama_memory_breakdown llama_get_memory_breakdown(const llama_context *)`."""

OUTPUT = re.compile(r"(\S+) +output buffer size = +([\d.]+) MiB")
"""Log line about the buffer of logits, which is in no other size."""

MOST_BUFFER_TYPES = 256
MIB = 2**20

HOST = re.compile(r"CPU|CPU_Mapped|.*_Host")
"""Buffer types of weights that the engine maps from the file if it may. Other host buffers hold repacked copies."""
UNIFIED = re.compile(r"M(?:ETAL|etal|TL).*")
"""Buffer types of Metal, whose memory is the machine's; weights are mapped there too."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Word offsets in a map and in its nodes."""

    root: int
    count: int
    left: int
    right: int


LIBSTDCXX = _Layout(root=2, count=5, left=2, right=3)
"""Comparison, header node (colour, root, first, last), number of entries. A node: colour, parent, left, right."""
LIBCXX = _Layout(root=1, count=2, left=0, right=1)
"""First node, root, number of entries. A node: left, right, parent, colour."""
ENTRY = 4
"""Word offset of the entry in a node, in both libraries: buffer type, then sizes of weights, context and compute."""


class _Map(ctypes.Structure):
    """Memory of a `std::map`."""

    _fields_ = (("words", ctypes.c_size_t * 6),)


def engine_sizes(location: ModelLocation, options: EngineOptions, runtime: Callable[[], int]) -> EngineSizes:
    """Return the memory that llama.cpp takes for a model. No weight is read, and no buffer allocated.

    Args:
        location: location of the model on this machine.
        options: options of a run.
        runtime: measures the memory of this process, in bytes; called while the model is open.

    Raises:
        UserError: llama.cpp cannot load the model, or not with these options.
    """
    if location.path is None:
        raise ValueError(f"{location.name} has not been fetched")
    check_ranges(options)
    check_threads(options.threads)
    parts = read_parts(location.path)
    opened = open_model(location, parts, options, 0, lambda _: None, allocate=False)
    try:
        settings = context_settings(opened.handle, parts, options)
        context = new_context(opened.handle, settings, None)
        try:
            output = sum(float(match[2]) * MIB for match in log.matches(OUTPUT))
            found = breakdown(context)
            private = runtime()
        finally:
            lib.llama_free(context)
    finally:
        lib.llama_model_free(opened.handle)
    facts = llama_facts.weight_facts(parts)
    is_known = facts.non_expert_bytes is not None
    return EngineSizes(
        buffers=_buffers(found, int(output), maps=maps_file(options)),
        runtime=private + _tap_bytes(parts, settings.batch, options.experts_per_token),
        context=settings.context,
        kv_type=settings.cache_type,
        repacked=sum(weights for name, _, (weights, _, _) in found if _is_repacked(name)),
        expert=facts.bytes - facts.non_expert_bytes if is_known and facts.non_expert_bytes is not None else None,
        supports_gpu=settings.on_gpu,
    )


def _buffers(found: Sequence[tuple[str, bool, tuple[int, int, int]]], output: int, *, maps: bool) -> list[BufferSizes]:
    """Return the buffers of a model; the buffer of outputs is in the machine's memory."""
    memory = device_memory()
    buffers = []
    for name, on_host, (weights, kv, compute) in found:
        is_unified = UNIFIED.fullmatch(name) is not None
        is_mapped = maps and (is_unified or HOST.fullmatch(name) is not None)
        buffers.append(
            BufferSizes(
                name=name,
                on_host=on_host or is_unified or _is_repacked(name),
                mapped=weights if is_mapped else 0,
                weights=0 if is_mapped else weights,
                kv=kv,
                compute=compute + (output if name == "CPU" else 0),
                free=None if on_host or _is_repacked(name) or name not in memory else memory[name][0],
            )
        )
    return buffers


def _is_repacked(name: str) -> bool:
    """Return whether a buffer type of the CPU keeps weights in a special layout, such as `CPU_REPACK` and `AMX`."""
    return (name.startswith("CPU_") and HOST.fullmatch(name) is None) or name == "AMX"


def _tap_bytes(parts: Sequence[GgufFile], rows: int, another_k: int | None) -> int:
    """Return the size of the tap's buffers."""
    layers = sum(ROUTER.fullmatch(tensor.name) is not None for part in parts for tensor in part.tensors)
    experts = parts[0].number("expert_count") or 0
    used = parts[0].array("expert_used_count") or (parts[0].number("expert_used_count") or 0,)
    return tap_bytes(rows=rows, layers=layers, experts=experts, experts_per_token=another_k or max(used, default=0))


# -- the engine's map


def breakdown(context: Any) -> list[tuple[str, bool, tuple[int, int, int]]]:
    """Return name, host or not, and bytes of weights, context and compute, per buffer type of a context and its model.

    Raises:
        UserError: this build has no such function, or returns the sizes in another layout.
    """
    function = optional_function(BREAKDOWN, _Map, ctypes.c_void_p)
    if function is None:
        raise UserError(
            f"llama-cpp-python {VERSION} does not report the sizes of its buffers",
            advice="install llama-cpp-python 0.3.36 or newer",
        )
    layout = LIBCXX if sys.platform == "darwin" else LIBSTDCXX
    words = function(context).words
    count = words[layout.count]
    entries = list(_entries(words[layout.root], layout)) if count <= MOST_BUFFER_TYPES else []
    if len(entries) != count or not entries:
        raise UserError(
            f"llama-cpp-python {VERSION} reports the sizes of its buffers in an unknown layout",
            advice="install another version of llama-cpp-python",
        )
    return [(buffer_name(kind), is_host_buffer(kind), sizes) for kind, sizes in entries]


def _entries(node: int, layout: _Layout) -> Iterator[tuple[int, tuple[int, int, int]]]:
    """Yield the entries of a subtree in order; its depth is logarithmic in their number."""
    if not node:
        return
    words = (ctypes.c_size_t * (ENTRY + 4)).from_address(node)
    yield from _entries(words[layout.left], layout)
    yield words[ENTRY], (words[ENTRY + 1], words[ENTRY + 2], words[ENTRY + 3])
    yield from _entries(words[layout.right], layout)
