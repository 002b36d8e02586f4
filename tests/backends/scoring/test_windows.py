"""Windows of given tokens on pocket, on each engine: predictions, usage, masks, refusals."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr

from moe_watch.backends.engine import Engine
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions
from moe_watch.backends.scoring.windows import WHOLE, WindowScoring
from moe_watch.backends.scoring_messages import Score, Scored, Tokenize
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Sampling
from moe_watch.routing.router.masks import ExpertGroups, ExpertMask, unused_has_no_effect
from tests.backends.conftest import ENGINES

pytestmark = pytest.mark.model

TEXT = """import os


def parse_header(line: str) -> dict[str, int]:
    return {name: int(value)}


class Reader:
    def read(self):
"""
WINDOW = 64
FORCED = Sampling(temperature=0.0, seed=0, stop="never")


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    options = EngineOptions(threads=1 if request.param == "llama.cpp" else None)
    location = catalog.locate("pocket", request.param)
    loaded = catalog.load_engine(request.param, location, options=options, progress=lambda _: None)
    yield loaded
    loaded.close()


@pytest.fixture
def scoring(engine: Engine) -> Iterator[WindowScoring]:
    made = WindowScoring(engine)
    yield made
    made.close()


@pytest.fixture
def ids(engine: Engine) -> list[int]:
    return engine.encode(TEXT, turn=False, first=True)[:40]


def values(packed: bytes) -> np.ndarray:
    return np.frombuffer(packed, "<f8")


def logits(engine: Engine, ids: list[int], mask: ExpertMask | None = None) -> np.ndarray:
    """Logits [T, V] straight from the engine's scorer."""
    scorer = engine.scorer(WINDOW, usage=False, saliency=False)
    if mask is not None:
        scorer.mask(mask)
    found = np.concatenate([np.array(batch.logits, np.float64) for batch in scorer.evaluate(ids)])
    scorer.close()
    return found


@pytest.mark.parametrize("mask", [ExpertMask(), ExpertMask.of([(0, 2), (3, 1), (3, 6)])], ids=["whole", "masked"])
def test_surprisal_is_that_of_the_same_tokens_in_a_run(
    mask: ExpertMask, engine: Engine, scoring: WindowScoring, ids: list[int]
) -> None:
    [found] = scoring.score(Score(ids=ids, window=WINDOW, base=mask.rows))
    assert found.mask == WHOLE
    engine.reset()
    engine.configure(FORCED, reseed=True)
    engine.mask(mask)
    list(engine.prefill(ids[:1], lambda _: None))
    engine.force(ids[1:])
    drawn = [engine.draw(last=at == len(ids) - 2) for at in range(len(ids) - 1)]
    engine.mask(ExpertMask())
    assert [token.id for token in drawn] == ids[1:]
    # Token by token, matrices are multiplied in another order.
    np.testing.assert_allclose(values(found.surprisal), [-token.logprob for token in drawn], rtol=0, atol=1e-4)


def test_scoring_leaves_the_run_as_it_is(engine: Engine, scoring: WindowScoring, ids: list[int]) -> None:
    def drawn(interrupt: bool) -> list[tuple[int, float]]:
        engine.reset()
        engine.configure(FORCED, reseed=True)
        list(engine.prefill(ids[:9], lambda _: None))
        found = [engine.draw(last=True)]
        if interrupt:
            list(scoring.score(Score(ids=ids, window=WINDOW, usage=True, masks=[[(0, [2])]])))
        routed = engine.draw(last=True)
        assert routed.routing.experts[0] is not None
        return [(token.id, token.logprob) for token in (*found, routed, engine.draw(last=True))]

    assert drawn(interrupt=True) == drawn(interrupt=False)


def test_usage_counts_every_row_as_a_run_records_it(engine: Engine, scoring: WindowScoring, ids: list[int]) -> None:
    [whole] = scoring.score(Score(ids=ids, window=WINDOW, usage=True, surprisal=False))
    assert whole.surprisal == b""
    assert whole.usage is not None
    counts, rows = np.array(whole.usage.counts), np.array(whole.usage.rows)
    k = engine.model.k_by_layer
    assert rows.tolist() == [len(ids)] * len(engine.model.layers)
    assert counts.sum(1).tolist() == [len(ids) * each for each in k]
    engine.reset()
    routings = [routing for token in ids for routing in engine.prefill([token], lambda _: None)]
    recorded = np.zeros_like(counts)
    for routing in routings:
        for layer, chosen in enumerate(routing.experts):
            assert chosen is not None
            np.add.at(recorded[layer], chosen.ravel(), 1)
    np.testing.assert_array_equal(counts, recorded)
    # pocket renormalises: the weights of each token sum to 1
    np.testing.assert_allclose(np.sum(whole.usage.weights, axis=1), rows, rtol=1e-5)
    assert whole.usage.norms is None
    assert whole.usage.entropy is not None
    assert (np.array(whole.usage.entropy) > 0).all()
    assert (np.array(whole.usage.entropy) < rows).all()


def test_saliency_changes_nothing_else(scoring: WindowScoring, ids: list[int]) -> None:
    [plain] = scoring.score(Score(ids=ids, window=WINDOW, usage=True))
    [salient] = scoring.score(Score(ids=ids, window=WINDOW, usage=True, saliency=True))
    assert plain.usage is not None
    assert salient.usage is not None
    assert salient.surprisal == plain.surprisal
    assert salient.usage.counts == plain.usage.counts
    norms, counts = np.array(salient.usage.norms), np.array(salient.usage.counts)
    assert ((norms > 0) == (counts > 0)).all()


def test_masks_are_compared_with_the_whole_model(engine: Engine, scoring: WindowScoring, ids: list[int]) -> None:
    masks = [ExpertMask.of([(0, 2)]), ExpertMask.of([(1, 0), (4, 5), (4, 6)])]
    whole, *masked = scoring.score(Score(ids=ids, window=WINDOW, masks=[mask.rows for mask in masks]))
    assert whole.usage is None
    assert whole.divergence == b""
    following = np.array(ids[1:])
    before = log_softmax(logits(engine, ids)[:-1], axis=1)
    for at, (found, mask) in enumerate(zip(masked, masks, strict=True)):
        assert (found.mask, found.unused) == (at, False)
        after = log_softmax(logits(engine, ids, mask)[:-1], axis=1)
        np.testing.assert_allclose(values(found.surprisal), -after[np.arange(len(ids) - 1), following], rtol=1e-9)
        np.testing.assert_allclose(
            values(found.divergence), rel_entr(np.exp(before), np.exp(after)).sum(1), rtol=1e-6, atol=1e-12
        )
        assert values(found.divergence).mean() > 1e-4
    np.testing.assert_allclose(values(whole.surprisal), -before[np.arange(len(ids) - 1), following], rtol=1e-9)


def test_a_base_mask_holds_in_every_evaluation(engine: Engine, scoring: WindowScoring, ids: list[int]) -> None:
    base, further = ExpertMask.of([(0, 2), (2, 1)]), ExpertMask.of([(0, 3)])
    both = ExpertMask.of([*base.pairs, *further.pairs])
    first, second = scoring.score(Score(ids=ids, window=WINDOW, base=base.rows, masks=[further.rows], usage=True))
    [alone] = scoring.score(Score(ids=ids, window=WINDOW, base=both.rows))
    [whole] = scoring.score(Score(ids=ids, window=WINDOW))
    assert first.usage is not None
    position = engine.model.layers.index
    assert [first.usage.counts[position(layer)][expert] for layer, expert in base.pairs] == [0, 0]
    assert first.usage.counts[position(0)][3] > 0
    assert second.surprisal == alone.surprisal
    assert len({first.surprisal, second.surprisal, whole.surprisal}) == 3


def test_an_unused_expert_is_skipped_because_it_changes_nothing(
    engine: Engine, scoring: WindowScoring, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = ids[:3]  # 3 tokens cannot select all of 8 experts twice
    every = [ExpertMask.of([(layer, expert)]).rows for layer in engine.model.layers for expert in range(8)]
    command = Score(ids=short, window=WINDOW, masks=every)
    skipped = list(scoring.score(command))
    monkeypatch.setattr("moe_watch.backends.scoring.windows.unused_has_no_effect", lambda *_: False)
    evaluated = list(scoring.score(command))
    assert not any(found.unused for found in evaluated)
    unused = [found.mask for found in skipped if found.unused]
    assert len(unused) >= 6 * (8 - 6)
    for found in skipped[1:]:
        if found.unused:
            assert (found.surprisal, found.divergence) == (b"", b"")
            same = evaluated[1 + found.mask]
            np.testing.assert_allclose(values(same.surprisal), values(evaluated[0].surprisal), rtol=0, atol=1e-5)
            assert values(same.divergence).max() <= 1e-10
        else:
            assert found == evaluated[1 + found.mask]
            # The last token's routing does not count: nothing is predicted after it.
    assert max(values(found.divergence).max() for found in skipped[1:] if not found.unused) > 1e-3


@pytest.mark.parametrize(
    ("gate", "has_none"),
    [
        ("top_k_softmax", True),
        ("softmax_top_k_renormalised×2.5", True),
        ("sigmoid_top_k", True),
        ("sigmoid_top_k_renormalised(sum+1e-06)", True),
        ("softmax_top_k", False),
        ("softmax_top_k_renormalised(sum≥6.103515625e-05)", False),
        ("sparsemixer(0.01)", False),
        ("unknown", False),
    ],
)
def test_masking_an_unused_expert_has_an_effect_with_some_gates(gate: str, has_none: bool) -> None:
    assert unused_has_no_effect(gate, None) == has_none
    assert unused_has_no_effect(gate, ExpertGroups(count=1, used=1)) == has_none
    assert not unused_has_no_effect(gate, ExpertGroups(count=4, used=2))


def test_a_window_longer_than_a_batch_is_the_same(
    engine: Engine, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of 16 and of 40 tokens see the same context."""
    monkeypatch.setattr("moe_watch.backends.llama.scoring.scorer.BATCH", 16)
    monkeypatch.setattr("moe_watch.backends.mlx.scorer.BATCH", 16)
    command = Score(ids=ids, window=WINDOW, usage=True, saliency=True, masks=[ExpertMask.of([(0, 2)]).rows])
    [*short], sizes = scored(engine, command)
    assert sizes[0] == [16, 16, 8]
    monkeypatch.undo()
    [*long], sizes = scored(engine, command)
    assert sizes[0] == [40]
    for one, other in zip(short, long, strict=True):
        np.testing.assert_allclose(values(one.surprisal), values(other.surprisal), rtol=0, atol=1e-4)
        np.testing.assert_allclose(values(one.divergence), values(other.divergence), rtol=0, atol=1e-4)
    assert short[0].usage is not None
    assert long[0].usage is not None
    assert short[0].usage.counts == long[0].usage.counts
    np.testing.assert_allclose(short[0].usage.norms, long[0].usage.norms, rtol=1e-4)


def scored(engine: Engine, command: Score) -> tuple[list[Scored], list[list[int]]]:
    """Evaluations of a window, and the number of tokens in each batch of each."""
    sizes: list[list[int]] = []
    scorer = engine.scorer(WINDOW, usage=True, saliency=True)

    class Counting(type(scorer)):  # type: ignore[misc]
        def evaluate(self, ids: Any) -> Any:
            sizes.append([])
            for batch in super().evaluate(ids):
                sizes[-1].append(len(batch.logits))
                yield batch

    scorer.__class__ = Counting
    scoring = WindowScoring(engine)
    scoring._scorer, scoring._made_for = scorer, (WINDOW, True, True)
    found = list(scoring.score(command))
    scoring.close()
    return found, sizes


def test_texts_begin_with_the_token_that_begins_a_text(engine: Engine, scoring: WindowScoring) -> None:
    found = scoring.tokenize(Tokenize(texts=["import os", ""]))
    assert found.begin == engine.codec.begin
    assert found.ids == [engine.encode("import os", turn=False, first=True), engine.encode("", turn=False, first=True)]
    assert [ids[0] for ids in found.ids] == [found.begin] * 2


def test_impossible_windows_are_refused_and_others_follow(
    engine: Engine, scoring: WindowScoring, ids: list[int]
) -> None:
    for command, why in (
        (Score(ids=[], window=WINDOW), "a window of 0 tokens"),
        (Score(ids=ids * 2, window=WINDOW), "does not fit into 64"),
        (Score(ids=ids, window=2049), r"a window of 2,049 tokens .*2,048"),
        (Score(ids=[*ids, engine.vocabulary], window=WINDOW), f"token {engine.vocabulary}"),
        (Score(ids=[-1], window=WINDOW), "token -1"),
        (Score(ids=ids, window=WINDOW, masks=[[(99, [0])]]), "no MoE layer 99"),
        (Score(ids=ids, window=WINDOW, masks=[[(0, [8])]]), "no expert 8"),
        (
            Score(ids=ids, window=WINDOW, base=[(0, [0, 1, 2])], masks=[[(0, [3, 4, 5, 6])]]),
            "would keep 1 of 8 experts",
        ),
    ):
        with pytest.raises(UserError, match=why):
            list(scoring.score(command))
    assert len(list(scoring.score(Score(ids=ids, window=WINDOW)))) == 1


def test_a_model_that_outputs_no_numbers_is_refused(
    scoring: WindowScoring, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    list(scoring.score(Score(ids=ids, window=WINDOW)))
    evaluate = scoring._scorer.evaluate  # type: ignore[union-attr]

    def broken(given: Any) -> Any:
        for batch in evaluate(given):
            wrong = np.array(batch.logits)
            wrong[7] = np.nan
            yield dataclasses.replace(batch, logits=wrong)

    monkeypatch.setattr(scoring._scorer, "evaluate", broken)
    with pytest.raises(UserError, match="pocket outputs NaN after token 7 of the window"):
        list(scoring.score(Score(ids=ids, window=WINDOW)))


@pytest.mark.parametrize(("value", "said"), [(np.nan, "NaN"), (-np.inf, "a probability of 0 after token 7")])
def test_usage_of_a_model_that_outputs_no_numbers_is_refused(
    scoring: WindowScoring, ids: list[int], monkeypatch: pytest.MonkeyPatch, value: float, said: str
) -> None:
    """A router with NaN hides the gate, so that its scores are not read: the selections are wrong all the same."""
    needs_surprisal = np.isinf(value)
    command = Score(ids=ids, window=WINDOW, surprisal=needs_surprisal, usage=True)
    list(scoring.score(command))
    evaluate = scoring._scorer.evaluate  # type: ignore[union-attr]

    def broken(given: Any) -> Any:
        for batch in evaluate(given):
            wrong = np.array(batch.logits)
            wrong[7, ids[8] if needs_surprisal else slice(None)] = value
            yield dataclasses.replace(batch, logits=wrong)

    monkeypatch.setattr(scoring._scorer, "evaluate", broken)
    with pytest.raises(UserError, match=f"pocket outputs {said}"):
        list(scoring.score(command))
