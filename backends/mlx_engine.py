"""Running a model with mlx-lm, one token ahead of what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from backends.catalog import ModelLocation
from backends.engine import Bare, Detokenizer, Drawn, Engine, Routing
from backends.mlx_bare import MlxBare
from backends.mlx_loading import LoadedModel, load_model
from backends.mlx_sampling import NextToken, Prediction
from backends.mlx_tap import Frame
from backends.protocol import EngineOptions
from routing.events import Progress, Sampling

PREFILL_STEP = 512
"""Tokens evaluated at once in a prompt; commands are heard in between."""

CLEAR_EVERY = 256
"""Tokens after which MLX gives back the memory of buffers that a growing context has outgrown."""


@dataclass(frozen=True, slots=True, eq=False)
class ForwardPass:
    """A launched evaluation of one token."""

    prediction: Prediction
    """Of the token after it."""
    frame: Frame


class MlxEngine(Engine):
    """One model and one context; all calls must come from the thread that loaded it."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.model = loaded.info
        self.backend = loaded.backend
        self.sees_weights = loaded.tap.sees_weights
        self.warnings = loaded.warnings
        self.context_length = loaded.context_length
        self.has_chat_template = loaded.text.has_chat_template
        self._loaded = loaded
        self._next_token = NextToken(Sampling(seed=0), loaded.text.ends, loaded.vocabulary)
        self.reset()

    @property
    def position(self) -> int:
        return self._position

    def encode(self, text: str, *, turn: bool, first: bool) -> list[int]:
        codec = self._loaded.text
        if not turn:
            return codec.encode(text, first=first)
        return codec.encode_turn(text) if first else codec.encode_next_turn(text, self._last)

    def detokenizer(self) -> Detokenizer:
        return self._loaded.text.detokenizer()

    def reset(self) -> None:
        self._cache = make_prompt_cache(self._loaded.model)
        self._position = 0
        self._last: int | None = None
        self._prediction: Prediction | None = None
        """Of the token that the next `draw` returns."""
        self._ahead: ForwardPass | None = None
        """The evaluation of that token, if it was launched already."""

    def configure(self, sampling: Sampling, *, reseed: bool) -> None:
        self._next_token = NextToken(sampling, self._loaded.text.ends, self._loaded.vocabulary)
        if reseed:
            mx.random.seed(sampling.seed)

    def prefill(self, ids: list[int], progress: Callable[[int], None]) -> Iterator[Routing]:
        if self._ahead is not None:
            raise RuntimeError("a drawn token is under way: draw with last=True before evaluating given ones")
        for start in range(0, len(ids) - 1, PREFILL_STEP):
            step = ids[start : min(start + PREFILL_STEP, len(ids) - 1)]
            routing = self._evaluate(step)
            self._advance(step)
            progress(start + len(step))
            yield routing
        # By itself, as every generated token: its logits are needed, those of the others would only cost memory.
        last = self._launch(mx.array(ids[-1:]))
        self._prediction = last.prediction
        routing = last.frame.read()
        self._advance(ids[-1:])
        progress(len(ids))
        yield routing

    def draw(self, *, last: bool = False) -> Drawn:
        if self._prediction is None:
            raise RuntimeError("the context is empty: evaluate a prompt first")
        choice = self._prediction.read()
        current = self._ahead or self._launch(self._prediction.token)
        ends = choice.id in self._loaded.text.ends
        self._ahead = None if last or ends else self._launch(current.prediction.token)
        self._prediction = current.prediction
        routing = current.frame.read()
        self._advance([choice.id])
        return Drawn(
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

    def _evaluate(self, ids: list[int]) -> Routing:
        """Put tokens into the context; their predictions are not computed."""
        self._loaded.model(mx.array([ids]), cache=self._cache)
        frame = self._loaded.tap.frame
        mx.eval([layer.state for layer in self._cache], frame.arrays())
        return frame.read()

    def _launch(self, token: Any) -> ForwardPass:
        """Start evaluating one token [1], and drawing the one after it; does not wait."""
        logits = self._loaded.model(token[None], cache=self._cache)
        launched = ForwardPass(self._next_token.predict(logits[:, -1, :]), self._loaded.tap.frame)
        mx.async_eval(launched.prediction.token, launched.prediction.facts)
        return launched

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
