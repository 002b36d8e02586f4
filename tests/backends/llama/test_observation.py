"""The observation in C equals NumPy's on the same rows, or is None."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from moe_watch.backends.engine import Floats, Ints
from moe_watch.backends.generation.observation import Evaluated, Observer, TokenFacts
from moe_watch.backends.llama.tap.observation import rows_observer
from moe_watch.backends.tap_rows import HEADER, ObserveRows, RecordedRouting, RowFormat, rows_of
from moe_watch.routing.events import Sampling, Token
from moe_watch.routing.router.observe import Observation, observe
from tests.backends import llama_files
from tests.backends.mlx.test_engine import begin, draw

GATES = [
    "softmax_top_k",
    "softmax_top_k_renormalised",
    "top_k_softmax",
    "sigmoid_top_k",
    "sigmoid_top_k_on_input",
    "sigmoid_top_k_renormalised×2.5",
    "sigmoid_top_k_renormalised(sum≥0.5)×2.5",
    "sigmoid_top_k_renormalised(sum+0.01)",
]
SHAPES = [(8, 2), (128, 8), (5, 1), (3, 3), (2, 1)]
"""E, k."""


def form_of(experts: int, chosen: int, *, is_scored: bool = True) -> RowFormat:
    return RowFormat([1, 2, 5], experts, chosen, np.log, is_scored)


def rows_with(form: RowFormat, scores: Floats, experts: Ints) -> Ints:
    """Return the words that a tap writes for these scores [T, L, E] and experts [T, L, k]."""
    picked = np.take_along_axis(scores, np.clip(experts, 0, form.experts - 1), -1)
    headers = np.broadcast_to(form.header, (len(scores), *form.header.shape))
    return np.concatenate([headers, scores.view(np.int32), picked.view(np.int32), experts], axis=-1)


def routed(form: RowFormat, gate: str, tokens: int = 40) -> tuple[Floats, Ints]:
    """Scores as such a gate makes them, some of them 0 and some equal, and the experts that it selects."""
    random = np.random.default_rng(form.experts)
    logits = random.normal(0, random.choice([0.1, 3.0, 30.0], (tokens, 1, 1)), (tokens, 3, form.experts))
    logits[::5] = np.round(logits[::5])
    if gate.startswith("sigmoid"):
        scores = 1 / (1 + np.exp(-logits))
    else:
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        scores = powers / powers.sum(-1, keepdims=True)
    best = np.argsort(-scores, -1, kind="stable")[..., : form.experts_per_token]
    return scores.astype(np.float32), random.permuted(best, axis=-1).astype(np.int32)


def observer(form: RowFormat, gate: str) -> ObserveRows:
    return rows_observer(form, gate) or pytest.fail("it is left to NumPy")


def assert_equal(seen: Observation | None, expected: Observation) -> None:
    assert seen is not None
    for name in ("experts", "weights", "entropy", "margin"):
        np.testing.assert_array_equal(getattr(seen, name), getattr(expected, name), name)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("experts", "chosen"), SHAPES)
def test_it_is_what_numpy_finds(gate: str, experts: int, chosen: int) -> None:
    form = form_of(experts, chosen)
    scores, ids = routed(form, gate)
    expected = observe(None, ids, gate, scored=scores)
    assert_equal(observer(form, gate)(rows_with(form, scores, ids)), expected)
    assert expected.entropy is not None
    assert len(np.unique(expected.entropy)) > 10


def test_equally_probable_experts_stand_by_their_numbers() -> None:
    form = form_of(4, 3)
    scores = np.full((1, 3, 4), 0.25, np.float32)
    seen = observer(form, "softmax_top_k")(rows_with(form, scores, np.array([[[3, 0, 2]] * 3], np.int32)))
    assert seen is not None
    assert seen.experts.tolist() == [[[0, 2, 3]] * 3]


def test_experts_that_are_certainly_not_meant_count_nothing() -> None:
    form = form_of(4, 1)
    scores = np.zeros((1, 3, 4), np.float32)
    scores[..., 2] = 1
    seen = observer(form, "softmax_top_k")(rows_with(form, scores, np.full((1, 3, 1), 2, np.int32)))
    assert_equal(seen, observe(None, np.full((1, 3, 1), 2), "softmax_top_k", scored=scores))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
@pytest.mark.parametrize("gate", ["softmax_top_k", "softmax_top_k_renormalised"])
def test_what_is_no_number_is_left_to_numpy(value: float, gate: str) -> None:
    form = form_of(4, 2)
    scores, ids = np.full((2, 3, 4), 0.25, np.float32), np.tile(np.array([0, 1], np.int32), (2, 3, 1))
    assert observer(form, gate)(rows_with(form, scores, ids)) is not None
    scores[1, 2] = value
    assert observer(form, gate)(rows_with(form, scores, ids)) is None


@pytest.mark.parametrize("expert", [-1, 4, 2**31 - 1])
def test_experts_that_there_are_not_are_left_to_numpy(expert: int) -> None:
    form = form_of(4, 2)
    scores, ids = np.full((1, 3, 4), 0.25, np.float32), np.tile(np.array([0, 1], np.int32), (1, 3, 1))
    ids[0, 2, 1] = expert
    assert observer(form, "softmax_top_k")(rows_with(form, scores, ids)) is None


@pytest.mark.parametrize("word", range(HEADER))
def test_rows_that_begin_otherwise_are_left_to_numpy(word: int) -> None:
    form = form_of(4, 2)
    rows = rows_with(form, *routed(form, "softmax_top_k", tokens=2))
    rows[1, 1, word] += 1
    assert observer(form, "softmax_top_k")(rows) is None


@pytest.mark.parametrize("gate", ["unknown", "sigmoid_top_k×per_expert", "sparsemixer(0.01)"])
def test_gates_whose_weights_need_more_than_scores_are_left_to_numpy(gate: str) -> None:
    assert rows_observer(form_of(4, 2), gate) is None


def test_logits_and_a_single_expert_are_left_to_numpy() -> None:
    assert rows_observer(form_of(4, 2, is_scored=False), "top_k_softmax") is None
    assert rows_observer(form_of(1, 1), "softmax_top_k") is None


def test_without_a_compiler_it_is_left_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert rows_observer(form_of(4, 2), "softmax_top_k") is None


def test_an_engine_records_the_same_with_it_and_without() -> None:
    with llama_files.opening() as open_gguf:
        engine = open_gguf("pocket")
        begin(engine, Sampling(seed=1))
        seen = [drawn.routing for drawn in draw(engine, 150)]
        recorded = [routing for routing in seen if isinstance(routing, RecordedRouting)]
        assert len(recorded) == 150
        assert recorded[0].form.observe is not None
        plain = replace(recorded[0].form, observe=None)
        others = [RecordedRouting(routing.buffer, plain, routing.start) for routing in recorded]

        def events(routings: Sequence[RecordedRouting]) -> list[Token]:
            facts = (TokenFacts(i, 0.0, "generated", 7, "x") for i in range(len(routings)))
            steps = [Evaluated([fact], routing) for fact, routing in zip(facts, routings, strict=True)]
            return Observer(engine.model).tokens(steps)

        assert events(recorded) == events(others)
        assert len({token.entropy[0] for token in events(recorded) if token.entropy}) > 10


def test_tokens_that_lie_one_behind_the_other_are_not_copied() -> None:
    form = form_of(4, 2)
    buffer = rows_with(form, *routed(form, "softmax_top_k", tokens=4)).ravel()
    tokens = [RecordedRouting(buffer, form, start) for start in range(0, 4 * form.size, form.size)]
    for routings, is_copied in ((tokens[1:3], False), (tokens[::2], True), (tokens[::-1], True)):
        rows, _ = rows_of(routings) or pytest.fail("they were all recorded alike")
        assert np.shares_memory(rows, buffer) != is_copied
        expected = np.concatenate([routing.words for routing in routings])
        np.testing.assert_array_equal(rows.ravel(), expected)
