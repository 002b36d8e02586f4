"""Opening of GGUF files with llama.cpp: placement of tensors, and load mode."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llama_cpp import llama_cpp as lib

from moe_watch.backends.engine_options import split_override
from moe_watch.backends.llama.bindings import VERSION, buffer_types, log
from moe_watch.backends.llama.experts.another_k import check_another_k, metadata_overrides
from moe_watch.backends.model_files.catalog import ModelLocation
from moe_watch.backends.model_files.gguf import GgufFile
from moe_watch.backends.model_files.gguf_checks import CONVERT
from moe_watch.backends.protocol import EngineOptions
from moe_watch.backends.system import out_of_memory
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Progress

Report = Callable[[Progress], None]

ALL_LAYERS = -1

LOAD_MODE = re.compile(r"load_mode = ([\w+]+)")
OFFLOADED = re.compile(r"offloaded (\d+)/\d+ layers to GPU")
NOT_LOCKED = re.compile(r"(failed to mlock)")
"""Log lines of llama.cpp that report the effect of the options."""
WRONG_METADATA = re.compile(r"has wrong type|key not found in model")
"""Errors of a faulty conversion, which no version of llama.cpp can load."""


@dataclass(frozen=True, slots=True, eq=False)
class OpenModel:
    """Model with its weights in memory."""

    handle: Any
    """llama.cpp's pointer to the model."""
    settings: dict[str, str | int | bool]
    """Load settings in the form of `BackendInfo.settings`."""
    warnings: list[str]


class _Override(ctypes.Structure):
    """`struct llama_model_tensor_buft_override`."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer", ctypes.c_void_p))


def open_model(
    location: ModelLocation,
    parts: Sequence[GgufFile],
    options: EngineOptions,
    stored_bytes: int,
    progress: Report,
    *,
    allocate: bool = True,
) -> OpenModel:
    """Load the weights.

    Args:
        location: location of the file, or of its first part.
        parts: headers of all its files.
        options: options; the ones about placement, load mode and experts per token are used.
        stored_bytes: size of all tensors, for `progress`.
        progress: receives a report at each per cent.
        allocate: allocate memory. Without it the model and its contexts only have the sizes of their buffers.

    Raises:
        UserError: llama.cpp cannot load the model, or not with these options.
    """
    if options.experts_per_token is not None:
        check_another_k(location.name, parts, options.experts_per_token)
    log.listen()
    lib.llama_backend_init()
    params = lib.llama_model_default_params()
    params.n_gpu_layers = _gpu_layers(options)
    params.no_alloc = not allocate
    params.load_mode = _load_mode(options) if allocate else lib.LLAMA_LOAD_MODE_NONE
    overrides = _overrides(options.tensor_overrides)
    params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
    metadata = metadata_overrides(parts[0], options.experts_per_token)
    if metadata is not None:
        params.kv_overrides = metadata
    params.progress_callback = lib.llama_progress_callback(_in_percent(stored_bytes, progress))
    model = lib.llama_model_load_from_file(os.fsencode(str(location.path)), params)
    if not model:
        raise _failure(location.name)
    _check_kind(model, location.name)
    return OpenModel(model, *_outcome(options))


def _failure(name: str) -> UserError:
    reason = log.reason()
    if log.lacks_memory:
        advice = out_of_memory.SMALLER_MODEL
    elif WRONG_METADATA.search(reason):
        advice = CONVERT
    else:
        advice = "try a newer llama-cpp-python or another model"
    return UserError(f"llama.cpp ({VERSION}) cannot load {name} ({reason})", advice=advice)


def _gpu_layers(options: EngineOptions) -> int:
    """Return the number of layers to offload to a GPU.

    Raises:
        UserError: the number is not 0, and there is no GPU.
    """
    has_gpu = bool(lib.llama_supports_gpu_offload())
    if options.gpu_layers is None:
        return ALL_LAYERS if has_gpu else 0
    if options.gpu_layers != 0 and not has_gpu:
        raise UserError(
            f"--gpu-layers is {options.gpu_layers}, and this llama-cpp-python does not support a GPU",
            advice="leave it out, or install llama-cpp-python built for your GPU",
        )
    return int(options.gpu_layers)


def maps_file(options: EngineOptions) -> bool:
    """Return whether the weights are mapped from the file; the engine's default is to map where the system can."""
    return options.mmap is not False and bool(lib.llama_supports_mmap())


def _load_mode(options: EngineOptions) -> int:
    """Return the value of `enum llama_load_mode`.

    Raises:
        UserError: this system does not support the option.
    """
    if options.mmap and not lib.llama_supports_mmap():
        raise UserError("this system cannot map files into memory", advice="leave out --mmap")
    if options.mlock and not lib.llama_supports_mlock():
        raise UserError("this system cannot lock memory against swapping", advice="leave out --mlock")
    if options.mlock:
        return int(lib.LLAMA_LOAD_MODE_MLOCK if options.mmap is False else lib.LLAMA_LOAD_MODE_MMAP_MLOCK)
    modes = {None: lib.LLAMA_LOAD_MODE_AUTO, True: lib.LLAMA_LOAD_MODE_MMAP, False: lib.LLAMA_LOAD_MODE_NONE}
    return int(modes[options.mmap])


def _overrides(overrides: Sequence[str]) -> Any:
    """Return llama.cpp's array of overrides, terminated by an empty one.

    Raises:
        UserError: there are too many, or no device has a buffer of that name.
    """
    most = lib.llama_max_tensor_buft_overrides() - 1
    if len(overrides) > most:
        raise UserError(f"--override-tensor is given {len(overrides)} times", advice=f"give it at most {most} times")
    known = buffer_types()
    rows = []
    for override in overrides:
        pattern, buffer = split_override(override)
        if buffer not in known:
            raise UserError(f"--override-tensor: there is no buffer {buffer!r}", advice=f"use {', '.join(known)}")
        rows.append(_Override(pattern.encode(), known[buffer]))
    return (_Override * (len(rows) + 1))(*rows)


def _outcome(options: EngineOptions) -> tuple[dict[str, str | int | bool], list[str]]:
    """Return the effective load settings according to llama.cpp's log, and warnings for the user."""
    mode = log.last(LOAD_MODE) or ""
    is_locked = "mlock" in mode and log.last(NOT_LOCKED) is None
    settings: dict[str, str | int | bool] = {
        "gpu_layers": int(log.last(OFFLOADED) or 0),
        "mmap": "mmap" in mode,
        "mlock": is_locked,
    }
    if options.tensor_overrides:
        settings["tensor_overrides"] = "; ".join(options.tensor_overrides)
    if options.experts_per_token is not None:
        settings["experts_per_token"] = options.experts_per_token
    refused = bool(options.mlock) and not is_locked
    return settings, ["--mlock has no effect, the system refused to lock memory: see `ulimit -l`"] if refused else []


def _in_percent(stored_bytes: int, progress: Report) -> Callable[[float, Any], bool]:
    """Return a callback for llama.cpp, which calls it for every tensor; it reports each whole per cent."""
    shown = -1
    note = out_of_memory.beyond_memory(stored_bytes)

    def report(fraction: float, _: Any) -> bool:
        nonlocal shown
        if (percent := int(fraction * 100)) != shown:
            shown = percent
            done = int(fraction * stored_bytes)
            progress(Progress(stage="loading", done=done, total=stored_bytes, unit="bytes", note=note))
        return True

    return report


def _check_kind(model: Any, name: str) -> None:
    if lib.llama_model_has_encoder(model) or lib.llama_model_is_diffusion(model):
        raise UserError(f"{name} does not generate token by token", advice="give a decoder-only language model")
    if lib.llama_vocab_type(lib.llama_model_get_vocab(model)) == lib.LLAMA_VOCAB_TYPE_NONE:
        raise UserError(f"{name} has no vocabulary", advice="convert the model with its tokenizer")
