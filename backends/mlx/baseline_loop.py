"""Baseline loop: mlx-lm's own generation loop on the engine's loaded weights, with the tap removed."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generate_step, generation_stream
from mlx_lm.sample_utils import make_sampler

from moe_watch.backends.engine import Bare
from moe_watch.backends.mlx.tap import RouterTap


class MlxBare(Bare):
    """Baseline loop on a model whose hooks are removed while it runs.

    Args:
        model: the model with its tap in place.
        tap: tap of the model.
    """

    def __init__(self, model: Any, tap: RouterTap) -> None:
        self._model = model
        self._tap = tap

    def prefill(self, ids: list[int]) -> None:
        for _ in self._steps(ids, tokens=0):
            raise RuntimeError("mlx-lm generated a token that was not requested")

    def decode(self, ids: list[int]) -> Generator[int, None, None]:
        yield from self._steps(ids, tokens=-1)

    def _steps(self, ids: list[int], tokens: int) -> Iterator[int]:
        """Yield generated tokens. With `tokens` 0 the first one is sampled but not yielded; −1 never ends."""
        sampler = make_sampler(temp=1.0)
        with self._unhooked():
            for token, _ in generate_step(mx.array(ids), self._model, max_tokens=tokens, sampler=sampler):
                yield int(token)

    @contextmanager
    def _unhooked(self) -> Iterator[None]:
        self._tap.close()
        try:
            yield
        finally:
            mx.synchronize(generation_stream)  # mlx-lm starts one pass ahead
            self._tap.open()
