"""Running a model with mlx-lm, one token ahead of what is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from moe_watch.backends.engine import Bare, Detokenizer, Engine, RouterOutputs, SampledToken
from moe_watch.backends.mlx.bare import MlxBare
from moe_watch.backends.mlx.loading import LoadedMlxModel, first_use, load_model
from moe_watch.backends.mlx.sampling import MlxSampler, Prediction
from moe_watch.backends.mlx.tap import ForwardCapture
from moe_watch.backends.model_files.catalog import ModelLocation
from moe_watch.backends.protocol import EngineOptions
from moe_watch.backends.text.token_ids import check_token_ids
from moe_watch.routing.events import Progress, Sampling

PREFILL_STEP = 512
"""Tokens evaluated at once in a prompt; commands are heard in between."""

CLEAR_EVERY = 256
"""Tokens after which MLX gives back the memory of buffers that a growing context has outgrown."""


@dataclass(frozen=True, slots=True, eq=False)
class ForwardPass:
    """A launched evaluation of one token."""

    prediction: Prediction
    """Of the token after it."""
    frame: ForwardCapture
    logits: Any
    """[1, V], to draw from once more."""
    forced: bool
    """The prediction takes a given token."""


@dataclass(frozen=True, slots=True, eq=False)
class MlxState:
    """Where a run stands: its context, and all that drawing goes on from."""

    cache: Any
    position: int
    last: int | None
    latest: ForwardPass | None
    forced: tuple[int, ...]
    next_token: MlxSampler
    random: Any
    """[2], the state of MLX's random numbers."""


class MlxEngine(Engine):
    """One model and one context; all calls must come from the thread that loaded it."""

    def __init__(self, loaded: LoadedMlxModel) -> None:
        self.model = loaded.info
        self.backend = loaded.backend
        self.sees_weights = loaded.tap.sees_weights
        self.warnings = loaded.warnings
        self.context_length = loaded.context_length
        self.vocabulary = loaded.vocabulary
        self.first_use = first_use()
        self.has_chat_template = loaded.text.has_chat_template
        self._loaded = loaded
        self._next_token = MlxSampler(Sampling(seed=0), loaded.text.ends, loaded.vocabulary)
        self.reset()

    @property
    def position(self) -> int:
        return self._position

    @property
    def settled(self) -> bool:
        return self._ahead is None

    def encode(self, text: str, *, turn: bool, first: bool) -> list[int]:
        ids = self._encoded(text, turn=turn, first=first)
        self._check(ids)
        return ids

    def _encoded(self, text: str, *, turn: bool, first: bool) -> list[int]:
        codec = self._loaded.text
        if not turn:
            return codec.encode(text, first=first)
        return codec.encode_turn(text) if first else codec.encode_next_turn(text, self._last)

    def _check(self, ids: Sequence[int]) -> None:
        loaded = self._loaded
        check_token_ids(ids, loaded.embedded, self.model.name, lambda token: loaded.text.decode([token]))

    def detokenizer(self) -> Detokenizer:
        return self._loaded.text.detokenizer()

    def reset(self) -> None:
        self._cache = make_prompt_cache(self._loaded.model)
        self._position = 0
        self._last: int | None = None
        self._latest: ForwardPass | None = None
        """The evaluation of the last token in the context: it predicts the one that the next `draw` returns."""
        self._ahead: ForwardPass | None = None
        """The evaluation of that token, if it was launched already."""
        self._forced: deque[int] = deque()
        """Tokens to predict in place of drawing."""

    def configure(self, sampling: Sampling, *, reseed: bool) -> None:
        self._next_token = MlxSampler(sampling, self._loaded.text.ends, self._loaded.vocabulary)
        if reseed:
            mx.random.seed(sampling.seed)
        self._predict_again()

    def observe(self, on: bool) -> None:
        self._loaded.tap.observe(on)

    def force(self, ids: Sequence[int]) -> None:
        self._require_settled()
        self._check(ids)
        self._forced = deque(ids)
        self._predict_again()

    @contextmanager
    def fork(self) -> Iterator[Callable[[], None]]:
        self._require_settled()
        here = self._place()

        def rewind() -> None:
            self._go_to(here)
            self._cache = deepcopy(here.cache)

        try:
            rewind()  # from here on all happens in a copy
            yield rewind
        finally:
            self._go_to(here)

    def prefill(self, ids: list[int], progress: Callable[[int], None]) -> Iterator[RouterOutputs]:
        self._require_settled()
        self._check(ids)
        for start in range(0, len(ids) - 1, PREFILL_STEP):
            step = ids[start : min(start + PREFILL_STEP, len(ids) - 1)]
            routing = self._evaluate(step)
            self._advance(step)
            progress(start + len(step))
            yield routing
        # By itself, as every generated token: its logits are needed, those of the others would only cost memory.
        last = self._launch(mx.array(ids[-1:]))
        self._latest = last
        routing = last.frame.read(1)
        self._advance(ids[-1:])
        progress(len(ids))
        yield routing

    def draw(self, *, last: bool = False) -> SampledToken:
        if self._latest is None:
            raise RuntimeError("the context is empty: evaluate a prompt first")
        prediction = self._latest.prediction
        choice = prediction.read()
        current = self._ahead or self._launch(prediction.token)
        ends = choice.id in self._loaded.text.ends
        self._ahead = None if last or ends else self._launch(current.prediction.token)
        self._latest = current
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
        """Put tokens into the context; their predictions are not computed."""
        self._loaded.model(mx.array([ids]), cache=self._cache)
        frame = self._loaded.tap.frame
        mx.eval([layer.state for layer in self._cache], frame.arrays())
        return frame.read(len(ids))

    def _launch(self, token: Any) -> ForwardPass:
        """Start evaluating one token [1], and drawing the one after it; does not wait."""
        logits = self._loaded.model(token[None], cache=self._cache)
        return self._predict(logits[:, -1, :], self._loaded.tap.frame)

    def _predict(self, logits: Any, frame: ForwardCapture) -> ForwardPass:
        """Start drawing from logits [1, V]."""
        forced = self._forced.popleft() if self._forced else None
        prediction = self._next_token.predict(logits, forced)
        mx.async_eval(prediction.arrays())
        return ForwardPass(prediction, frame, logits, forced is not None)

    def _predict_again(self) -> None:
        """Draw the next token anew, if it is not under way already: what it was drawn with has changed."""
        latest = self._latest
        if self._ahead is None and latest is not None and not latest.forced:
            self._latest = self._predict(latest.logits, latest.frame)

    def _require_settled(self) -> None:
        if self._ahead is not None:
            raise RuntimeError("a drawn token is under way: draw with last=True first")

    def _place(self) -> MlxState:
        random = mx.array(mx.random.state[0])
        forced = tuple(self._forced)
        return MlxState(self._cache, self._position, self._last, self._latest, forced, self._next_token, random)

    def _go_to(self, place: MlxState) -> None:
        """The context is taken as it is, not copied."""
        self._cache, self._position, self._last = place.cache, place.position, place.last
        self._latest, self._ahead = place.latest, None
        self._forced, self._next_token = deque(place.forced), place.next_token
        high, low = place.random.tolist()
        mx.random.seed(high << 32 | low)  # the seed's two halves are the state, and it cannot be set otherwise

    def _advance(self, ids: list[int]) -> None:
        """These tokens are in the context now."""
        before, self._position = self._position, self._position + len(ids)
        self._last = ids[-1]
        if before // CLEAR_EVERY != self._position // CLEAR_EVERY:
            mx.clear_cache()


def load(location: ModelLocation, *, options: EngineOptions, progress: Callable[[Progress], None]) -> MlxEngine:
    """Load a model folder.

    Raises:
        UserError: mlx-lm cannot load it, or it has no MoE layer that can be observed.
    """
    return MlxEngine(load_model(location, options=options, progress=progress))
