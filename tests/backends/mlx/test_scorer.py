"""Scoring of given tokens on MLX: every token's logits and routing, beside a run that is not affected."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from moe_watch.backends.engine import Engine, ScoredBatch
from moe_watch.backends.mlx import scorer as mlx_scorer
from moe_watch.backends.mlx.engine import load
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions
from moe_watch.backends.scoring.windows import WindowScoring
from moe_watch.backends.scoring_messages import Score
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Sampling
from moe_watch.routing.router.masks import ExpertMask
from tests.backends import tiny
from tests.backends.conftest import load_folder
from tests.backends.mlx.test_engine import begin, draw, logits, sets
from tests.backends.reference import log_softmax, reference

IDS = np.random.default_rng(7).integers(2, 258, 700).tolist()
MASK = ExpertMask.of([(1, 0), (2, 7)])
SAMPLED = Sampling(seed=3, stop="never")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny.write_model(tmp_path_factory.mktemp("qwen") / "m", tiny.QWEN3)


@pytest.fixture
def engine(folder: pathlib.Path) -> Engine:
    return load_folder(folder)


def score(engine: Engine, ids: list[int], *, usage: bool = True, saliency: bool = False) -> list[ScoredBatch]:
    scorer = engine.scorer(len(ids), usage=usage, saliency=saliency)
    found = list(scorer.evaluate(ids))
    scorer.close()
    return found


def test_all_tokens_are_predicted_and_routed_as_in_the_unwatched_model(engine: Engine, folder: pathlib.Path) -> None:
    batches = score(engine, IDS)
    assert [batch.routing.tokens for batch in batches] == [512, 188]
    expected = reference(folder, IDS, 3)
    np.testing.assert_allclose(np.concatenate([batch.logits for batch in batches]), expected.output, atol=1e-4)
    assert (sets([batch.routing for batch in batches]) == expected.sets).all()
    np.testing.assert_allclose(logits([batch.routing for batch in batches]), expected.logits, atol=1e-4)


def test_a_large_vocabulary_is_scored_in_smaller_batches(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate([batch.logits for batch in score(engine, IDS[:300])])
    monkeypatch.setattr(mlx_scorer, "LARGE_VOCABULARY", 257)
    batches = score(engine, IDS[:300])
    assert [len(batch.logits) for batch in batches] == [128, 128, 44]
    np.testing.assert_allclose(np.concatenate([batch.logits for batch in batches]), whole, atol=1e-4)


@pytest.mark.parametrize("watched", [True, False], ids=["tap on", "tap off"])
def test_scoring_between_the_tokens_of_a_run_changes_no_token(engine: Engine, watched: bool) -> None:
    """Also while MLX evaluates a token ahead, with another mask than that of the run."""
    run_mask = ExpertMask.of([(2, 3)])

    def run(*, scores: bool) -> tuple[list[int], list[list[object]]]:
        engine.reset()
        engine.observe(watched)
        engine.mask(run_mask)
        begin(engine, SAMPLED)
        drawn = draw(engine, 5)
        if scores:
            scorer = engine.scorer(300, usage=True, saliency=True)
            scorer.mask(MASK)
            evaluation = scorer.evaluate(IDS[:300])
            next(evaluation)
            drawn += draw(engine, 2)
            evaluation.close()
            drawn += draw(engine, 3)
        else:
            drawn += draw(engine, 5)
        return [token.id for token in drawn], [
            [None if rows is None else rows.tolist() for rows in token.routing.experts] for token in drawn
        ]

    types = {path: type(module).__mro__[1:] for path, module in engine._loaded.model.named_modules()}
    expected = run(scores=False)
    assert run(scores=True) == expected
    engine.reset()
    engine.observe(True)
    engine.mask(ExpertMask())
    assert {path: type(module).__mro__[1:] for path, module in engine._loaded.model.named_modules()} == types
    assert not engine._loaded.tap.frame.norms


def test_an_evaluation_begins_in_an_empty_context(engine: Engine) -> None:
    scorer = engine.scorer(64, usage=False, saliency=False)
    first, second = (np.concatenate([batch.logits for batch in scorer.evaluate(IDS[:64])]) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_without_usage_only_masked_layers_are_hooked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    tap = engine._loaded.tap
    original = tap.open
    monkeypatch.setattr(tap, "open", lambda positions=None: (opened.append(positions), original(positions)))
    scorer = engine.scorer(64, usage=False, saliency=False)
    list(scorer.evaluate(IDS[:64]))
    assert opened == [None]  # the hooks of the run, afterwards
    scorer.mask(ExpertMask.of([(2, 7)]))
    list(scorer.evaluate(IDS[:64]))
    assert [None if each is None else list(each) for each in opened[1:]] == [[1], None]


def test_a_masked_expert_that_is_selected_ends_the_evaluation(tmp_path: pathlib.Path) -> None:
    """Also without usage: an ablation must not compare the model with itself."""
    glm = load_folder(tiny.write_model(tmp_path / "glm", tiny.GLM4))
    [batch] = score(glm, IDS[:64])
    used = int(np.bincount(sets([batch.routing])[:, 0].ravel(), minlength=8).argmax())
    scorer = glm.scorer(64, usage=False, saliency=False)
    scorer.mask(ExpertMask.of([(1, used)]))
    assert len(list(scorer.evaluate(IDS[:64]))) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moe_watch.backends.mlx.masks.selection_biases", lambda _: iter(()))
        with pytest.raises(UserError, match=rf"layer 1 selects expert {used}, which is switched off"):
            list(scorer.evaluate(IDS[:64]))
    assert np.isfinite(next(iter(score(glm, IDS[:64]))).logits).all()


def test_norms_are_those_of_the_experts_outputs(engine: Engine, folder: pathlib.Path) -> None:
    """Recomputed from the container with all experts, and the weights that follow from the logits."""
    import mlx.core as mx

    [batch] = score(engine, IDS[:64], saliency=True)
    expected = reference(folder, IDS[:64], 3)
    for layer, (block, given) in enumerate(zip(expected.blocks, expected.inputs, strict=True)):
        every = mx.broadcast_to(mx.arange(8), (1, 64, 8))
        lengths = np.linalg.norm(np.array(block.switch_mlp(given, every))[0].astype(np.float64), axis=-1)
        chosen = batch.routing.experts[layer].astype(np.int64)
        shares = np.exp(np.take_along_axis(expected.logits[:, layer].astype(np.float64), chosen, 1))
        weighted = np.take_along_axis(lengths, chosen, 1) * shares / shares.sum(1, keepdims=True)
        assert batch.norms[layer].dtype == np.float32
        np.testing.assert_allclose(batch.norms[layer], weighted, rtol=2e-5)


def test_windows_are_scored_whole_and_masked(engine: Engine, folder: pathlib.Path) -> None:
    scoring = WindowScoring(engine)
    ids = IDS[:96]
    unused = ExpertMask()
    command = Score(ids=ids, window=96, masks=[MASK.rows, unused.rows], usage=True, saliency=True)
    whole, masked, same = scoring.score(command)
    scoring.close()
    surprisal = np.frombuffer(whole.surprisal, "<f8")
    expected = -np.take_along_axis(log_softmax(reference(folder, ids, 3).output)[:-1], np.array(ids)[1:, None], 1)[:, 0]
    np.testing.assert_allclose(surprisal, expected, atol=1e-4)
    assert whole.usage is not None
    assert [sum(counts) for counts in whole.usage.counts] == [3 * 96] * 2
    assert np.allclose([sum(weights) for weights in whole.usage.weights], 96)
    assert np.frombuffer(masked.divergence, "<f8").mean() > 1e-4
    assert same.unused or np.frombuffer(same.divergence, "<f8").max() < 1e-9


def test_what_cannot_be_scored_is_refused(engine: Engine, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="a window of 2,049 tokens does not fit into the context of 2,048"):
        engine.scorer(2049, usage=False, saliency=False)
    with pytest.raises(UserError, match="258"):
        score(engine, [2, 258])
    klear = load_folder(tiny.write_model(tmp_path / "klear", tiny.KLEAR))
    with pytest.raises(UserError, match="saliency of klear cannot be measured: the weights of mlx-lm's Klear"):
        klear.scorer(8, usage=True, saliency=True)
    assert len(score(klear, IDS[:8])) == 1


def test_an_evaluation_without_memory_is_a_plain_error(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("[malloc] Unable to allocate 9 bytes.")

    scorer = engine.scorer(8, usage=False, saliency=False)
    monkeypatch.setattr(mlx_scorer.mx, "eval", fails)
    with pytest.raises(UserError, match=r"cannot evaluate 8 tokens \(\[malloc\] Unable"):
        list(scorer.evaluate(IDS[:8]))


def test_half_precision_is_scored(tmp_path: pathlib.Path) -> None:
    import mlx.core as mx

    folder = tiny.write_model(tmp_path / "m", tiny.QWEN3, bits=4, dtype=mx.bfloat16)
    engine = load(catalog.locate(str(folder)), options=EngineOptions(), progress=lambda _: None)
    [batch] = score(engine, IDS[:40], saliency=True)
    assert (batch.logits.dtype, batch.norms[0].dtype) == (np.float32, np.float32)
    assert all((norms > 0).all() for norms in batch.norms)
