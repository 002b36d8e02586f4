"""Scorer of given tokens on a loaded mlx-lm model, with a separate prompt cache.

Hooks and masks are in place only while a pass is built; MLX evaluates it afterwards. So the passes of the run, before
and after, have the hooks and the mask of the run.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from moe_watch.backends.engine import Floats, RouterOutputs, ScoredBatch, Scorer, Unobserved
from moe_watch.backends.mlx.layers import MoeLayer
from moe_watch.backends.mlx.loading import LoadedMlxModel
from moe_watch.backends.mlx.tap import ForwardCapture
from moe_watch.backends.system.out_of_memory import SMALLER_MODEL
from moe_watch.backends.text.token_ids import check_token_ids
from moe_watch.routing.errors import UserError
from moe_watch.routing.router import gates
from moe_watch.routing.router.masks import ExpertMask

BATCH = 512
"""Largest number of tokens of one pass."""

LARGE_VOCABULARY = 50_000
BATCH_OF_LARGE = 128
"""Largest number of tokens of one pass with more than `LARGE_VOCABULARY` logits per token."""


def why_no_norms(layers: Sequence[MoeLayer]) -> str:
    """Return the reason why the norms of these layers' weighted outputs cannot be read; empty if they can."""
    for layer in layers:
        if layer.container is None:
            return f"mlx-lm's {layer.family} evaluates its experts one at a time"
        if layer.gate is None:
            return f"the weights of mlx-lm's {layer.family} cannot be read"
    return ""


class MlxScorer(Scorer):
    """Evaluation of given tokens on the weights of an engine.

    Args:
        loaded: the model.
        window: largest number of tokens of one evaluation.
        usage: read the routing.
        saliency: read the norms of the experts' weighted outputs, too.

    Raises:
        UserError: the window is longer than the context, or the norms cannot be read.
    """

    def __init__(self, loaded: LoadedMlxModel, window: int, *, usage: bool, saliency: bool) -> None:
        if window > loaded.context_length:
            raise UserError(
                f"a window of {window:,} tokens does not fit into the context of {loaded.context_length:,}",
                advice="give a shorter window",
            )
        if saliency and (why := why_no_norms(loaded.tap.layers)):
            raise UserError(f"the saliency of {loaded.info.name} cannot be measured: {why}")
        self._loaded = loaded
        self._usage = usage
        self._saliency = saliency
        self._mask = ExpertMask()
        self._batch = BATCH_OF_LARGE if loaded.vocabulary > LARGE_VOCABULARY else BATCH

    def mask(self, mask: ExpertMask) -> None:
        self._mask = mask

    def evaluate(self, ids: Sequence[int]) -> Iterator[ScoredBatch]:
        loaded = self._loaded
        check_token_ids(ids, loaded.embedded, loaded.info.name, lambda token: loaded.text.decode([token]))
        cache = make_prompt_cache(loaded.model)
        for start in range(0, len(ids), self._batch):
            yield self._pass(list(ids[start : start + self._batch]), cache)

    def close(self) -> None:
        mx.clear_cache()

    def _pass(self, ids: list[int], cache: list[Any]) -> ScoredBatch:
        """Evaluate successive tokens in one pass."""
        tap = self._loaded.tap
        with tap.other_passes(self._mask, observe=self._usage, norms=self._saliency):
            logits = self._loaded.model(mx.array([ids]), cache=cache)[0].astype(mx.float32)
            frame = tap.frame
        try:
            mx.eval(logits, frame.arrays(), [layer.state for layer in cache])
        except RuntimeError as error:
            traceback.print_exc()
            raise UserError(
                f"mlx {version('mlx')} cannot evaluate {len(ids)} tokens ({error})", advice=SMALLER_MODEL
            ) from error
        routing = frame.read(len(ids))  # also checks that no masked expert is selected
        return ScoredBatch(
            logits=np.asarray(logits),
            routing=routing if self._usage else Unobserved.of(len(ids), len(tap.layers)),
            norms=self._weighted_norms(frame, routing) if self._saliency else [],
        )

    def _weighted_norms(self, frame: ForwardCapture, routing: RouterOutputs) -> list[Floats | None]:
        """Return ‖weight · f(x)‖₂ per MoE layer [T, k], float32."""
        layers, norms = self._loaded.tap.layers, frame.read_norms()
        return [
            None if norm is None else (norm * _weights(layer, at, routing)).astype(np.float32)
            for at, (layer, norm) in enumerate(zip(layers, norms, strict=True))
        ]


def _weights(layer: MoeLayer, at: int, routing: RouterOutputs) -> Floats | float:
    """Return the factors [T, k] of the experts' outputs, as the model applies them; 1 if it weights their inputs."""
    gate, experts, logits = layer.gate, routing.experts[at], routing.logits[at]
    if gate is None or experts is None or logits is None:
        raise RuntimeError(f"the routing of layer {layer.index} was not captured")
    if gate.on_input:
        return 1.0
    applied = routing.weights[at] if routing.weights else None
    if applied is not None:
        return applied
    # A sparsemixer's experts are in the order in which they were selected, which is the order that its weights need.
    computed = gates.weights(gate, logits, gates.scores(gate, logits), experts.astype(np.int64))
    if computed is None:
        raise RuntimeError(f"the weights of layer {layer.index} were not captured")
    return computed
