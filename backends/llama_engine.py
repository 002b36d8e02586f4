"""Running a model with stock llama.cpp, one evaluation at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llama_cpp import llama_cpp as lib

from backends.catalog import ModelLocation
from backends.engine import Bare, Detokenizer, Drawn, Engine, Routing
from backends.llama_bare import LlamaBare
from backends.llama_context import PREFILL_STEP, clear, evaluate
from backends.llama_loading import LoadedModel, load_model
from backends.llama_sampling import NextToken
from backends.llama_tap import routing
from backends.llama_text import ByteDetokenizer
from backends.protocol import EngineOptions
from backends.text import TextCodec
from routing.events import Progress, Sampling


class LlamaEngine(Engine):
    """One model and one context."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.model = loaded.info
        self.backend = loaded.backend
        self.warnings = loaded.warnings
        self.context_length = loaded.context_length
        self.has_chat_template = loaded.tokenizer.has_chat_template
        self._loaded = loaded
        self._text = TextCodec(loaded.tokenizer, loaded.info.name)
        self._ends = self._text.ends
        self._next_token = NextToken(self._ends, loaded.tokenizer.vocabulary)
        self.configure(Sampling(seed=0), reseed=True)
        self.reset()

    @property
    def position(self) -> int:
        return self._position

    def encode(self, text: str, *, turn: bool, first: bool) -> list[int]:
        if not turn:
            return self._text.encode(text, first=first)
        return self._text.encode_turn(text) if first else self._text.encode_next_turn(text, self._last)

    def detokenizer(self) -> Detokenizer:
        return ByteDetokenizer(self._loaded.tokenizer)

    def reset(self) -> None:
        clear(self._loaded.context)
        self._position = 0
        self._last: int | None = None

    def configure(self, sampling: Sampling, *, reseed: bool) -> None:
        self._next_token.configure(sampling, reseed=reseed)

    def prefill(self, ids: list[int], progress: Callable[[int], None]) -> Iterator[Routing]:
        for start in range(0, len(ids), PREFILL_STEP):
            step = ids[start : start + PREFILL_STEP]
            seen = self._evaluate(step)
            progress(start + len(step))
            yield seen

    def draw(self, *, last: bool = False) -> Drawn:  # noqa: ARG002 - nothing is ever begun ahead
        if self._last is None:
            raise RuntimeError("the context is empty: evaluate a prompt first")
        choice = self._next_token.draw(self._loaded.context)
        return Drawn(
            id=choice.id,
            logprob=choice.logprob,
            top_margin=choice.top_margin,
            choice_gap=choice.choice_gap,
            would_stop=choice.would_stop,
            ends=choice.id in self._ends,
            routing=self._evaluate([choice.id]),
        )

    def bare(self) -> Bare:
        return LlamaBare(self._loaded.model, self._loaded.settings)

    def close(self) -> None:
        self._next_token.close()
        lib.llama_free(self._loaded.context)
        lib.llama_model_free(self._loaded.model)

    def _evaluate(self, ids: list[int]) -> Routing:
        """Put tokens into the context; the prediction after the last one can be drawn from then."""
        evaluate(self._loaded.context, ids)
        self._position += len(ids)
        self._last = ids[-1]
        return routing(self._loaded.tap.take(), self.model.layers, len(ids), self._loaded.gate.logits)


def load(location: ModelLocation, *, options: EngineOptions, progress: Callable[[Progress], None]) -> LlamaEngine:
    """Load a GGUF file.

    Raises:
        UserError: llama.cpp cannot load it, or it has no MoE layer that can be observed.
    """
    return LlamaEngine(load_model(location, options=options, progress=progress))
