"""Contexts of llama.cpp: creation, evaluation of tokens, reset."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama_cpp import llama_cpp as lib

from moe_watch.backends import engine_options
from moe_watch.backends.llama.bindings import VERSION, batch_size, log
from moe_watch.backends.llama.fork import MAIN, SEQUENCES
from moe_watch.backends.llama.tap.base import Tap
from moe_watch.backends.model_files.gguf import TENSOR_TYPES
from moe_watch.backends.system import out_of_memory
from moe_watch.routing.errors import UserError

PREFILL_STEP = 512
"""Prompt tokens evaluated in one step; commands are read between steps."""

KV_TYPES = {
    name.lower(): kind for kind, (name, _, _) in TENSOR_TYPES.items() if name.lower() in engine_options.KV_TYPES
}
"""Numbers of ggml's types by name; they are the same in files and in memory."""

FLASH_ATTENTION = re.compile(r"(?:Flash Attention|flash_attn +=) (enabled|disabled)")
"""Log lines of llama.cpp that report flash attention, as requested or as detected for the device."""


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """Settings of a llama.cpp context."""

    context: int
    """Length of the context in tokens."""
    threads: int
    on_gpu: bool
    exact: bool
    """Compute in float32 throughout: the KV cache too, and without flash attention, which rounds."""
    kv_type: str = "f16"
    """Type of the KV cache if it is not exact; one of `KV_TYPES`."""
    batch: int = PREFILL_STEP
    """Largest number of tokens in one call of llama.cpp (`n_batch`)."""
    micro_batch: int = PREFILL_STEP
    """Largest number of tokens evaluated at once (`n_ubatch`)."""

    @property
    def cache_type(self) -> str:
        """Type of the KV cache, one of `KV_TYPES`."""
        return "f32" if self.exact else self.kv_type


def new_context(model: Any, settings: ContextSettings, tap: Tap | None) -> Any:
    """Return an empty context. Its tap, if any, must live as long as the context.

    Raises:
        UserError: there is not enough memory, or the model does not support this type of KV cache.
    """
    params = lib.llama_context_default_params()
    params.n_ctx = max(settings.context, settings.batch)
    params.n_seq_max, params.kv_unified = SEQUENCES, True
    params.n_batch, params.n_ubatch = settings.batch, settings.micro_batch
    params.n_threads = params.n_threads_batch = settings.threads
    if tap is not None and tap.callback is not None:
        params.cb_eval, params.cb_eval_user_data = tap.callback, tap.user_data
    params.type_k = params.type_v = KV_TYPES[settings.cache_type]
    if settings.exact:
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
    log.listen()
    context = lib.llama_init_from_model(model, params)
    if not context:
        raise UserError(
            f"llama.cpp ({VERSION}) cannot create a context of {settings.context:,} tokens ({log.reason()})",
            advice=out_of_memory.SMALLER_CONTEXT if log.lacks_memory else "give another --kv-type",
        )
    return context


def flash_attention(settings: ContextSettings) -> str:
    """Return whether the last created context uses flash attention: `on`, `off`, or `auto` if the log has no line."""
    if settings.exact:
        return "off"
    reported = log.last(FLASH_ATTENTION)
    return {"enabled": "on", "disabled": "off", None: "auto"}[reported]


def prefill_step(context: Any) -> int:
    """Return the number of prompt tokens evaluated between two progress reports."""
    return max(PREFILL_STEP, int(batch_size(context)))


def evaluate(context: Any, ids: Sequence[int]) -> None:
    """Evaluate tokens; logits are computed for the last one.

    Raises:
        UserError: llama.cpp fails, for example because the context is full.
    """
    log.listen()
    step = batch_size(context)
    for start in range(0, len(ids), step):
        piece = ids[start : start + step]
        has_output = (ctypes.c_int8 * len(piece))()
        has_output[-1] = start + step >= len(ids)
        _decode(context, piece, has_output)


def evaluate_all(context: Any, ids: Sequence[int]) -> None:
    """Evaluate at most a batch of tokens; logits are computed for each of them.

    Raises:
        UserError: as for `evaluate`.
    """
    log.listen()
    _decode(context, ids, (ctypes.c_int8 * len(ids))(*[1] * len(ids)))


def _decode(context: Any, ids: Sequence[int], has_output: Any) -> None:
    """Call `llama_decode`, which aborts the process if there are more tokens than `n_batch`."""
    tokens = (lib.llama_token * len(ids))(*ids)
    batch = lib.llama_batch(n_tokens=len(ids), token=tokens, logits=has_output)
    status = lib.llama_decode(context, batch)
    if status:
        why = "the context is full" if status == 1 else log.reason()
        advice = out_of_memory.SMALLER_CONTEXT if log.lacks_memory else "start a new run"
        raise UserError(f"llama.cpp cannot evaluate {len(ids)} tokens ({why})", advice=advice)


def truncate(model: Any, context: Any, length: int) -> bool:
    """Remove all tokens after the first `length` ones of the run's sequence.

    Returns:
        Whether it was done. Recurrent states cannot be cut, nor can a cache of a sliding window that no longer holds
        the positions that the next token attends to.
    """
    memory = lib.llama_get_memory(context)
    window = int(lib.llama_model_n_swa(model))
    if window and lib.llama_memory_seq_pos_min(memory, MAIN) > max(0, length - window):
        return False
    return bool(lib.llama_memory_seq_rm(memory, MAIN, length, -1))


def clear(context: Any) -> None:
    """Remove all tokens from a context."""
    lib.llama_memory_clear(lib.llama_get_memory(context), True)
