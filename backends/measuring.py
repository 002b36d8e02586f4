"""Measuring what observing costs: one loaded model, run by its engine's own loop and by ours. Knows no engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cached_property
from itertools import islice

from backends.engine import Bare, Engine
from backends.observation import Evaluated, Observer, TokenFacts
from backends.outbox import Outbox
from backends.protocol import Batch, Measure, encode
from routing.errors import UserError
from routing.events import Sampling

SAMPLING = Sampling(seed=7, stop="never")


class Measurements:
    """Takes one measurement after the other.

    Args:
        engine: a loaded model. Its context is emptied by each measurement.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @cached_property
    def _bare(self) -> Bare:
        return self._engine.bare()

    def take(self, asked: Measure) -> float:
        """Tokens per second. The first generated token is not counted: the prompt is evaluated before it.

        Raises:
            UserError: so many tokens do not fit into the model's context.
        """
        ids = self._engine.encode(asked.prompt, turn=False, first=True)
        self._engine.reset()
        self._engine.configure(SAMPLING, reseed=True)
        if asked.phase == "prefill":
            return self._prefill_rate(asked, ids)
        self._require_room(len(ids) + asked.tokens + 1)
        return self._decode_rate(asked, ids)

    def _require_room(self, tokens: int) -> None:
        room = self._engine.context_length
        if tokens > room:
            raise UserError(
                f"prompt and generated tokens are {tokens:,}, the context of {self._engine.model.name} holds {room:,}",
                advice="measure fewer tokens",
            )

    # -- a prompt

    def _prefill_rate(self, asked: Measure, ids: list[int]) -> float:
        prompt = self._repeated(asked, ids)
        evaluate: Callable[[list[int]], None] = self._bare.prefill if asked.variant == "bare" else self._prefill
        began = time.perf_counter()
        evaluate(prompt)
        return len(prompt) / (time.perf_counter() - began)

    def _repeated(self, asked: Measure, ids: list[int]) -> list[int]:
        """The prompt again and again, up to so many tokens, and to what the context can hold."""
        more = self._engine.encode(asked.prompt, turn=False, first=False) or ids
        length = min(asked.tokens, self._engine.context_length - 1)
        return (ids + more * (length // len(more) + 1))[:length]

    def _prefill(self, ids: list[int]) -> None:
        for _ in self._engine.prefill(ids, lambda _: None):
            pass

    # -- generated tokens

    def _decode_rate(self, asked: Measure, ids: list[int]) -> float:
        if asked.variant == "bare":
            with closing(self._bare.decode(ids)) as steps:
                return _rate(islice(steps, asked.tokens))
        self._prefill(ids)
        rate = _rate(self._draw(asked.tokens) if asked.variant == "tap" else self._draw_and_encode(asked.tokens))
        self._engine.draw(last=True)  # what was begun ahead must not run into the next measurement
        return rate

    def _draw(self, tokens: int) -> Iterator[object]:
        for _ in range(tokens):
            yield self._engine.draw()

    def _draw_and_encode(self, tokens: int) -> Iterator[object]:
        """What the worker does with a token, but for the pipe."""
        outbox = Outbox(_encode, Observer(self._engine.model), time.monotonic)
        detokenizer = self._engine.detokenizer()
        for i in range(tokens):
            drawn = self._engine.draw()
            facts = TokenFacts(i, time.monotonic(), "generated", drawn.id, detokenizer.add(drawn.id), drawn)
            outbox.put_tokens(Evaluated([facts], drawn.routing))
            yield drawn
        outbox.flush()


def _encode(batch: Batch) -> None:
    encode(batch)


def _rate(steps: Iterator[object]) -> float:
    """Tokens per second from the first one to the end of what is done for the last one."""
    next(steps)
    began = time.perf_counter()
    counted = sum(1 for _ in steps)
    return counted / (time.perf_counter() - began)
