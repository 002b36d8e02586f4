"""Return to a position in a context: continuations tried in between leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from mlx_lm.models import cache as caches

from moe_watch.backends.engine import Engine, SampledToken
from moe_watch.backends.mlx.engine import load as load_mlx
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.events import Sampling
from tests.backends import llama_files
from tests.backends.mlx.test_engine import GREEDY, PROMPT, begin, draw

SAMPLED = Sampling(seed=5, stop="never")
SAMPLINGS = pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])

Facts = tuple[int, float, list[Any]]


@pytest.fixture(scope="module")
def engines(mixtral: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    folder = tmp_path_factory.mktemp("gguf")
    with ExitStack() as stack:
        open_gguf = stack.enter_context(llama_files.opening())
        yield {
            "mlx, tiny": mixtral,
            "mlx, pocket": load_mlx(catalog.locate("pocket", "mlx"), options=EngineOptions(), progress=lambda _: None),
            "llama.cpp, tiny": open_gguf(llama_files.write_gguf(folder / "mixtral.gguf")),
            "llama.cpp, pocket": open_gguf("pocket"),
            "llama.cpp, sliding window": open_gguf(llama_files.write_gpt_oss(folder / "gpt-oss.gguf")),
        }


@pytest.fixture(
    params=["mlx, tiny", "mlx, pocket", "llama.cpp, tiny", "llama.cpp, pocket", "llama.cpp, sliding window"]
)
def engine(request: pytest.FixtureRequest, engines: dict[str, Engine]) -> Engine:
    return engines[request.param]


def facts(tokens: list[SampledToken]) -> list[Facts]:
    """Return all observable facts of tokens: two lists are equal only if the computations were bit-identical."""
    return [(token.id, token.logprob, [rows.tolist() for rows in token.routing.logits]) for token in tokens]


def unforked(engine: Engine, sampling: Sampling, tokens: int) -> list[Facts]:
    begin(engine, sampling)
    return facts(draw(engine, tokens))


def settle(engine: Engine, tokens: int) -> list[SampledToken]:
    return [*draw(engine, tokens - 1), engine.draw(last=True)]


@SAMPLINGS
def test_a_fork_without_text_goes_on_token_for_token(engine: Engine, sampling: Sampling) -> None:
    expected = unforked(engine, sampling, 60)
    begin(engine, sampling)
    before = facts(settle(engine, 20))
    with engine.fork() as rewind:
        for _ in range(3):
            rewind()
            assert before + facts(settle(engine, 40)) == expected


@SAMPLINGS
def test_after_a_fork_the_run_goes_on_as_if_never_forked(engine: Engine, sampling: Sampling) -> None:
    expected = unforked(engine, sampling, 60)
    begin(engine, sampling)
    drawn = facts(settle(engine, 20))
    for seed in (1, 2):
        with engine.fork() as rewind:
            for number in range(3):
                rewind()
                engine.configure(Sampling(seed=100 * seed + number, top_k=3), reseed=True)
                list(engine.prefill([9, 8, 7] * (number + 1), lambda _: None))
                settle(engine, 30)
        assert engine.position == len(PROMPT) + len(drawn)
        drawn += facts(settle(engine, 20))
    assert drawn == expected


def test_other_random_numbers_draw_the_first_token_anew(engine: Engine) -> None:
    begin(engine, SAMPLED)
    settle(engine, 20)
    continuations = []
    with engine.fork() as rewind:
        for seed in (*range(12), 0):
            rewind()
            engine.configure(Sampling(seed=seed, stop="never"), reseed=True)
            continuations.append([token.id for token in settle(engine, 10)])
    assert continuations[0] == continuations[-1]
    assert len({ids[0] for ids in continuations}) > 1
    assert len(set(map(tuple, continuations[:-1]))) == 12


def test_text_in_a_fork_is_text_in_a_run(engine: Engine) -> None:
    begin(engine)
    before = settle(engine, 8)
    with engine.fork() as rewind:
        settle(engine, 5)
        rewind()
        list(engine.prefill([9, 8, 7], lambda _: None))
        forked = [token.id for token in settle(engine, 20)]
    begin(engine, prompt=PROMPT + [token.id for token in before] + [9, 8, 7])
    assert [token.id for token in draw(engine, 20)] == forked


def test_a_fork_can_fill_the_whole_context(engine: Engine) -> None:
    """The stored position leaves the capacity of the context unchanged."""
    room = min(engine.context_length, 2048) - len(PROMPT) - 5
    text = np.random.default_rng(0).integers(10, 200, room).tolist()
    begin(engine)
    settle(engine, 5)
    expected = engine.position
    with engine.fork() as rewind:
        for _ in range(2):
            rewind()
            list(engine.prefill(text, lambda _: None))
            assert engine.position == expected + room
    assert engine.position == expected
    assert len(settle(engine, 5)) == 5


def test_a_fork_that_fails_is_over(engine: Engine) -> None:
    expected = unforked(engine, SAMPLED, 30)
    begin(engine, SAMPLED)
    before = facts(settle(engine, 10))

    def fail() -> None:
        with engine.fork():
            draw(engine, 7)
            raise KeyError("midway")

    with pytest.raises(KeyError, match="midway"):
        fail()
    assert before + facts(settle(engine, 20)) == expected


def test_a_fork_needs_an_empty_pipeline(mixtral: Engine) -> None:
    begin(mixtral)
    mixtral.draw()
    with pytest.raises(RuntimeError, match="last=True"), mixtral.fork():
        pass


# -- caches of MLX models


def attention(cache: Any, step: int) -> None:
    mx.random.seed(step)
    cache.update_and_fetch(mx.random.normal((1, 2, 1, 64)), mx.random.normal((1, 2, 1, 64)))


def recurrent(cache: Any, step: int) -> None:
    mx.random.seed(step)
    cache[0] = mx.random.normal((1, 3, 4))
    cache[1] = mx.random.normal((1, 8)) if cache[1] is None else cache[1] + step


def both(cache: Any, step: int) -> None:
    attention(cache[0], step)
    recurrent(cache[1], step)


CACHES: dict[str, tuple[Callable[[], Any], Callable[[Any, int], None]]] = {
    "plain": (caches.KVCache, attention),
    "concatenating": (caches.ConcatenateKVCache, attention),
    "rotating": (lambda: caches.RotatingKVCache(max_size=16, keep=4), attention),
    "quantised": (lambda: caches.QuantizedKVCache(group_size=64, bits=8), attention),
    "chunked": (lambda: caches.ChunkedKVCache(16), attention),
    "recurrent": (lambda: caches.ArraysCache(2), recurrent),
    "list": (lambda: caches.CacheList(caches.KVCache(), caches.ArraysCache(2)), both),
}


def state(value: Any) -> Any:
    """Return the whole content of a cache as plain lists."""
    if isinstance(value, list | tuple):
        return [state(each) for each in value]
    if isinstance(value, mx.array):
        return value.tolist()
    return {name: state(each) for name, each in vars(value).items()} if hasattr(value, "__dict__") else value


@pytest.mark.parametrize("name", CACHES)
def test_every_kind_of_cache_is_left_alone(
    name: str, engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The branch writes into its copy only, and the copy's content equals the original's."""
    engine: Any = engines["mlx, tiny"]
    begin(engine)
    make, advance = CACHES[name]
    monkeypatch.setattr(engine._context, "cache", [make()])
    twin = make()
    for step in range(40):
        advance(engine._context.cache[0], step)
        advance(twin, step)
    with engine.fork() as rewind:
        rewind()
        assert state(engine._context.cache[0]) == state(twin)
        for step in range(100, 140):
            advance(engine._context.cache[0], step)
        assert state(engine._context.cache[0]) != state(twin)
    assert state(engine._context.cache[0]) == state(twin)
    for step in range(40, 60):
        advance(engine._context.cache[0], step)
        advance(twin, step)
    assert state(engine._context.cache[0]) == state(twin)


def test_every_kind_of_cache_that_a_model_makes_is_tried() -> None:
    """A new cache class of mlx-lm must be added above; `make_prompt_cache` never returns the batch classes."""
    kinds = {
        kind
        for kind in vars(caches).values()
        if isinstance(kind, type) and issubclass(kind, caches._BaseCache) and kind is not caches._BaseCache
    }
    tried = {type(make()) for make, _ in CACHES.values()}
    assert {kind.__name__ for kind in kinds - tried} == {"BatchKVCache", "BatchRotatingKVCache"}
