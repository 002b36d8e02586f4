"""Throughput of a loaded model in its engine's own loop and in ours, for the observation cost, on any engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from itertools import islice

from moe_watch.backends.engine import Bare, Engine, SampledToken
from moe_watch.backends.generation.observation import Evaluated, Observer, TokenFacts
from moe_watch.backends.generation.outbox import Outbox
from moe_watch.backends.protocol import Batch, Measure, encode
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Sampling, TokenSource

SAMPLING = Sampling(seed=7, stop="never")


class Measurements:
    """Throughput measurements of one engine.

    Args:
        engine: a loaded model. Each measurement empties its context.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @cached_property
    def _bare(self) -> Bare:
        return self._engine.bare()

    def measure(self, asked: Measure) -> float:
        """Measure tokens per second. The first generated token is not counted: the prompt is evaluated before it.

        Raises:
            UserError: the tokens do not fit into the model's context.
        """
        ids = self._engine.encode(asked.prompt, turn=False, first=True)
        self._engine.reset()
        self._engine.configure(SAMPLING, reseed=True)
        if asked.phase == "prefill":
            return self._prefill_rate(asked, self._repeated(asked, ids))
        self._require_room(len(ids) + asked.tokens + 1)
        return self._decode_rate(asked, ids)

    def _require_room(self, tokens: int) -> None:
        room = self._engine.context_length
        if tokens > room:
            raise UserError(
                f"prompt and generated tokens are {tokens:,}, the context of {self._engine.model.name} holds {room:,}",
                advice="measure fewer tokens",
            )

    def _repeated(self, asked: Measure, ids: list[int]) -> list[int]:
        """Repeat the prompt up to the number of tokens asked for, and at most up to the context length."""
        more = self._engine.encode(asked.prompt, turn=False, first=False) or ids
        length = min(asked.tokens, self._engine.context_length - 1)
        return (ids + more * (length // len(more) + 1))[:length]

    @contextmanager
    def _own_loop(self, asked: Measure) -> Iterator[_Loop]:
        """Our loop with the tap on or off; the tap is on afterwards."""
        self._engine.observe(asked.variant == "tap on")
        loop = _Loop(self._engine)
        try:
            yield loop
            loop.settle()  # background work must not run into the next measurement
        finally:
            self._engine.observe(True)

    def _prefill_rate(self, asked: Measure, ids: list[int]) -> float:
        if asked.variant == "bare":
            return _prefill_rate(self._bare.prefill, ids)
        with self._own_loop(asked) as loop:
            return _prefill_rate(loop.prefill, ids)

    def _decode_rate(self, asked: Measure, ids: list[int]) -> float:
        if asked.variant == "bare":
            with closing(self._bare.decode(ids)) as steps:
                return _decode_rate(islice(steps, asked.tokens))
        with self._own_loop(asked) as loop:
            loop.prefill(ids)
            rate = _decode_rate(loop.decode(asked.tokens))
            self._engine.draw(last=True)  # work begun ahead must not run into the next measurement
            return rate


class _Loop:
    """Our loop: everything that the worker does with a run's tokens, except the pipe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._outbox = Outbox(_encode, Observer(engine.model), time.monotonic)
        self._detokenizer = engine.detokenizer()
        self._i = 0

    def prefill(self, ids: list[int]) -> None:
        for routing in self._engine.prefill(ids, lambda _: None):
            step = ids[self._i : self._i + routing.tokens]
            self._outbox.put_tokens(Evaluated([self._facts(token, "prompt") for token in step], routing))
            self._outbox.send()

    def decode(self, tokens: int) -> Iterator[object]:
        for _ in range(tokens):
            sampled = self._engine.draw()
            self._outbox.put_tokens(Evaluated([self._facts(sampled.id, "generated", sampled)], sampled.routing))
            yield sampled
        self._outbox.flush()

    def settle(self) -> None:
        """Wait for background work."""
        self._outbox.flush()

    def _facts(self, token: int, source: TokenSource, sampled: SampledToken | None = None) -> TokenFacts:
        facts = TokenFacts(self._i, time.monotonic(), source, token, self._detokenizer.add(token), sampled)
        self._i += 1
        return facts


def _encode(batch: Batch) -> None:
    encode(batch)


def _prefill_rate(evaluate: Callable[[list[int]], None], ids: list[int]) -> float:
    """Return tokens per second."""
    began = time.perf_counter()
    evaluate(ids)
    return len(ids) / (time.perf_counter() - began)


def _decode_rate(steps: Iterator[object]) -> float:
    """Return tokens per second, from the first token to the end of all work for the last one."""
    next(steps)
    began = time.perf_counter()
    counted = sum(1 for _ in steps)
    return counted / (time.perf_counter() - began)
