"""Sampler of the next token with llama.cpp's own sampler chains, with the token's probabilities."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama_cpp import llama_cpp as lib

from moe_watch.backends.llama.bindings import sample
from moe_watch.backends.llama.logit_facts import facts
from moe_watch.backends.sampling import Choice, check_sampling
from moe_watch.routing.events import Sampling

SEEDS = int(lib.LLAMA_DEFAULT_SEED)
"""Seeds below this value are used unchanged; llama.cpp replaces this value by a random seed."""


class SamplerChain:
    """Chain of samplers that can be rearranged without resetting its random numbers.

    Args:
        seed: seed of the random numbers.
    """

    def __init__(self, seed: int) -> None:
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        self._draw = lib.llama_sampler_init_dist(seed % SEEDS)

    def arrange(self, sampling: Sampling, masked: Sequence[int], vocabulary: int) -> None:
        """Set the samplers of the chain; `masked` tokens are never sampled."""
        self._clear()
        for sampler in _samplers(sampling, masked, vocabulary):
            lib.llama_sampler_chain_add(self._chain, sampler)
        if sampling.temperature > 0:
            lib.llama_sampler_chain_add(self._chain, self._draw)

    def draw(self, context: Any) -> int:
        """Sample a token from the last logits of a context."""
        return int(sample(self._chain, context, -1))

    def random_state(self) -> Any:
        """Return a copy of the sampler with the random numbers in their current state; the caller frees it."""
        return lib.llama_sampler_clone(self._draw)

    def restore(self, random_state: Any) -> None:
        """Continue with a copy of these random numbers; `arrange` must follow."""
        self._clear()
        lib.llama_sampler_free(self._draw)
        self._draw = lib.llama_sampler_clone(random_state)

    def _clear(self) -> None:
        """Remove all samplers from the chain, and keep the one with the random numbers."""
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
    """Return the samplers before the random choice."""
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
class SamplerState:
    """Saved state of a sampler; close it when done."""

    sampling: Sampling
    random_state: list[Any]
    """Samplers with the random numbers, one per chain."""

    def close(self) -> None:
        for sampler in self.random_state:
            lib.llama_sampler_free(sampler)


class LlamaSampler:
    """Sampler of tokens with llama.cpp.

    Args:
        ends: ids of end-of-text tokens.
        vocabulary: width of the logits.
    """

    def __init__(self, ends: frozenset[int], vocabulary: int) -> None:
        self.ends = ends
        self._vocabulary = vocabulary
        self._never_stops = False
        self._sampling = Sampling(seed=0)
        self._chains = _chains(0)
        self._facts = facts(vocabulary)

    def configure(self, sampling: Sampling, *, reseed: bool) -> None:
        """Change the sampler's settings.

        Raises:
            UserError: a value is out of range; the settings stay unchanged.
        """
        check_sampling(sampling)
        if reseed:
            self.close()
            self._chains = _chains(sampling.seed)
        self._sampling = sampling
        self._never_stops = sampling.stop == "never"
        for chain, masked in zip(self._chains, ([], sorted(self.ends)), strict=True):
            chain.arrange(sampling, masked, self._vocabulary)

    def state(self) -> SamplerState:
        """Return a copy of the current state."""
        return SamplerState(self._sampling, [chain.random_state() for chain in self._chains])

    def restore(self, state: SamplerState) -> None:
        """Restore a saved state."""
        for chain, random_state in zip(self._chains, state.random_state, strict=True):
            chain.restore(random_state)
        self.configure(state.sampling, reseed=False)

    def force(self, context: Any, token: int) -> Choice:
        """Return this token with its probabilities in a context's last logits (teacher forcing)."""
        return Choice(token, *self._facts(context, token), would_stop=False)

    def draw(self, context: Any) -> Choice:
        """Sample a token from a context's last logits."""
        free, masked = self._chains
        token = free.draw(context)
        would_stop = self._never_stops and token in self.ends
        if would_stop:
            token = masked.draw(context)
        return Choice(token, *self._facts(context, token), would_stop)

    def close(self) -> None:
        for chain in self._chains:
            chain.close()


def _chains(seed: int) -> tuple[SamplerChain, SamplerChain]:
    """Return a chain over all tokens, and a chain without end-of-text tokens that replaces an end-of-text sample.

    Their random numbers must differ: otherwise the second chain would repeat the numbers that the first one used.
    """
    return SamplerChain(seed), SamplerChain(seed + 1)
