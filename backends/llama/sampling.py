"""Drawing the next token with llama.cpp's own samplers, and what the model thought of it."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama_cpp import llama_cpp as lib

from moe_watch.backends.llama.bindings import sample
from moe_watch.backends.llama.prediction import facts
from moe_watch.backends.sampling import Choice, check_sampling
from moe_watch.routing.events import Sampling

SEEDS = int(lib.LLAMA_DEFAULT_SEED)
"""Seeds below this one are taken as they are; this one stands for chance."""


class SamplerChain:
    """A chain of samplers that can be rearranged while its random numbers go on.

    Args:
        seed: of its random numbers.
    """

    def __init__(self, seed: int) -> None:
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        self._draw = lib.llama_sampler_init_dist(seed % SEEDS)

    def arrange(self, sampling: Sampling, masked: Sequence[int], vocabulary: int) -> None:
        """Draw like this from now on; `masked` tokens never."""
        self._clear()
        for sampler in _samplers(sampling, masked, vocabulary):
            lib.llama_sampler_chain_add(self._chain, sampler)
        if sampling.temperature > 0:
            lib.llama_sampler_chain_add(self._chain, self._draw)

    def draw(self, context: Any) -> int:
        """A token from the last prediction of a context."""
        return int(sample(self._chain, context, -1))

    def random_numbers(self) -> Any:
        """A copy of the sampler that has them, as it is now; free it when done."""
        return lib.llama_sampler_clone(self._draw)

    def go_on_from(self, random_numbers: Any) -> None:
        """Draw with a copy of these from now on; `arrange` must follow."""
        self._clear()
        lib.llama_sampler_free(self._draw)
        self._draw = lib.llama_sampler_clone(random_numbers)

    def _clear(self) -> None:
        """Take all samplers out, and keep the one that has the random numbers."""
        kept = ctypes.addressof(self._draw.contents)
        while lib.llama_sampler_chain_n(self._chain):
            sampler = lib.llama_sampler_chain_remove(self._chain, 0)
            if ctypes.addressof(sampler.contents) != kept:
                lib.llama_sampler_free(sampler)

    def close(self) -> None:
        self._clear()
        lib.llama_sampler_free(self._draw)
        lib.llama_sampler_free(self._chain)


def _samplers(sampling: Sampling, masked: Sequence[int], vocabulary: int) -> list[Any]:
    """What comes before the draw itself."""
    samplers = []
    if masked:
        biases = (lib.llama_logit_bias * len(masked))(*((token, -math.inf) for token in masked))
        samplers.append(lib.llama_sampler_init_logit_bias(vocabulary, len(masked), biases))
    if sampling.temperature == 0:
        return [*samplers, lib.llama_sampler_init_greedy()]
    if 0 < sampling.top_k < vocabulary:
        samplers.append(lib.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1:
        samplers.append(lib.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.temperature != 1:
        samplers.append(lib.llama_sampler_init_temp(sampling.temperature))
    return samplers


@dataclass(frozen=True, slots=True, eq=False)
class DrawState:
    """All that drawing goes on from; close it when done."""

    sampling: Sampling
    random_numbers: list[Any]
    """Samplers that have them, one per chain."""

    def close(self) -> None:
        for sampler in self.random_numbers:
            lib.llama_sampler_free(sampler)


class LlamaSampler:
    """How tokens are drawn.

    Args:
        ends: ids of end-of-text tokens.
        vocabulary: width of the logits.
    """

    def __init__(self, ends: frozenset[int], vocabulary: int) -> None:
        self._ends = ends
        self._vocabulary = vocabulary
        self._never_stops = False
        self._sampling = Sampling(seed=0)
        self._chains = _chains(0)
        self._facts = facts(vocabulary)

    def configure(self, sampling: Sampling, *, reseed: bool) -> None:
        """Draw like this from now on.

        Raises:
            UserError: a value is out of range; nothing has changed then.
        """
        check_sampling(sampling)
        if reseed:
            self.close()
            self._chains = _chains(sampling.seed)
        self._sampling = sampling
        self._never_stops = sampling.stop == "never"
        for chain, masked in zip(self._chains, ([], sorted(self._ends)), strict=True):
            chain.arrange(sampling, masked, self._vocabulary)

    def state(self) -> DrawState:
        """What drawing would go on from now."""
        return DrawState(self._sampling, [chain.random_numbers() for chain in self._chains])

    def go_on_from(self, state: DrawState) -> None:
        """Draw as if nothing had been drawn since."""
        for chain, random_numbers in zip(self._chains, state.random_numbers, strict=True):
            chain.go_on_from(random_numbers)
        self.configure(state.sampling, reseed=False)

    def take(self, context: Any, token: int) -> Choice:
        """Choose this token, whatever a context's last prediction is."""
        return Choice(token, *self._facts(context, token), would_stop=False)

    def draw(self, context: Any) -> Choice:
        """Draw from a context's last prediction."""
        free, masked = self._chains
        token = free.draw(context)
        would_stop = self._never_stops and token in self._ends
        if would_stop:
            token = masked.draw(context)
        return Choice(token, *self._facts(context, token), would_stop)

    def close(self) -> None:
        for chain in self._chains:
            chain.close()


def _chains(seed: int) -> tuple[SamplerChain, SamplerChain]:
    """One that may draw every token, and one that draws instead where it drew an end of text.

    Their random numbers must differ: the second one would otherwise choose with those that the first one had before.
    """
    return SamplerChain(seed), SamplerChain(seed + 1)
