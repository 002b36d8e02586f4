"""llama.cpp's scorer: its context, its stops, and the norms of the experts' outputs."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from moe_watch.backends.llama.bindings import GgmlTensor
from moe_watch.backends.llama.context import ContextSettings
from moe_watch.backends.llama.engine import LlamaEngine
from moe_watch.backends.llama.scoring import norms as norms_module
from moe_watch.backends.llama.scoring import scorer as scorer_module
from moe_watch.backends.llama.scoring.norms import row_norms
from moe_watch.backends.llama.scoring.scorer import LlamaScorer, scoring_settings
from moe_watch.backends.llama.scoring.tap import ScoringTap
from moe_watch.backends.scoring.windows import WindowScoring
from moe_watch.backends.scoring_messages import Score, UsageSums
from moe_watch.routing.errors import UserError
from moe_watch.routing.router.masks import ExpertMask
from tests.backends import llama_files
from tests.backends.llama_files import Open

IDS = list(range(300, 348))
MASK = ExpertMask.of([(1, 3), (4, 0), (4, 7)])
TRUTH = pathlib.Path(__file__).parents[2] / "truth"


@pytest.fixture(scope="module")
def open_gguf() -> Iterator[Open]:
    with llama_files.opening() as load_path:
        yield load_path


@pytest.fixture(scope="module")
def pocket(open_gguf: Open) -> LlamaEngine:
    engine = open_gguf("pocket")
    assert isinstance(engine, LlamaEngine)
    return engine


@pytest.fixture
def scorers(pocket: LlamaEngine) -> Iterator[Any]:
    made: list[LlamaScorer] = []

    def make(*, usage: bool = False, saliency: bool = False) -> LlamaScorer:
        made.append(pocket.scorer(64, usage=usage, saliency=saliency))
        return made[-1]

    yield make
    for scorer in made:
        scorer.close()


def logits(scorer: LlamaScorer) -> np.ndarray:
    return np.concatenate([batch.logits.copy() for batch in scorer.evaluate(IDS)])


def norms(scorer: LlamaScorer) -> list[Any]:
    [batch] = scorer.evaluate(IDS)
    return batch.norms


# -- stops


def test_nothing_is_read_and_nothing_stops_without_need(scorers: Any) -> None:
    scorer = scorers()
    assert scorer._tap is None
    [batch] = scorer.evaluate(IDS)
    assert batch.routing.experts == [None] * 6
    assert batch.norms == []


def test_masks_do_not_depend_on_what_is_read(scorers: Any) -> None:
    """To the last bit: llama.cpp computes the same nodes, in the same order."""
    plain, reading = scorers(), scorers(usage=True)
    whole = logits(plain)
    np.testing.assert_array_equal(logits(reading), whole)
    plain.mask(MASK)
    reading.mask(MASK)
    masked = logits(plain)
    assert np.abs(masked - whole).max() > 0.1
    np.testing.assert_array_equal(logits(reading), masked)
    reading.observe(False)
    np.testing.assert_array_equal(logits(reading), masked)
    for scorer in (plain, reading):
        scorer.mask(ExpertMask())
        np.testing.assert_array_equal(logits(scorer), whole)


def test_a_masked_expert_is_never_selected(scorers: Any) -> None:
    scorer = scorers(usage=True)
    scorer.mask(MASK)
    [batch] = scorer.evaluate(IDS)
    for layer, expert in MASK.pairs:
        assert (batch.routing.experts[layer] != expert).all()
    for applied in batch.routing.weights:
        np.testing.assert_allclose(applied.sum(1), 1.0, rtol=1e-5)


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the nodes that the taps stop at."""
    found: list[str] = []
    call = ScoringTap._call

    def counted(tap: ScoringTap, address: int, ask: bool, data: Any) -> bool:
        if not ask:
            found.append(GgmlTensor.from_address(address).name.decode())
        return call(tap, address, ask, data)

    monkeypatch.setattr(ScoringTap, "_call", counted)
    return found


def test_stops_are_those_of_what_is_read(scorers: Any, stops: list[str]) -> None:
    usage = scorers(usage=True)
    stops.clear()
    logits(usage)
    assert stops == [f"ffn_moe_weights{step}-{layer}" for layer in range(6) for step in ("", "_norm")]
    usage.observe(False)
    stops.clear()
    logits(usage)
    assert set(stops) <= {"result_output"}  # llama.cpp's callback ends each pass with its last node
    usage.mask(MASK)
    logits(usage)
    masked = [name for name in stops if name != "result_output"]
    assert masked == [f"ffn_moe_{node}-{layer}" for layer in (1, 4) for node in ("logits", "weights")]


def test_a_mask_that_does_not_hold_is_an_error(scorers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_watch.backends.llama.tap.python_tap.switch_off", lambda *_: None)
    for usage in (False, True):
        scorer = scorers(usage=usage)
        scorer.mask(MASK)
        with pytest.raises(UserError, match=r"layer [14] selected expert [037], which is switched off"):
            logits(scorer)
        scorer.mask(ExpertMask())
        np.testing.assert_array_equal(logits(scorer), logits(scorers()))


# -- the context


def test_settings_are_those_of_the_run_with_smaller_batches() -> None:
    run = ContextSettings(8192, 3, on_gpu=True, exact=False, kv_type="q8_0", batch=2048, micro_batch=1024)
    usual = scoring_settings(run, 4096, vocabulary=50_000)
    assert usual == ContextSettings(4096, 3, on_gpu=True, exact=False, kv_type="q8_0", batch=512, micro_batch=512)
    large = scoring_settings(run, 4096, vocabulary=50_001)
    assert (large.batch, large.micro_batch) == (128, 128)
    assert scoring_settings(run, 1, vocabulary=9).batch == 2
    small = scoring_settings(ContextSettings(64, 1, on_gpu=False, exact=True, micro_batch=32), 512, vocabulary=9)
    assert (small.batch, small.micro_batch) == (512, 32)


def test_micro_batches_are_put_together(pocket: LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, *_ = _sums(pocket)
    monkeypatch.setattr(
        scorer_module,
        "scoring_settings",
        lambda settings, window, _: ContextSettings(window, 1, False, True, "f32", 64, 7),
    )
    in_parts, *_ = _sums(pocket)
    assert in_parts.counts == at_once.counts
    np.testing.assert_allclose(in_parts.weights, at_once.weights, rtol=1e-4)
    np.testing.assert_allclose(in_parts.norms, at_once.norms, rtol=1e-4)


def _sums(engine: LlamaEngine) -> list[UsageSums]:
    scoring = WindowScoring(engine)
    found = [scored.usage for scored in scoring.score(Score(ids=IDS, window=64, usage=True, saliency=True))]
    scoring.close()
    return [usage for usage in found if usage is not None]


def test_a_dense_model_has_predictions_only(open_gguf: Open) -> None:
    dense = open_gguf(TRUTH / "dense" / "llama" / "model.gguf")
    scoring = WindowScoring(dense)
    command = Score(ids=[3, 4, 5], window=8, usage=True, saliency=True)
    [whole] = scoring.score(command)
    assert whole.usage == UsageSums(rows=[], counts=[], norms=[])
    assert len(whole.surprisal) == 8 * 2
    with pytest.raises(UserError, match="it is a dense model"):
        list(scoring.score(Score(ids=[3, 4, 5], window=8, masks=[[(0, [0])]])))


# -- norms


def test_norms_are_of_outputs_times_weights(scorers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    [weighted] = scorers(usage=True, saliency=True).evaluate(IDS)
    monkeypatch.setattr(scorer_module, "nodes_of_outputs", lambda _: norms_module.DOWN)
    plain = norms(scorers(usage=True, saliency=True))
    for found, outputs, applied in zip(weighted.norms, plain, weighted.routing.weights, strict=True):
        assert found.shape == (len(IDS), 2)
        np.testing.assert_allclose(found, outputs * applied, rtol=1e-5)
    assert norms(scorers(usage=True)) == []


@pytest.mark.parametrize("floats", [1, 1000, 1 << 22], ids=["token by token", "in pieces", "at once"])
def test_norms_from_a_device_are_the_same(floats: int, scorers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = scorers(usage=True, saliency=True)
    mapped = norms(scorer)
    copied: list[int] = []
    get = norms_module.tensor_get
    monkeypatch.setattr(norms_module, "FLOATS", floats)
    monkeypatch.setattr(norms_module, "is_host_memory", lambda _: False)
    monkeypatch.setattr(norms_module, "tensor_get", lambda *call: (copied.append(call[3]), get(*call)))
    for one, other in zip(norms(scorer), mapped, strict=True):
        np.testing.assert_array_equal(one, other)
    assert sum(copied) == 6 * len(IDS) * 2 * 128 * 4
    assert max(copied) <= max(4 * floats, 2 * 128 * 4)


def test_rows_may_be_apart_in_memory() -> None:
    values = np.random.default_rng(0).standard_normal((5, 3, 8)).astype(np.float32)
    node = GgmlTensor(type=0, data=values.ctypes.data)
    node.ne[:], node.nb[:] = [6, 2, 5, 1], [4, *values.strides[1::-1], 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(norms_module, "is_host_memory", lambda _: True)
        np.testing.assert_allclose(row_norms(node), np.linalg.norm(values[:, :2, :6], axis=-1), rtol=1e-6)
        node.ne[2] = 0
        assert row_norms(node).shape == (0, 2)
        node.type = 1
        with pytest.raises(TypeError, match="has type 1"):
            row_norms(node)


def test_a_graph_without_the_node_is_refused_and_usage_is_not(
    pocket: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer_module, "nodes_of_outputs", lambda _: ("ffn_moe_renamed",))
    scoring = WindowScoring(pocket)
    with pytest.raises(UserError, match=r"the outputs of the experts of pocket cannot be read \(llama, layer 0"):
        list(scoring.score(Score(ids=IDS, window=64, usage=True, saliency=True)))
    [whole] = scoring.score(Score(ids=IDS, window=64, usage=True))
    assert whole.usage is not None
    assert np.sum(whole.usage.counts, axis=1).tolist() == [2 * len(IDS)] * 6


def test_weighted_inputs_are_not_taken_for_outputs(open_gguf: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    llama_4 = open_gguf(TRUTH / "models" / "llama4_text" / "model.gguf")
    monkeypatch.setattr(norms_module, "ON_INPUT", frozenset())
    with pytest.raises(RuntimeError, match="ffn_moe_weighted is the experts' input"):
        llama_4.scorer(64, usage=True, saliency=True)
