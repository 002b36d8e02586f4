"""Drawing the next token with llama.cpp's own samplers, and what the model thought of it."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as lib

from backends.engine import Floats
from backends.sampling import Choice, check_sampling
from routing.events import Sampling

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
        return int(lib.llama_sampler_sample(self._chain, context, -1))

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
    return [*samplers, lib.llama_sampler_init_temp(sampling.temperature)]


class NextToken:
    """How tokens are drawn.

    Args:
        ends: ids of end-of-text tokens.
        vocabulary: width of the logits.
    """

    def __init__(self, ends: frozenset[int], vocabulary: int) -> None:
        self._ends = ends
        self._vocabulary = vocabulary
        self._never_stops = False
        self._chains = _chains(0)

    def configure(self, sampling: Sampling, *, reseed: bool) -> None:
        """Draw like this from now on.

        Raises:
            UserError: a value is out of range; nothing has changed then.
        """
        check_sampling(sampling)
        if reseed:
            self.close()
            self._chains = _chains(sampling.seed)
        self._never_stops = sampling.stop == "never"
        for chain, masked in zip(self._chains, ([], sorted(self._ends)), strict=True):
            chain.arrange(sampling, masked, self._vocabulary)

    def draw(self, context: Any) -> Choice:
        """Draw from a context's last prediction."""
        free, masked = self._chains
        token = free.draw(context)
        would_stop = self._never_stops and token in self._ends
        if would_stop:
            token = masked.draw(context)
        return Choice(token, *_facts(self._logits(context), token), would_stop)

    def _logits(self, context: Any) -> Floats:
        """[V], in llama.cpp's own memory."""
        first = lib.llama_get_logits_ith(context, -1)
        return np.ctypeslib.as_array(first, (self._vocabulary,))

    def close(self) -> None:
        for chain in self._chains:
            chain.close()


def _chains(seed: int) -> tuple[SamplerChain, SamplerChain]:
    """One that may draw every token, and one that draws instead where it drew an end of text.

    Their random numbers must differ: the second one would otherwise choose with those that the first one had before.
    """
    return SamplerChain(seed), SamplerChain(seed + 1)


def _facts(logits: Floats, token: int) -> tuple[float, float, float]:
    """Log-probability of the token, and the likeliest token's lead over the second one and over it."""
    best = int(logits.argmax())
    shifted = logits - logits[best]
    powers = np.exp(shifted)
    total = float(powers.sum(dtype=np.float64))
    powers[best] = 0.0
    behind = float(shifted[token])
    second = float(powers.max())
    return behind - math.log(total), (1.0 - second) / total, (1.0 - math.exp(behind)) / total
