"""Baseline loop: `llama_decode` and llama.cpp's own sampler on the engine's loaded weights, without a callback."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from llama_cpp import llama_cpp as lib

from moe_watch.backends.engine import Bare
from moe_watch.backends.llama.context import ContextSettings, clear, evaluate, new_context, prefill_step

SEED = 7


class LlamaBare(Bare):
    """Baseline loop in a second context with the engine's settings, without a tap.

    Args:
        model: llama.cpp's handle of the model.
        settings: settings of the engine's context.
    """

    def __init__(self, model: Any, settings: ContextSettings) -> None:
        self._context = new_context(model, settings, tap=None)
        self._sampler = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        lib.llama_sampler_chain_add(self._sampler, lib.llama_sampler_init_dist(SEED))

    def prefill(self, ids: list[int]) -> None:
        clear(self._context)
        longest = prefill_step(self._context)
        for start in range(0, len(ids), longest):
            evaluate(self._context, ids[start : start + longest])
        lib.llama_synchronize(self._context)

    def decode(self, ids: list[int]) -> Generator[int, None, None]:
        self.prefill(ids)
        while True:
            token = lib.llama_sampler_sample(self._sampler, self._context, -1)
            yield int(token)
            evaluate(self._context, [token])
