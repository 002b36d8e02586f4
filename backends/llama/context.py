"""A context of llama.cpp's: the memory that a model's tokens stand in, and evaluating into it."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama_cpp import llama_cpp as lib

from moe_watch.backends import engine_options
from moe_watch.backends.llama.bindings import VERSION, batch_size, log
from moe_watch.backends.llama.fork import SEQUENCES
from moe_watch.backends.llama.tap.callback import Tap
from moe_watch.backends.model_files.gguf import TENSOR_TYPES
from moe_watch.backends.system import out_of_memory
from moe_watch.routing.errors import UserError

PREFILL_STEP = 512
"""Tokens evaluated at once in a prompt; commands are heard in between."""

KV_TYPES = {
    name.lower(): kind for kind, (name, _, _) in TENSOR_TYPES.items() if name.lower() in engine_options.KV_TYPES
}
"""ggml's numbers of them: the same in files and in memory."""

FLASH_ATTENTION = re.compile(r"(?:Flash Attention|flash_attn +=) (enabled|disabled)")
"""How llama.cpp says that it was told, or found out, whether the device can do it."""


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """How the model is run."""

    context: int
    """Tokens."""
    threads: int
    on_gpu: bool
    exact: bool
    """In float32 throughout: the cache too, and without flash attention, which rounds."""
    kv_type: str = "f16"
    """Of the cache, where it is not exact; one of `KV_TYPES`."""
    batch: int = PREFILL_STEP
    """Tokens in one call of llama.cpp at most."""
    micro_batch: int = PREFILL_STEP
    """Tokens evaluated at once at most."""

    @property
    def cache_type(self) -> str:
        """One of `KV_TYPES`."""
        return "f32" if self.exact else self.kv_type


def new_context(model: Any, settings: ContextSettings, tap: Tap | None) -> Any:
    """An empty context; its tap, if anything is to look on, must live as long.

    Raises:
        UserError: there is not enough memory for it, or the model cannot have such a cache.
    """
    params = lib.llama_context_default_params()
    params.n_ctx = max(settings.context, settings.batch)
    params.n_seq_max, params.kv_unified = SEQUENCES, True
    params.n_batch, params.n_ubatch = settings.batch, settings.micro_batch
    params.n_threads = params.n_threads_batch = settings.threads
    if tap is not None:
        params.cb_eval, params.cb_eval_user_data = tap.callback, tap.user_data
    params.type_k = params.type_v = KV_TYPES[settings.cache_type]
    if settings.exact:
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
    log.listen()
    context = lib.llama_init_from_model(model, params)
    if not context:
        raise UserError(
            f"llama.cpp ({VERSION}) cannot make a context of {settings.context:,} tokens ({log.reason()})",
            advice=out_of_memory.SMALLER_CONTEXT if log.lacks_memory else "give another --kv-type",
        )
    return context


def flash_attention(settings: ContextSettings) -> str:
    """Whether the context that was made last computes attention like this: `on`, `off`, or `auto` if it did not say."""
    if settings.exact:
        return "off"
    said = log.last(FLASH_ATTENTION)
    return {"enabled": "on", "disabled": "off", None: "auto"}[said]


def prefill_step(context: Any) -> int:
    """How many tokens of a prompt are evaluated between two reports of how far it is."""
    return max(PREFILL_STEP, int(batch_size(context)))


def evaluate(context: Any, ids: Sequence[int]) -> None:
    """Put tokens into a context; the output of the last one is computed.

    Raises:
        UserError: llama.cpp cannot.
    """
    log.listen()
    step = batch_size(context)
    for start in range(0, len(ids), step):
        _decode(context, ids[start : start + step], is_last=start + step >= len(ids))


def _decode(context: Any, ids: Sequence[int], *, is_last: bool) -> None:
    """One call of llama.cpp's; it aborts the process if there are more tokens than it takes at once."""
    tokens = (lib.llama_token * len(ids))(*ids)
    wanted = (ctypes.c_int8 * len(ids))()
    wanted[-1] = is_last
    batch = lib.llama_batch(n_tokens=len(ids), token=tokens, logits=wanted)
    status = lib.llama_decode(context, batch)
    if status:
        why = "the context is full" if status == 1 else log.reason()
        advice = out_of_memory.SMALLER_CONTEXT if log.lacks_memory else "begin again"
        raise UserError(f"llama.cpp cannot evaluate {len(ids)} tokens ({why})", advice=advice)


def clear(context: Any) -> None:
    """Empty a context."""
    lib.llama_memory_clear(lib.llama_get_memory(context), True)
