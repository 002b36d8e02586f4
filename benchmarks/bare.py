"""Generation without moe-watch: each engine's own loop on the same weights, as time stamps of its tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Stamps = Callable[[], Iterator[float]]


def mlx(folder: Path, ids: list[int]) -> Stamps:
    """mlx-lm's `generate_step`, without any hook."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.sample_utils import make_sampler
    from mlx_lm.utils import load_model

    model, _ = load_model(folder)
    model.set_dtype(mx.float32)

    def stamps() -> Iterator[float]:
        for _ in generate_step(mx.array(ids), model, max_tokens=-1, sampler=make_sampler(temp=1.0)):
            yield time.perf_counter()

    return stamps


def llama(file: Path, ids: list[int], threads: int) -> Stamps:
    """`llama_decode` and llama.cpp's own sampler, without a callback; cache and attention as for a float32 file."""
    from llama_cpp import llama_cpp as lib

    model = lib.llama_model_load_from_file(str(file).encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx = lib.llama_model_n_ctx_train(model)
    params.n_threads = params.n_threads_batch = threads
    params.type_k = params.type_v = lib.GGML_TYPE_F32
    params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = lib.llama_init_from_model(model, params)
    sampler = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    lib.llama_sampler_chain_add(sampler, lib.llama_sampler_init_dist(7))

    def evaluate(tokens: list[int]) -> None:
        array: Any = (lib.llama_token * len(tokens))(*tokens)
        assert lib.llama_decode(context, lib.llama_batch_get_one(array, len(tokens))) == 0

    def stamps() -> Iterator[float]:
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        evaluate(ids)
        while True:
            token = lib.llama_sampler_sample(sampler, context, -1)
            yield time.perf_counter()
            evaluate([token])

    return stamps
