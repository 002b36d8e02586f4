"""Engine on stock llama.cpp, one evaluation at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec
from llama_cpp import llama_cpp as lib
from msgspec import UNSET, UnsetType

from moe_watch.backends.engine import Bare, Detokenizer, Engine, RouterOutputs, SampledToken, Unobserved
from moe_watch.backends.llama.baseline_loop import LlamaBare
from moe_watch.backends.llama.context import clear, evaluate, prefill_step, truncate
from moe_watch.backends.llama.fork import SavedPosition
from moe_watch.backends.llama.loading import LoadedLlamaModel, load_model
from moe_watch.backends.llama.memory_sizes import breakdown
from moe_watch.backends.llama.sampling import LlamaSampler, SamplerState
from moe_watch.backends.llama.scoring.scorer import LlamaScorer, check_ids
from moe_watch.backends.llama.tap.gate_check import GateCheck
from moe_watch.backends.llama.tap.observation import rows_observer
from moe_watch.backends.llama.text import ByteDetokenizer
from moe_watch.backends.model_files.catalog import ModelLocation
from moe_watch.backends.protocol import EngineOptions
from moe_watch.backends.sampling import Choice
from moe_watch.backends.tap_rows import RowFormat
from moe_watch.backends.text.tokenizer import TextCodec
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Progress, Sampling
from moe_watch.routing.header import Buffer
from moe_watch.routing.router.masks import ExpertMask

Kind = Literal["weights", "kv", "compute"]
KINDS: tuple[Kind, Kind, Kind] = ("weights", "kv", "compute")
"""Order of the sizes in `breakdown`; recurrent states count as `kv`, the buffer of outputs is in none."""


@dataclass(slots=True, eq=False)
class ContextTokens:
    """Tokens in the context, and tokens that follow without sampling."""

    position: int = 0
    """Number of tokens in the context."""
    last: int | None = None
    """The last one; None in an empty context."""
    forced: deque[int] = field(default_factory=deque)
    """Tokens to return in place of sampled ones."""

    def copy(self) -> ContextTokens:
        return replace(self, forced=self.forced.copy())


@dataclass(frozen=True, slots=True, eq=False)
class LlamaState:
    """Saved state of a run: its context and the whole state of its sampler."""

    saved: SavedPosition
    tokens: ContextTokens
    sampler_state: SamplerState

    def close(self) -> None:
        self.saved.release()
        self.sampler_state.close()


class LlamaEngine(Engine):
    """Engine with one model and one context."""

    codec: TextCodec

    def __init__(self, loaded: LoadedLlamaModel) -> None:
        self.model = loaded.info
        self.backend = msgspec.structs.replace(loaded.backend, buffers=_buffers(loaded.context))
        self.warnings = loaded.warnings
        self.context_length = loaded.context_length
        self.vocabulary = loaded.tokenizer.vocabulary
        self.groups, self.why_no_mask = loaded.mask_nodes.groups, loaded.mask_nodes.problem
        self._loaded = loaded
        self._rows = _row_format(loaded)
        self._gate_check = GateCheck(loaded.gate, loaded.tap)
        tokenizer = loaded.tokenizer
        self.codec = TextCodec(tokenizer, loaded.info.name, tokenizer.jinja_template, tokenizer)
        self._observes = True
        self._next_token = LlamaSampler(self.codec.ends, loaded.tokenizer.vocabulary)
        self.configure(Sampling(seed=0), reseed=True)
        self.reset()

    @property
    def position(self) -> int:
        return self._tokens.position

    @property
    def settled(self) -> bool:
        return True  # no evaluation is started ahead

    def encode(self, text: str, *, turn: bool, first: bool) -> list[int]:
        if not turn:
            return self.codec.encode(text, first=first)
        return self.codec.encode_turn(text) if first else self.codec.encode_next_turn(text, self._tokens.last)

    def detokenizer(self) -> Detokenizer:
        return ByteDetokenizer(self._loaded.tokenizer)

    def reset(self) -> None:
        clear(self._loaded.context)
        self._gate_check.reset()
        self._tokens = ContextTokens()

    def truncate(self, length: int) -> bool:
        if not truncate(self._loaded.model, self._loaded.context, length):
            return False
        self._tokens = ContextTokens(length)
        return True

    def configure(self, sampling: Sampling, *, reseed: bool) -> None:
        self._next_token.configure(sampling, reseed=reseed)

    def observe(self, on: bool) -> None:
        self._observes = on
        self._loaded.tap.observe(on)

    def _apply_mask(self, mask: ExpertMask) -> None:
        self._loaded.tap.mask({layer: sorted(experts) for layer, experts in mask.experts.items()})

    def take_warnings(self) -> list[str]:
        return self._gate_check.take_warnings()

    def force(self, ids: Sequence[int]) -> None:
        check_ids(ids, self._loaded)
        self._tokens.forced = deque(ids)

    @contextmanager
    def fork(self) -> Iterator[Callable[[], None]]:
        here = self._save()
        try:
            yield lambda: self._restore(here)
        finally:
            self._restore(here)
            here.close()

    def prefill(self, ids: list[int], progress: Callable[[int], None]) -> Iterator[RouterOutputs]:
        check_ids(ids, self._loaded)
        longest = prefill_step(self._loaded.context)
        for start in range(0, len(ids), longest):
            step = ids[start : start + longest]
            seen = self._evaluate(step)
            progress(start + len(step))
            yield seen

    def draw(self, *, last: bool = False) -> SampledToken:  # noqa: ARG002 - no evaluation is started ahead
        if self._tokens.last is None:
            raise RuntimeError("the context is empty: evaluate a prompt first")
        choice = self._choose()
        return SampledToken(
            id=choice.id,
            logprob=choice.logprob,
            top_margin=choice.top_margin,
            choice_gap=choice.choice_gap,
            would_stop=choice.would_stop,
            ends=choice.id in self._next_token.ends,
            routing=self._evaluate([choice.id]),
        )

    def _choose(self) -> Choice:
        if self._tokens.forced:
            return self._next_token.force(self._loaded.context, self._tokens.forced.popleft())
        return self._next_token.draw(self._loaded.context)

    def bare(self) -> Bare:
        return LlamaBare(self._loaded.model, self._loaded.settings)

    def scorer(self, window: int, *, usage: bool, saliency: bool) -> LlamaScorer:
        return LlamaScorer(self._loaded, self._rows, window, usage=usage, saliency=saliency)

    def close(self) -> None:
        self._next_token.close()
        lib.llama_free(self._loaded.context)
        lib.llama_model_free(self._loaded.model)

    def _save(self) -> LlamaState:
        saved = SavedPosition.save(self._loaded.context, self.vocabulary)
        return LlamaState(saved, self._tokens.copy(), self._next_token.state())

    def _restore(self, state: LlamaState) -> None:
        state.saved.restore()
        self._tokens = state.tokens.copy()
        self._next_token.restore(state.sampler_state)

    def _evaluate(self, ids: list[int]) -> RouterOutputs:
        """Evaluate tokens and return their routing; the next token can be sampled afterwards."""
        first = self._tokens.position
        if self._observes:
            self._gate_check.before_evaluation()
        evaluate(self._loaded.context, ids)
        self._tokens.position += len(ids)
        self._tokens.last = ids[-1]
        if not self._observes:
            self._loaded.tap.pop()  # raises if a mask could not be applied
            return Unobserved.of(len(ids), len(self.model.layers))
        return self._gate_check.routing(self._rows, first, len(ids))


def _buffers(context: Any) -> list[Buffer] | UnsetType:
    """Return the buffers of a context and its model; unset if this build does not report them."""
    with suppress(UserError):
        return [
            Buffer(device=name, kind=kind, bytes=size)
            for name, _, sizes in breakdown(context)
            for kind, size in zip(KINDS, sizes, strict=True)
            if size
        ]
    return UNSET


def _row_format(loaded: LoadedLlamaModel) -> RowFormat:
    """Return the format of the tap's rows."""
    info = loaded.info
    form = RowFormat(
        layers=info.layers,
        experts=info.experts,
        experts_per_token=max(info.k_by_layer, default=0),
        logits=loaded.gate.logits,
        is_scored=loaded.gate.is_scored,
        is_even=isinstance(info.experts_per_token, int),
    )
    return replace(form, observe=rows_observer(form, info.gate))


def load(location: ModelLocation, *, options: EngineOptions, progress: Callable[[Progress], None]) -> LlamaEngine:
    """Load a GGUF file and return its engine.

    Raises:
        UserError: llama.cpp cannot load it, or its experts cannot be observed.
    """
    return LlamaEngine(load_model(location, options=options, progress=progress))
