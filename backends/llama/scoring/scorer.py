"""Scorer on llama.cpp: a separate context on the loaded model, with an output for every token.

llama.cpp computes the last layer for tokens with an output only, so here its rows are all there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as lib

from moe_watch.backends.engine import ScoredBatch, Scorer, Unobserved
from moe_watch.backends.engine_options import MIN_BATCH
from moe_watch.backends.llama.bindings import batch_size
from moe_watch.backends.llama.context import ContextSettings, clear, evaluate_all, new_context
from moe_watch.backends.llama.loading import LoadedLlamaModel
from moe_watch.backends.llama.scoring.norms import nodes_of_outputs
from moe_watch.backends.llama.scoring.tap import ScoringNodes, ScoringTap
from moe_watch.backends.tap_rows import RowFormat
from moe_watch.routing.errors import UserError
from moe_watch.routing.router.gates import parse
from moe_watch.routing.router.masks import ExpertMask

BATCH, SMALL_BATCH = 512, 128
"""Largest numbers of tokens of one batch: of a usual and of a large vocabulary."""

LARGE_VOCABULARY = 50_000
"""Tokens; more logits of 512 tokens than of this vocabulary take over 100 MB, twice."""


class LlamaScorer(Scorer):
    """Scorer with one context. Its tap is in place only if there is something to read or to mask.

    Args:
        loaded: the model.
        form: format of the tap's rows.
        window: largest number of tokens of one evaluation.
        usage: read the routing.
        saliency: read the norms of the experts' weighted outputs.

    Raises:
        UserError: the window is longer than the model supports, there is not enough memory, or the model's graph has
            no node with these outputs.
    """

    def __init__(self, loaded: LoadedLlamaModel, form: RowFormat, window: int, *, usage: bool, saliency: bool) -> None:
        check_window(window, loaded)
        self._loaded, self._form = loaded, form
        self._settings = scoring_settings(loaded.settings, window, loaded.tokenizer.vocabulary)
        self._reads = self._usage = usage and bool(form.layers)
        self._reads_norms = self._usage and saliency
        self._tap = self._new_tap() if self._usage else None
        self._context = new_context(loaded.model, self._settings, self._tap)
        if self._reads_norms:
            self._check_norms()

    def mask(self, mask: ExpertMask) -> None:
        if self._tap is None and mask:
            self._replace_context()
        if self._tap is not None:
            self._tap.mask({layer: sorted(experts) for layer, experts in mask.experts.items()})

    def observe(self, on: bool) -> None:
        self._reads = on and self._usage
        if self._tap is not None:
            self._tap.observe(self._reads)

    def evaluate(self, ids: Sequence[int]) -> Iterator[ScoredBatch]:
        check_ids(ids, self._loaded)
        clear(self._context)
        if self._tap is not None:
            self._tap.drop()  # an evaluation that failed leaves rows
        step = batch_size(self._context)
        for start in range(0, len(ids), step):
            piece = ids[start : start + step]
            evaluate_all(self._context, piece)
            yield self._batch(len(piece))

    def close(self) -> None:
        if self._context is not None:
            lib.llama_free(self._context)
            self._context = None

    def _new_tap(self) -> ScoringTap:
        gate = self._loaded.gate
        known = parse(gate.name)
        nodes = ScoringNodes(
            reads_weights=known is not None and known.scale is not None,
            applied=gate.applied_at,
            outputs=nodes_of_outputs(self._loaded.info.architecture) if self._reads_norms else (),
        )
        tap = ScoringTap(apart=self._settings.on_gpu, masked_at=self._loaded.mask_nodes.names, nodes=nodes)
        tap.observe(self._reads)
        return tap

    def _replace_context(self) -> None:
        """Create the context once more, with a tap: llama.cpp sets a callback when it creates a context."""
        tap = self._new_tap()
        context = new_context(self._loaded.model, self._settings, tap)
        self.close()
        self._tap, self._context = tap, context

    def _batch(self, tokens: int) -> ScoredBatch:
        """Return the output of the last evaluation."""
        logits, unobserved = self._logits(tokens), Unobserved.of(tokens, len(self._form.layers))
        if self._tap is None:
            return ScoredBatch(logits, unobserved)
        if not self._reads:
            self._tap.pop()  # raises if a mask could not be applied, or did not hold
            return ScoredBatch(logits, unobserved)
        routing = self._tap.routing(self._form, tokens)
        return ScoredBatch(logits, routing, self._tap.norms(self._form.layers) if self._reads_norms else [])

    def _logits(self, tokens: int) -> Any:
        """Return the logits [T, V] of the last evaluation as a view of llama.cpp's memory."""
        first = lib.llama_get_logits(self._context)
        return np.ctypeslib.as_array(ctypes.cast(first, ctypes.POINTER(ctypes.c_float)), (tokens, self._vocabulary))

    @property
    def _vocabulary(self) -> int:
        return self._loaded.tokenizer.vocabulary

    def _check_norms(self) -> None:
        """Evaluate a token, and refuse the model if its norms are not there.

        Raises:
            UserError: a layer has no node with the experts' outputs.
        """
        [batch] = self.evaluate([self._loaded.tokenizer.begin])
        absent = [layer for layer, norms in zip(self._form.layers, batch.norms, strict=True) if norms is None]
        if absent:
            self.close()
            raise UserError(
                f"the outputs of the experts of {self._loaded.info.name} cannot be read "
                f"({self._loaded.info.architecture}, layer {absent[0]}: its graph has no node for them)",
                advice="leave saliency out; counts and weight mass need no outputs",
            )


def scoring_settings(settings: ContextSettings, window: int, vocabulary: int) -> ContextSettings:
    """Return the settings of the context for windows of this length, with the rest as in the run's context."""
    largest = BATCH if vocabulary <= LARGE_VOCABULARY else SMALL_BATCH
    batch = max(MIN_BATCH, min(largest, window))
    return replace(settings, context=window, batch=batch, micro_batch=min(batch, settings.micro_batch))


def check_window(window: int, loaded: LoadedLlamaModel) -> None:
    """Refuse a window longer than the sequences of the model's training, as for the context of a run.

    Raises:
        UserError: it is longer.
    """
    trained = loaded.info.trained_length
    if trained is not None and window > trained:
        raise UserError(
            f"a window of {window:,} tokens is longer than {loaded.info.name} supports, which is {trained:,}",
            advice="give a shorter window",
        )


def check_ids(ids: Sequence[int], loaded: LoadedLlamaModel) -> None:
    """Refuse tokens outside the vocabulary: llama.cpp would read weights and logits out of bounds.

    Raises:
        UserError: a token is outside the vocabulary.
    """
    last = loaded.tokenizer.vocabulary - 1
    outside = next((token for token in ids if not 0 <= token <= last), None)
    if outside is not None:
        raise UserError(
            f"token {outside} is outside the vocabulary of {loaded.info.name}, which ends at {last}",
            advice="give a model with the tokenizer that it was trained with",
        )
