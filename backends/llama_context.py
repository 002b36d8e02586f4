"""A context of llama.cpp's: the memory that a model's tokens stand in, and evaluating into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama_cpp import llama_cpp as lib

from backends.llama_library import VERSION, log
from backends.llama_tap import Tap
from routing.errors import UserError

PREFILL_STEP = 512
"""Tokens evaluated at once in a prompt; commands are heard in between."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the model is run."""

    context: int
    """Tokens."""
    threads: int
    on_gpu: bool
    exact: bool
    """In float32 throughout: the cache too, and without flash attention, which rounds."""


def new_context(model: Any, settings: Settings, tap: Tap | None) -> Any:
    """An empty context; its tap, if anything is to look on, must live as long.

    Raises:
        UserError: there is not enough memory for it.
    """
    params = lib.llama_context_default_params()
    params.n_ctx = settings.context
    params.n_batch = params.n_ubatch = PREFILL_STEP
    params.n_threads = params.n_threads_batch = settings.threads
    if tap is not None:
        params.cb_eval, params.cb_eval_user_data = tap.callback, tap.user_data
    if settings.exact:
        params.type_k = params.type_v = lib.GGML_TYPE_F32
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
    log.listen()
    context = lib.llama_init_from_model(model, params)
    if not context:
        raise UserError(
            f"llama.cpp ({VERSION}) cannot make a context of {settings.context:,} tokens ({log.reason()})",
            advice="free memory or give a smaller model",
        )
    return context


def evaluate(context: Any, ids: Sequence[int]) -> None:
    """Put tokens into a context; the output of the last one is computed.

    Raises:
        UserError: llama.cpp cannot.
    """
    log.listen()
    tokens = (lib.llama_token * len(ids))(*ids)
    status = lib.llama_decode(context, lib.llama_batch_get_one(tokens, len(ids)))
    if status:
        why = "the context is full" if status == 1 else log.reason()
        raise UserError(f"llama.cpp cannot evaluate {len(ids)} tokens ({why})", advice="begin again")


def clear(context: Any) -> None:
    """Empty a context."""
    lib.llama_memory_clear(lib.llama_get_memory(context), True)
