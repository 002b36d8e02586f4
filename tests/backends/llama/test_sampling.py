"""Tokens that llama.cpp's samplers pick, and their probabilities."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from llama_cpp import llama_cpp as lib

from moe_watch.backends.engine import Engine
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Sampling
from tests.backends import llama_files
from tests.backends.llama_files import Open
from tests.backends.mlx.test_engine import GREEDY, PROMPT, begin, draw
from tests.backends.reference import log_softmax, reference


@pytest.fixture(scope="module")
def open_gguf() -> Iterator[Open]:
    with llama_files.opening() as load_path:
        yield load_path


@pytest.fixture(scope="module")
def mixtral_gguf(open_gguf: Open, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return open_gguf(llama_files.write_gguf(tmp_path_factory.mktemp("gguf") / "mixtral.gguf"))


def test_predictions_are_those_of_the_unwatched_model(mixtral_gguf: Engine, mixtral_folder: pathlib.Path) -> None:
    begin(mixtral_gguf, Sampling(seed=3, stop="never"))
    drawn = draw(mixtral_gguf, 40)
    ids = PROMPT + [token.id for token in drawn]
    predicted = log_softmax(reference(mixtral_folder, ids, 2).output)[len(PROMPT) - 1 : -1]
    two_best = np.sort(np.exp(predicted), axis=-1)[:, -2:]
    chosen = np.take_along_axis(predicted, np.array(ids[len(PROMPT) :])[:, None], axis=-1)[:, 0]
    np.testing.assert_allclose([token.logprob for token in drawn], chosen, atol=1e-4)
    np.testing.assert_allclose([token.top_margin for token in drawn], two_best[:, 1] - two_best[:, 0], atol=1e-4)
    np.testing.assert_allclose([token.choice_gap for token in drawn], two_best[:, 1] - np.exp(chosen), atol=1e-4)
    assert len({token.id for token in drawn}) > 10


@pytest.mark.parametrize(
    "options",
    [{}, {"top_p": 0.5}, {"top_k": 5}, {"stop": "never"}, {"temperature": 0.5}],
    ids=["all", "top-p", "top-k", "never stops", "cooler"],
)
def test_the_seed_decides(mixtral_gguf: Engine, options: dict[str, Any]) -> None:
    def ids(seed: int) -> list[int]:
        begin(mixtral_gguf, Sampling(seed=seed, **options))
        return [token.id for token in draw(mixtral_gguf, 30)]

    assert ids(5) == ids(5)
    assert ids(5) != ids(6)
    assert ids(2**32 - 1) == ids(2**32 - 1)


def test_greedy_takes_the_likeliest(mixtral_gguf: Engine) -> None:
    begin(mixtral_gguf)
    assert {token.choice_gap for token in draw(mixtral_gguf, 40)} == {0.0}


def test_top_k_keeps_to_the_likeliest(mixtral_gguf: Engine, mixtral_folder: pathlib.Path) -> None:
    begin(mixtral_gguf, Sampling(seed=1, top_k=2))
    drawn = draw(mixtral_gguf, 40)
    ids = PROMPT + [token.id for token in drawn]
    order = np.argsort(-reference(mixtral_folder, ids, 2).output, axis=-1)[len(PROMPT) - 1 : -1]
    ranks = [row.tolist().index(token.id) for row, token in zip(order, drawn, strict=True)]
    assert set(ranks) == {0, 1}


def test_a_change_of_sampling_does_not_begin_the_random_numbers_again(mixtral_gguf: Engine) -> None:
    """A change that is reverted leaves the following tokens unchanged; they differ from those after a new seed."""
    begin(mixtral_gguf, Sampling(seed=8))
    uninterrupted = [token.id for token in draw(mixtral_gguf, 30)]
    begin(mixtral_gguf, Sampling(seed=8))
    before = draw(mixtral_gguf, 10)
    mixtral_gguf.configure(Sampling(seed=8, temperature=0.0), reseed=False)
    mixtral_gguf.configure(Sampling(seed=8), reseed=False)
    assert [token.id for token in before + draw(mixtral_gguf, 20)] == uninterrupted
    begin(mixtral_gguf, Sampling(seed=8))
    before = draw(mixtral_gguf, 10)
    mixtral_gguf.configure(Sampling(seed=8), reseed=True)
    assert [token.id for token in before + draw(mixtral_gguf, 20)] != uninterrupted


def test_end_of_text_ends_or_is_marked(mixtral_gguf: Engine, open_gguf: Open, tmp_path: pathlib.Path) -> None:
    begin(mixtral_gguf)
    greedy = [token.id for token in draw(mixtral_gguf, 12)]
    end = greedy[6]
    first = greedy.index(end)
    stopping = open_gguf(llama_files.write_gguf(tmp_path / "stops.gguf", ends=end))
    begin(stopping, Sampling(temperature=0.0, seed=0))
    drawn = draw(stopping, first + 1)
    assert [token.id for token in drawn] == greedy[: first + 1]
    assert [token.ends for token in drawn] == [False] * first + [True]
    assert stopping.position == len(PROMPT) + first + 1
    begin(stopping, GREEDY)
    going_on = draw(stopping, 40)
    assert [token.would_stop for token in going_on[: first + 1]] == [False] * first + [True]
    assert going_on[first].id != end
    assert going_on[first].choice_gap > 0
    assert end not in {token.id for token in going_on}
    assert not any(token.ends for token in going_on)


def test_sampled_end_of_text_is_replaced(open_gguf: Open, tmp_path: pathlib.Path) -> None:
    engine = open_gguf(llama_files.write_gguf(tmp_path / "stops.gguf", ends=most_frequent(open_gguf, tmp_path)))
    begin(engine, Sampling(seed=2, stop="never"))
    drawn = draw(engine, 200)
    assert engine.codec.ends.isdisjoint(token.id for token in drawn)
    assert {token.would_stop for token in drawn} == {True, False}


def most_frequent(open_gguf: Open, folder: pathlib.Path) -> int:
    engine = open_gguf(llama_files.write_gguf(folder / "plain.gguf"))
    begin(engine, Sampling(seed=2, stop="never"))
    ids = [token.id for token in draw(engine, 200)]
    return max(set(ids), key=ids.count)


@pytest.mark.parametrize(
    ("sampling", "what"),
    [
        (Sampling(temperature=-1, seed=0), "temperature"),
        (Sampling(top_p=0, seed=0), "top-p"),
        (Sampling(top_k=-1, seed=0), "top-k"),
    ],
)
def test_impossible_sampling_is_refused(mixtral_gguf: Engine, sampling: Sampling, what: str) -> None:
    with pytest.raises(UserError, match=what):
        mixtral_gguf.configure(sampling, reseed=False)


def test_no_token_is_drawn_without_its_probability(mixtral_gguf: Engine) -> None:
    """The probabilities come from the logits before the token, not from the logits after it."""
    begin(mixtral_gguf)
    before = np.ctypeslib.as_array(lib.llama_get_logits_ith(mixtral_gguf._loaded.context, -1), (258,)).copy()
    drawn = mixtral_gguf.draw()
    assert drawn.logprob == pytest.approx(log_softmax(before)[drawn.id], abs=1e-6)
