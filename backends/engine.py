"""What the worker needs of an engine; `backends/mlx/engine.py` is one.

An engine holds one model and one context. It evaluates given tokens, and it draws and evaluates new ones.
It knows nothing of chunks, commands, pacing or events.
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

from moe_watch.routing.events import BackendInfo, ModelInfo, Sampling

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class RouterOutputs:
    """Raw router output for `T` successive input tokens, before any arithmetic of ours.

    Layers that the engine did not compute for these tokens are None; single rows that it did not compute are −1 in
    `experts` and NaN in `logits`.
    """

    tokens: int
    experts: list[Ints | None]
    """Per MoE layer [T, k], in the engine's own order."""
    logits: list[Floats | None]
    """Per MoE layer [T, E], as the router gave them."""
    weights: list[Floats | None] = field(default_factory=list)
    """Per MoE layer [T, k], as the model applies them to `experts`; empty if the engine does not see them."""


@dataclass(frozen=True, slots=True, eq=False)
class Unobserved(RouterOutputs):
    """Of `T` tokens that were evaluated while nobody looked on: no layer's is known."""

    @classmethod
    def of(cls, tokens: int, layers: int) -> Unobserved:
        """So many tokens of a model with so many MoE layers."""
        return cls(tokens=tokens, experts=[None] * layers, logits=[None] * layers)


class SampledToken(msgspec.Struct, frozen=True, eq=False):
    """One generated token: drawn from the prediction before it, then evaluated."""

    id: int
    logprob: float
    top_margin: float
    choice_gap: float
    would_stop: bool
    ends: bool
    """It is an end-of-text token."""
    routing: RouterOutputs


class Detokenizer(Protocol):
    """Turns the ids of one context into text, token by token."""

    def add(self, token: int) -> str:
        """What this token adds; a character that needs several tokens comes whole, with the last of them."""


class Bare(ABC):
    """An engine's own way to run the weights that it has loaded, with nothing observed and a context of its own.

    What observing costs is measured against it.
    """

    @abstractmethod
    def prefill(self, ids: list[int]) -> None:
        """Evaluate these tokens in an empty context, so that the next one can be drawn; waits until that is done."""

    @abstractmethod
    def decode(self, ids: list[int]) -> Generator[int, None, None]:
        """Evaluate these tokens, and generate for ever. Close it before anything else is run."""


class Engine(ABC):
    """One loaded model with one context."""

    model: ModelInfo
    backend: BackendInfo
    sees_weights: bool = False
    """`RouterOutputs` carries the weights that the model applies."""
    has_chat_template: bool
    context_length: int
    vocabulary: int
    """Token ids are below this."""
    warnings: list[str]
    first_use: str | None = None
    """Words for work that makes the first evaluation slow; None if there is none, or once it is done."""

    @property
    @abstractmethod
    def position(self) -> int:
        """Tokens in the context, those drawn and not yet returned left out."""

    @property
    @abstractmethod
    def settled(self) -> bool:
        """Nothing is begun ahead: whatever is set now holds from the next token on."""

    @abstractmethod
    def encode(self, text: str, *, turn: bool, first: bool) -> list[int]:
        """Token ids of `text`: as a user turn through the chat template, or raw; `first` adds what begins a context."""

    @abstractmethod
    def detokenizer(self) -> Detokenizer:
        """A detokeniser for an empty context."""

    @abstractmethod
    def reset(self) -> None:
        """Empty the context."""

    @abstractmethod
    def configure(self, sampling: Sampling, *, reseed: bool) -> None:
        """Draw the following tokens like this. `stop="never"` masks end-of-text and marks where it was drawn.

        While something is begun ahead, that token is still drawn as before.
        """

    @abstractmethod
    def observe(self, on: bool) -> None:
        """Look on at the routers from the next evaluation on, or leave the model alone: routing is None then."""

    def take_warnings(self) -> list[str]:
        """Return what was found out about the run's numbers since the last call, a line each, and forget it."""
        return []

    @abstractmethod
    def force(self, ids: Sequence[int]) -> None:
        """Have the next draws take these tokens, with what the model thought of them; then it draws again.

        Nothing may be begun ahead; `reset` forgets what was not taken.
        """

    @abstractmethod
    def fork(self) -> AbstractContextManager[Callable[[], None]]:
        """Come back to this place again and again: `with engine.fork() as rewind`.

        Each `rewind` puts context, prediction, and everything that drawing goes on from (random numbers included)
        back to what they were when the fork began; so does its end. Nothing may be begun ahead, and a fork must not
        be reset or forked. Memory: the context is shared where the engine can, and copied where it cannot.
        """

    @abstractmethod
    def prefill(self, ids: list[int], progress: Callable[[int], None]) -> Iterator[RouterOutputs]:
        """Evaluate given tokens; yields their routing in order. `progress` gets the number done so far."""

    @abstractmethod
    def draw(self, *, last: bool = False) -> SampledToken:
        """The next generated token, with its routing.

        To keep the device busy an engine starts on the token after the one it returns. With `last` it does not: after
        the call the context holds exactly the tokens returned, and given tokens may be evaluated. A later `draw`
        without anything between goes on as if `last` had not been given.
        """

    @abstractmethod
    def bare(self) -> Bare:
        """The same weights without observation. Must not be used while drawn tokens of this context are wanted."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the model."""
