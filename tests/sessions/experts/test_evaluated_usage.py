"""Evaluation of corpora: every token once, grouped by domain, timed, and refused where nothing can be counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_watch.backends.protocol import Load
from moe_watch.routing.errors import UserError
from moe_watch.routing.experts.sums import total
from moe_watch.sessions.experts import evaluated_usage
from moe_watch.sessions.experts.evaluated_usage import ENOUGH_EXAMPLES, MOST_GROUPS, evaluate_corpora
from moe_watch.sessions.experts.usage_groups import ObservedUsage
from moe_watch.sessions.scoring.corpus import Corpus, read_corpus
from tests.sessions.experts.observed import EXPERTS, ArithmeticWorker


class Watched:
    """Watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.estimates: list[tuple[float, int, int]] = []
        self.progress: list[tuple[int, int]] = []
        self.is_loaded = False

    def loading(self, progress: object) -> None: ...

    def loaded(self) -> None:
        self.is_loaded = True

    def estimated(self, seconds: float, tokens: int, number_of_windows: int) -> None:
        self.estimates.append((seconds, tokens, number_of_windows))

    def evaluated(self, tokens: int, total: int) -> None:
        self.progress.append((tokens, total))


def corpus(folder: Path, *examples: object, name: str = "texts.jsonl") -> Corpus:
    path = folder / name
    path.write_text("".join(json.dumps(each) + "\n" for each in examples))
    return read_corpus(path)


def evaluate(
    monkeypatch: pytest.MonkeyPatch,
    *corpora: Corpus,
    clock: Any = None,
    worker: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[ObservedUsage, ArithmeticWorker, Watched]:
    made: list[ArithmeticWorker] = []

    def kept(load: Load, on_progress: Any) -> ArithmeticWorker:
        made.append(ArithmeticWorker(load, on_progress, **(worker or {})))
        return made[-1]

    monkeypatch.setattr(evaluated_usage, "KeptWorker", kept)
    watched = Watched()
    ticking = {} if clock is None else {"clock": clock}
    found = evaluate_corpora(Load(model="pocket", backend="llama.cpp"), corpora, watched, **options, **ticking)
    assert made[0].closed
    return found, made[0], watched


def test_every_token_is_counted_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found, worker, watched = evaluate(monkeypatch, corpus(tmp_path, {"text": "abcdefg"}, {"text": "hi"}), window=5)
    assert worker.scored == [[1, *b"abcd"], [1, *b"efg"], [1, *b"hi"]]
    sums = total(found.groups[0].blocks)
    expected = np.zeros(EXPERTS, int)
    for token in [1, 1, 1, *b"abcdefghi"]:
        expected[[token % 4, (token + 1) % 4]] += 1
    assert sums.counts.tolist() == [expected.tolist()] * 2
    assert sums.rows.tolist() == [12, 12]
    assert (found.groups[0].tokens, found.groups[0].examples, found.window) == (12, 2, 5)
    assert watched.progress == [(5, 12), (9, 12), (12, 12)]
    assert watched.is_loaded
    assert found.model.hidden_layers == 6  # of pocket's files
    assert found.model.gate == "top_k_softmax"
    assert found.warnings == ["a setting is ignored"]


def test_saliency_only_when_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    texts = corpus(tmp_path, {"text": "abcd"})
    with_it, _, _ = evaluate(monkeypatch, texts, saliency=True)
    without, _, _ = evaluate(monkeypatch, texts)
    norms, weights = total(with_it.groups[0].blocks).norms, total(with_it.groups[0].blocks).weights
    assert norms is not None
    assert weights is not None
    np.testing.assert_allclose(norms, weights * 8)
    assert total(without.groups[0].blocks).norms is None
    assert (with_it.absent, set(without.absent)) == ({}, {"saliency", "saliency_mass"})


def test_an_unknown_gate_has_no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lacking = {"lacks": frozenset({"weights", "entropy"})}
    found, _, _ = evaluate(monkeypatch, corpus(tmp_path, {"text": "abcd"}), worker=lacking, saliency=True)
    assert set(found.absent) == {"weight_mass", "router_entropy"}
    assert total(found.groups[0].blocks).weights is None


def test_domains_are_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    texts = corpus(tmp_path, {"text": "aaa", "domain": "x"}, {"text": "bbbb"}, {"text": "cc", "domain": "x"})
    found, _, _ = evaluate(monkeypatch, texts)
    assert [(each.name, each.examples, each.tokens) for each in found.groups] == [("x", 2, 7), ("without domain", 1, 5)]


def test_corpora_are_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    a = corpus(tmp_path, {"text": "aaa"}, name="a.jsonl")
    b = corpus(tmp_path, {"text": "bbb", "domain": "x"}, name="b.jsonl")
    found, _, _ = evaluate(monkeypatch, a, b)
    assert [each.name for each in found.groups] == [a.name, f"{b.name}: x"]
    assert found.corpus == f"{a.name}, {b.name}"
    assert found.corpus_sha256 == [a.sha256, b.sha256]


def test_a_text_is_a_block_where_there_are_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few, _, _ = evaluate(monkeypatch, corpus(tmp_path, *[{"text": "abcdefgh"}] * (ENOUGH_EXAMPLES - 1)), window=5)
    many, _, _ = evaluate(monkeypatch, corpus(tmp_path, *[{"text": "abcdefgh"}] * ENOUGH_EXAMPLES), window=5)
    assert (few.block, len(few.groups[0].blocks)) == ("window", 2 * (ENOUGH_EXAMPLES - 1))
    assert (many.block, len(many.groups[0].blocks)) == ("example", ENOUGH_EXAMPLES)
    assert {int(each.rows[0]) for each in many.groups[0].blocks} == {10}


def test_the_estimate_comes_after_the_first_windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    times = iter([100.0, 104.0])  # after the first window, and two windows of 5 tokens later
    texts = corpus(tmp_path, {"text": "a" * 40})
    _, _, watched = evaluate(monkeypatch, texts, window=5, clock=lambda: next(times))
    assert watched.estimates == [(pytest.approx(0.4 * 35), 50, 10)]


def test_a_short_corpus_needs_no_estimate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, _, watched = evaluate(monkeypatch, corpus(tmp_path, {"text": "a" * 12}), window=5)
    assert watched.progress[-1] == (15, 15)
    assert watched.estimates == []


def test_texts_without_a_prediction_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found, _, _ = evaluate(
        monkeypatch, corpus(tmp_path, {"text": "a"}, {"text": "ab"}, {"text": "c"}), worker={"begin": None}
    )
    assert found.groups[0].tokens == 2
    assert "2 of 3 texts have fewer than 2 tokens: left out" in found.warnings
    with pytest.raises(UserError, match=r"no text of .* has 2 tokens"):
        evaluate(monkeypatch, corpus(tmp_path, {"text": "a"}), worker={"begin": None})


def test_a_dense_model_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dense"):
        evaluate(monkeypatch, corpus(tmp_path, {"text": "abc"}), worker={"dense": True})


def test_counts_that_are_not_whole_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="layer 1 has 4 selections in 4 rows of 4 tokens, top-2"):
        evaluate(monkeypatch, corpus(tmp_path, {"text": "abc"}), worker={"k": 1})


def test_too_many_domains_are_refused_before_loading(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    texts = corpus(tmp_path, *({"text": "abc", "domain": f"d{at}"} for at in range(MOST_GROUPS + 1)))
    with pytest.raises(UserError, match="the texts have 65 domains"):
        evaluate(monkeypatch, texts)


def test_an_interrupt_ends_the_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    workers: list[ArithmeticWorker] = []

    def kept(load: Load, on_progress: Any) -> ArithmeticWorker:
        workers.append(ArithmeticWorker(load, on_progress, fails_at=2))
        return workers[-1]

    monkeypatch.setattr(evaluated_usage, "KeptWorker", kept)
    with pytest.raises(KeyboardInterrupt):
        evaluate_corpora(Load(model="pocket"), [corpus(tmp_path, {"text": "a" * 40})], Watched(), window=5)
    assert workers[0].closed
