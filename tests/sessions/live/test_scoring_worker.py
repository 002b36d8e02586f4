"""Tokenization and scoring through a worker process: answers in order, refusals, and abandoned windows."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions, Load, Measure
from moe_watch.backends.scoring.windows import WHOLE, WindowScoring
from moe_watch.backends.scoring_messages import Score
from moe_watch.routing.errors import UserError
from moe_watch.sessions.live.shared_worker import KeptWorker

pytestmark = pytest.mark.model

OPTIONS = EngineOptions(threads=1)
TEXT = "class Reader:\n    def read(self, size: int) -> bytes:\n        return b''\n"
MASKS = [[(0, [2])], [(1, [0]), (4, [5, 6])], [(5, [7])]]


@pytest.fixture(scope="module")
def worker() -> Iterator[KeptWorker]:
    with KeptWorker(Load(model="pocket", backend="llama.cpp", options=OPTIONS), lambda _: None) as kept:
        yield kept


@pytest.fixture(scope="module")
def ids(worker: KeptWorker) -> list[int]:
    return worker.tokenize([TEXT]).ids[0]


def test_answers_are_those_of_the_engine(worker: KeptWorker, ids: list[int]) -> None:
    engine = catalog.load_engine(
        "llama.cpp", catalog.locate("pocket", "llama.cpp"), options=OPTIONS, progress=lambda _: None
    )
    scoring = WindowScoring(engine)
    assert ids == engine.encode(TEXT, turn=False, first=True)
    for command in (
        Score(ids=ids, window=64, usage=True, saliency=True, masks=MASKS),
        Score(ids=ids[:9], window=64),
        Score(ids=ids, window=64, base=MASKS[1], usage=True, surprisal=False),
        Score(ids=ids[:1], window=128, masks=MASKS[:1]),
    ):
        assert list(worker.score(command)) == list(scoring.score(command))
    scoring.close()
    engine.close()


def test_texts_are_tokenized_one_by_one(worker: KeptWorker) -> None:
    found = worker.tokenize(["def", "", "x = 1\n" * 50])
    assert [ids[:1] for ids in found.ids] == [[found.begin]] * 3
    assert [len(ids) for ids in found.ids][:2] == [2, 1]
    assert worker.tokenize([]).ids == []


def test_a_refused_window_does_not_end_the_worker(worker: KeptWorker, ids: list[int]) -> None:
    [whole] = worker.score(Score(ids=ids, window=64))
    for command, why in (
        (Score(ids=ids, window=len(ids) - 1), "does not fit into"),
        (Score(ids=[*ids, 1_000_000], window=64), "token 1000000 is outside the vocabulary of pocket"),
        (Score(ids=ids, window=64, masks=[[(9, [0])]]), "pocket has no MoE layer 9"),
    ):
        with pytest.raises(UserError, match=why):
            list(worker.score(command))
    assert list(worker.score(Score(ids=ids, window=64))) == [whole]
    assert worker.measure(Measure(prompt="x", phase="decode", variant="bare", tokens=4)) > 0


@pytest.mark.parametrize("read", [1, 2, 3, 4])
def test_an_abandoned_window_leaves_nothing_for_the_next(read: int, worker: KeptWorker, ids: list[int]) -> None:
    with closing(worker.score(Score(ids=ids, window=64, masks=MASKS))) as scored:
        assert [next(scored).mask for _ in range(read)] == [WHOLE, 0, 1, 2][:read]
    following = list(worker.score(Score(ids=ids[:5], window=64, masks=MASKS[:1])))
    assert [found.mask for found in following] == [WHOLE, 0]
    assert len(following[0].surprisal) == 8 * 4
    assert worker.tokenize([TEXT]).ids == [ids]


def test_an_abandoned_window_that_is_refused_leaves_nothing_either(worker: KeptWorker, ids: list[int]) -> None:
    """A token beyond the vocabulary is found in the first evaluation, after the command was accepted."""
    scored = worker.score(Score(ids=[*ids, 1_000_000], window=64, masks=MASKS))
    with pytest.raises(UserError, match="outside the vocabulary"):
        next(scored)
    assert worker.tokenize([TEXT]).ids == [ids]


def test_a_worker_that_dies_ends_the_window(ids: list[int]) -> None:
    with KeptWorker(Load(model="pocket", backend="llama.cpp", options=OPTIONS), lambda _: None) as kept:
        many = kept.score(Score(ids=ids, window=64, masks=MASKS * 200))
        assert next(many).mask == WHOLE
        os.kill(kept.pid, signal.SIGKILL)
        with pytest.raises(UserError, match="the model's process"):
            list(many)
        with pytest.raises(UserError, match="the model's process"):
            kept.tokenize([TEXT])


def test_surprisal_is_finite_and_of_the_right_length(worker: KeptWorker, ids: list[int]) -> None:
    whole, *masked = worker.score(Score(ids=ids, window=64, masks=MASKS))
    for found in (whole, *masked):
        assert np.isfinite(np.frombuffer(found.surprisal, "<f8")).all()
        assert len(found.surprisal) == 8 * (len(ids) - 1)
    assert all(np.frombuffer(found.divergence, "<f8").mean() > 0 for found in masked)
