"""Engine on mlx-lm, which evaluates one token ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import can_trim_prompt_cache, make_prompt_cache, trim_prompt_cache

from moe_watch.backends.engine import Bare, Detokenizer, Engine, RouterOutputs, SampledToken, Scorer
from moe_watch.backends.mlx.baseline_loop import MlxBare
from moe_watch.backends.mlx.loading import LoadedMlxModel, first_use, load_model
from moe_watch.backends.mlx.masks import groups_of, why_no_mask
from moe_watch.backends.mlx.sampling import MlxSampler, Prediction
from moe_watch.backends.mlx.scorer import MlxScorer
from moe_watch.backends.mlx.tap import ForwardCapture
from moe_watch.backends.model_files.catalog import ModelLocation
from moe_watch.backends.protocol import EngineOptions
from moe_watch.backends.text.token_ids import check_token_ids
from moe_watch.routing.events import ModelMemory, Progress, Sampling
from moe_watch.routing.router.masks import ExpertMask

PREFILL_STEP = 512
"""Prompt tokens evaluated in one step; commands are read between steps."""

CLEAR_EVERY = 256
"""Number of tokens after which MLX frees cached buffers that a growing context no longer uses."""


@dataclass(frozen=True, slots=True, eq=False)
class ForwardPass:
    """Launched evaluation of one token."""

    prediction: Prediction
    """Prediction of the token after it."""
    frame: ForwardCapture
    logits: Any
    """[1, V], kept to sample again."""
    forced: bool
    """The prediction is a given token (teacher forcing)."""


@dataclass(slots=True, eq=False)
class MlxContext:
    """Tokens in the context, and predictions of the tokens after them."""

    cache: Any
    """KV cache of all layers."""
    position: int = 0
    """Number of tokens in the context."""
    last: int | None = None
    """The last one; None in an empty context."""
    latest: ForwardPass | None = None
    """Evaluation of the last token in the context; it predicts the token that the next `draw` returns."""
    ahead: ForwardPass | None = None
    """Evaluation of that token, if it was launched already."""
    forced: deque[int] = field(default_factory=deque)
    """Tokens to predict in place of sampled ones."""

    def copy(self) -> MlxContext:
        """Return a copy that shares the KV cache."""
        return replace(self, forced=self.forced.copy())


@dataclass(frozen=True, slots=True, eq=False)
class MlxState:
    """Saved state of a run: its context and the whole state of its sampler."""

    context: MlxContext
    next_token: MlxSampler
    random: Any
    """[2], state of MLX's random numbers."""


class MlxEngine(Engine):
    """Engine with one model and one context; all calls must come from the thread that loaded the model."""

    def __init__(self, loaded: LoadedMlxModel) -> None:
        self.model = loaded.info
        self.backend = loaded.backend
        self.sees_weights = loaded.tap.sees_weights
        self.warnings = loaded.warnings
        self.context_length = loaded.context_length
        self.vocabulary = loaded.vocabulary
        self.groups = groups_of(loaded.tap.layers)
        self.why_no_mask = why_no_mask(loaded.tap.layers)
        self.first_use = first_use()
        self.codec = loaded.text
        self._loaded = loaded
        self._next_token = MlxSampler(Sampling(seed=0), loaded.text.ends, loaded.vocabulary)
        self.reset()

    @property
    def position(self) -> int:
        return self._context.position

    @property
    def settled(self) -> bool:
        return self._context.ahead is None

    def encode(self, text: str, *, turn: bool, first: bool) -> list[int]:
        ids = self._encoded(text, turn=turn, first=first)
        self._check(ids)
        return ids

    def _encoded(self, text: str, *, turn: bool, first: bool) -> list[int]:
        codec = self._loaded.text
        if not turn:
            return codec.encode(text, first=first)
        return codec.encode_turn(text) if first else codec.encode_next_turn(text, self._context.last)

    def _check(self, ids: Sequence[int]) -> None:
        loaded = self._loaded
        check_token_ids(ids, loaded.embedded, self.model.name, lambda token: loaded.text.decode([token]))

    def detokenizer(self) -> Detokenizer:
        return self._loaded.text.detokenizer()

    def reset(self) -> None:
        self._context = MlxContext(make_prompt_cache(self._loaded.model))

    def truncate(self, length: int) -> bool:
        self._require_settled()
        context = self._context
        if not can_trim_prompt_cache(context.cache):
            return False
        trim_prompt_cache(context.cache, context.position - length)
        self._context = MlxContext(context.cache, length)
        return True

    def configure(self, sampling: Sampling, *, reseed: bool) -> None:
        self._next_token = MlxSampler(sampling, self._loaded.text.ends, self._loaded.vocabulary)
        if reseed:
            mx.random.seed(sampling.seed)
        self._predict_again()

    def observe(self, on: bool) -> None:
        self._loaded.tap.observe(on)

    def _apply_mask(self, mask: ExpertMask) -> None:
        self._require_settled()
        self._loaded.tap.mask(mask)

    def scorer(self, window: int, *, usage: bool, saliency: bool) -> Scorer:
        return MlxScorer(self._loaded, window, usage=usage, saliency=saliency)

    def memory(self) -> ModelMemory:
        return ModelMemory(active=mx.get_active_memory(), peak=mx.get_peak_memory(), cache=mx.get_cache_memory())

    def force(self, ids: Sequence[int]) -> None:
        self._require_settled()
        self._check(ids)
        self._context.forced = deque(ids)
        self._predict_again()

    @contextmanager
    def fork(self) -> Iterator[Callable[[], None]]:
        self._require_settled()
        here = self._save()

        def rewind() -> None:
            self._restore(here)
            self._context.cache = deepcopy(here.context.cache)

        try:
            rewind()  # all evaluations go to a copy from here on
            yield rewind
        finally:
            self._restore(here)

    def prefill(self, ids: list[int], progress: Callable[[int], None]) -> Iterator[RouterOutputs]:
        self._require_settled()
        self._check(ids)
        for start in range(0, len(ids) - 1, PREFILL_STEP):
            step = ids[start : min(start + PREFILL_STEP, len(ids) - 1)]
            routing = self._evaluate(step)
            self._advance(step)
            progress(start + len(step))
            yield routing
        # Alone, like every generated token: its logits are needed, the logits of the others would only cost memory.
        last = self._launch(mx.array(ids[-1:]))
        self._context.latest = last
        routing = last.frame.read(1)
        self._advance(ids[-1:])
        progress(len(ids))
        yield routing

    def draw(self, *, last: bool = False) -> SampledToken:
        context = self._context
        if context.latest is None:
            raise RuntimeError("the context is empty: evaluate a prompt first")
        prediction = context.latest.prediction
        choice = prediction.read()
        current = context.ahead or self._launch(prediction.token)
        ends = choice.id in self._loaded.text.ends
        context.ahead = None if last or ends else self._launch(current.prediction.token)
        context.latest = current
        routing = current.frame.read(1)
        self._advance([choice.id])
        return SampledToken(
            id=choice.id,
            logprob=choice.logprob,
            top_margin=choice.top_margin,
            choice_gap=choice.choice_gap,
            would_stop=choice.would_stop,
            ends=ends,
            routing=routing,
        )

    def bare(self) -> Bare:
        return MlxBare(self._loaded.model, self._loaded.tap)

    def close(self) -> None:
        mx.synchronize()
        self.reset()
        self._loaded.tap.close()

    def _evaluate(self, ids: list[int]) -> RouterOutputs:
        """Evaluate tokens without computing predictions."""
        self._loaded.model(mx.array([ids]), cache=self._context.cache)
        frame = self._loaded.tap.frame
        mx.eval([layer.state for layer in self._context.cache], frame.arrays())
        return frame.read(len(ids))

    def _launch(self, token: Any) -> ForwardPass:
        """Start to evaluate one token [1] and to sample the token after it; do not wait."""
        logits = self._loaded.model(token[None], cache=self._context.cache)
        return self._predict(logits[:, -1, :], self._loaded.tap.frame)

    def _predict(self, logits: Any, frame: ForwardCapture) -> ForwardPass:
        """Start to sample from logits [1, V]."""
        forced = self._context.forced.popleft() if self._context.forced else None
        prediction = self._next_token.predict(logits, forced)
        mx.async_eval(prediction.arrays())
        return ForwardPass(prediction, frame, logits, forced is not None)

    def _predict_again(self) -> None:
        """Sample the next token again after the sampler has changed, unless its evaluation was started."""
        latest = self._context.latest
        if self._context.ahead is None and latest is not None and not latest.forced:
            self._context.latest = self._predict(latest.logits, latest.frame)

    def _require_settled(self) -> None:
        if self._context.ahead is not None:
            raise RuntimeError("a sampled token is being evaluated: draw with last=True first")

    def _save(self) -> MlxState:
        return MlxState(self._context.copy(), self._next_token, mx.array(mx.random.state[0]))

    def _restore(self, state: MlxState) -> None:
        """Restore a saved state; its KV cache is used without a copy."""
        self._context, self._next_token = state.context.copy(), state.next_token
        high, low = state.random.tolist()
        mx.random.seed(high << 32 | low)  # the state is the two halves of the seed; there is no other way to set it

    def _advance(self, ids: list[int]) -> None:
        """Count these tokens as part of the context."""
        context = self._context
        before, context.position = context.position, context.position + len(ids)
        context.last = ids[-1]
        if before // CLEAR_EVERY != context.position // CLEAR_EVERY:
            mx.clear_cache()


def load(location: ModelLocation, *, options: EngineOptions, progress: Callable[[Progress], None]) -> MlxEngine:
    """Load a model folder and return its engine.

    Raises:
        UserError: mlx-lm cannot load it, or its experts cannot be observed.
    """
    return MlxEngine(load_model(location, options=options, progress=progress))
