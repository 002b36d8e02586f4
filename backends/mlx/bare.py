"""mlx-lm's own generation loop on the weights that the engine has loaded, with the tap taken out."""

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
    """One model without any hook while it runs.

    Args:
        model: with its tap in place.
        tap: the model's.
    """

    def __init__(self, model: Any, tap: RouterTap) -> None:
        self._model = model
        self._tap = tap

    def prefill(self, ids: list[int]) -> None:
        for _ in self._steps(ids, tokens=0):
            raise RuntimeError("mlx-lm generated a token that nobody asked for")

    def decode(self, ids: list[int]) -> Generator[int, None, None]:
        yield from self._steps(ids, tokens=-1)

    def _steps(self, ids: list[int], tokens: int) -> Iterator[int]:
        """`tokens` 0 draws the first one and does not hand it out; −1 never ends."""
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
            mx.synchronize(generation_stream)  # it begins a pass ahead of what is asked for
            self._tap.open()
