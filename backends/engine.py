"""Interface between the worker and an engine; `backends/mlx/engine.py` implements it.

An engine holds one model and one context. It evaluates given tokens, and it samples and evaluates new ones. Chunks,
commands, generation rate and events are not its concern.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import BackendInfo, ModelInfo, ModelMemory, Sampling, TemplateSource
from moe_watch.routing.router.masks import ExpertGroups, ExpertMask, check_mask

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

Messages = list[dict[str, str]]
"""Conversation: the `role` (`system`, `user`, `assistant`) and the `content` of each message."""


@dataclass(frozen=True, slots=True, eq=False)
class RouterOutputs:
    """Raw router output for `T` successive input tokens, before any computation by moe-watch.

    A layer that the engine did not compute for these tokens is None. A single row that it did not compute is −1 in
    `experts` and NaN in `logits`.
    """

    tokens: int
    experts: list[Ints | None]
    """Per MoE layer [T, k], in the engine's own order."""
    logits: list[Floats | None]
    """Per MoE layer [T, E], as the router computed them."""
    weights: list[Floats | None] = field(default_factory=list)
    """Per MoE layer [T, k], as the model applies them to `experts`; empty if the tap does not read them."""


@dataclass(frozen=True, slots=True, eq=False)
class Unobserved(RouterOutputs):
    """Router output of `T` tokens that were evaluated with the tap off: every layer is None."""

    @classmethod
    def of(cls, tokens: int, layers: int) -> Unobserved:
        """Return the output for this number of tokens of a model with this number of MoE layers."""
        return cls(tokens=tokens, experts=[None] * layers, logits=[None] * layers)


class SampledToken(msgspec.Struct, frozen=True, eq=False):
    """One generated token: sampled from the logits of the token before it, then evaluated."""

    id: int
    logprob: float
    top_margin: float
    choice_gap: float
    would_stop: bool
    ends: bool
    """The token is an end-of-text token."""
    routing: RouterOutputs


class Detokenizer(Protocol):
    """Incremental converter from the token ids of one context to text."""

    def add(self, token: int) -> str:
        """Return the text that this token adds; a character of several tokens is returned with the last of them."""


class Codec(Protocol):
    """Tokenizer and chat template of a model; `moe_watch.backends.text.tokenizer.TextCodec`."""

    def __hash__(self) -> int: ...

    @property
    def has_chat_template(self) -> bool: ...

    @property
    def template(self) -> TemplateSource | None:
        """Origin of the chat template; None without one."""

    @property
    def ends(self) -> frozenset[int]:
        """Ids of end-of-text tokens."""

    @property
    def begin(self) -> int | None:
        """Id of the token that the tokenizer puts in front of every text; None if it puts none there."""

    def is_special(self, token: int) -> bool:
        """Return whether a token is one of the vocabulary's special or added tokens."""

    def encode(self, text: str, *, first: bool, plain: bool = False) -> list[int]:
        """Return the token ids of raw text; `first` adds the special tokens that begin a text.

        With `plain`, special tokens that are written in the text are plain text.
        """

    def decode(self, ids: list[int]) -> str:
        """Return the text of these tokens, including special ones."""

    def render(self, conversations: Sequence[Messages]) -> list[str]:
        """Return the text of each conversation as the chat template writes it.

        After a message of the user the beginning of the model's answer follows.

        Raises:
            UserError: the template fails.
        """

    def replace_template(self, source: str, name: str) -> None:
        """Use another chat template: its Jinja source, and the name of its file."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoredBatch:
    """Output of successive given tokens `T`; valid until the next batch is evaluated."""

    logits: Floats
    """[T, V], float32: prediction of the token after each."""
    routing: RouterOutputs
    """Every row is computed; `Unobserved` without usage."""
    norms: list[Floats | None] = field(default_factory=list)
    """Per MoE layer [T, k]: ‖weight · f(x)‖₂ of `routing.experts`, with the weight as the model applies it; empty if
    not requested."""


class Scorer(ABC):
    """Evaluation of given tokens with a prediction and a routing for every one, in a context of its own."""

    @abstractmethod
    def mask(self, mask: ExpertMask) -> None:
        """Switch these experts off in the next evaluations, and all others on."""

    def observe(self, on: bool) -> None:  # noqa: B027 - reading what is not needed is slow, and not wrong
        """Set whether the next evaluations read the routing and the norms; they do until this is called."""

    @abstractmethod
    def evaluate(self, ids: Sequence[int]) -> Iterator[ScoredBatch]:
        """Evaluate tokens in an empty context; yields them in order, in batches.

        Raises:
            UserError: a token is outside the vocabulary, or the evaluation fails.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the context."""


class Bare(ABC):
    """The engine library's own generation loop on the loaded weights, without a tap and in a separate context.

    It is the baseline of the observation cost.
    """

    @abstractmethod
    def prefill(self, ids: list[int]) -> None:
        """Evaluate these tokens in an empty context, so that the next one can be sampled; wait for the device."""

    @abstractmethod
    def decode(self, ids: list[int]) -> Generator[int, None, None]:
        """Evaluate these tokens, then yield generated tokens without end. Close it before any other evaluation."""


class Engine(ABC):
    """One loaded model with one context."""

    model: ModelInfo
    backend: BackendInfo
    sees_weights: bool = False
    """`RouterOutputs` contains the weights that the model applies."""
    codec: Codec
    context_length: int
    vocabulary: int
    """Token ids are below this."""
    warnings: list[str]
    groups: ExpertGroups | None = None
    """Groups of experts that the router selects from; None without groups."""
    why_no_mask: str = ""
    """Reason why experts of this model cannot be switched off; empty if they can."""
    first_use: str | None = None
    """Description of work that makes the first evaluation slow; None if there is none, or once it is done."""

    @property
    def has_chat_template(self) -> bool:
        return self.codec.has_chat_template

    @property
    @abstractmethod
    def position(self) -> int:
        """Number of tokens in the context, without tokens that are sampled and not yet returned."""

    @property
    @abstractmethod
    def settled(self) -> bool:
        """No evaluation was started ahead: a setting made now applies from the next token on."""

    @abstractmethod
    def encode(self, text: str, *, turn: bool, first: bool) -> list[int]:
        """Return the token ids of `text`, as a user turn through the chat template or raw.

        `first` adds the tokens that begin a context.
        """

    @abstractmethod
    def detokenizer(self) -> Detokenizer:
        """Return a detokenizer for an empty context."""

    @abstractmethod
    def reset(self) -> None:
        """Empty the context."""

    def truncate(self, length: int) -> bool:  # noqa: ARG002 - an engine that cannot
        """Remove all tokens after the first `length` ones; tokens must be evaluated before the next `draw`.

        No evaluation may be started ahead.

        Returns:
            Whether it was done. An engine whose caches cannot be cut returns False, and `reset` must follow.
        """
        return False

    @abstractmethod
    def configure(self, sampling: Sampling, *, reseed: bool) -> None:
        """Set the sampler for the following tokens. `stop="never"` masks end-of-text and flags where it was sampled.

        A token whose evaluation was started ahead is still sampled with the settings before.
        """

    @abstractmethod
    def observe(self, on: bool) -> None:
        """Turn the tap on or off from the next evaluation on. With the tap off, every layer's routing is None."""

    def mask(self, mask: ExpertMask) -> None:
        """Switch these experts off from the next evaluation on, and all others on. No evaluation may be started ahead.

        A masked expert that is selected nevertheless ends the run with a `UserError`.

        Raises:
            UserError: the mask is refused, see `check_mask`.
        """
        self.check_mask(mask)
        self._apply_mask(mask)

    def check_mask(self, mask: ExpertMask) -> None:
        """Refuse a mask that cannot be applied; no mask is refused if it has no expert.

        Raises:
            UserError: the model cannot be masked (`why_no_mask`), or see `moe_watch.routing.router.masks.check_mask`.
        """
        if mask and self.why_no_mask:
            raise UserError(f"experts of {self.model.name} cannot be switched off: {self.why_no_mask}")
        check_mask(mask, self.model, self.groups)

    def _apply_mask(self, mask: ExpertMask) -> None:
        raise NotImplementedError

    def scorer(self, window: int, *, usage: bool, saliency: bool) -> Scorer:
        """Return an evaluation of given tokens in a context of this length, beside the context of the run.

        Args:
            window: largest number of tokens of one evaluation.
            usage: read the routing.
            saliency: read the norms of the experts' weighted outputs; needs `usage`.

        Raises:
            UserError: there is not enough memory, or this model's norms cannot be read.
        """
        raise NotImplementedError

    def memory(self) -> ModelMemory | None:
        """Return the counters of the engine's allocator; None if its buffers do not change after loading."""
        return None

    def take_warnings(self) -> list[str]:
        """Return and clear the warnings about the run's numbers since the last call, one line each."""
        return []

    @abstractmethod
    def force(self, ids: Sequence[int]) -> None:
        """Make the next draws return these tokens, with their log-probabilities, before sampling continues.

        This is teacher forcing. No evaluation may be started ahead. `reset` drops the tokens that were not returned.
        """

    @abstractmethod
    def fork(self) -> AbstractContextManager[Callable[[], None]]:
        """Return a context manager that restores this position any number of times: `with engine.fork() as rewind`.

        Each `rewind` restores the context, the logits and the whole sampler state (random numbers included) to their
        values at the start of the fork; so does leaving the context manager. No evaluation may be started ahead, and
        a fork must not be reset or forked. Memory: the KV cache is shared if the engine can, otherwise copied.
        """

    @abstractmethod
    def prefill(self, ids: list[int], progress: Callable[[int], None]) -> Iterator[RouterOutputs]:
        """Evaluate given tokens and yield their routing in order. `progress` receives the number evaluated so far."""

    @abstractmethod
    def draw(self, *, last: bool = False) -> SampledToken:
        """Sample and evaluate the next token, and return it with its routing.

        To keep the device busy, an engine starts the evaluation of the token after the returned one. With `last` it
        does not: after the call the context holds exactly the returned tokens, and given tokens may be evaluated. If
        the next call is another `draw`, the result is the same as without `last`.
        """

    @abstractmethod
    def bare(self) -> Bare:
        """Return the baseline loop on the same weights. Do not use it while tokens of this context are still needed."""

    @abstractmethod
    def close(self) -> None:
        """Release the model."""
