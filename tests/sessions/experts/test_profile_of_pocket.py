"""Profiles of pocket with each engine: equal to a recorded run over the same tokens, and to each other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")
pytest.importorskip("mlx", reason="the MLX engine is not installed: pip install moe-watch[mlx]")

from moe_watch.backends.protocol import EngineOptions, Load
from moe_watch.backends.run_spec import RunSpec, SamplerOptions
from moe_watch.backends.scoring_messages import Score, UsageSums
from moe_watch.routing.events import Token
from moe_watch.routing.experts.sums import total
from moe_watch.sessions.experts.evaluated_usage import evaluate_corpora
from moe_watch.sessions.experts.profile_maker import make_profile
from moe_watch.sessions.experts.recorded_usage import usage_of_files
from moe_watch.sessions.experts.usage_groups import ObservedUsage
from moe_watch.sessions.imports.traces import ImportOptions
from moe_watch.sessions.live.environment import Surroundings
from moe_watch.sessions.live.headless import run_headless
from moe_watch.sessions.live.settings import RunSettings
from moe_watch.sessions.live.shared_worker import KeptWorker
from moe_watch.sessions.live.source import LiveSource
from moe_watch.sessions.reading.reader import read_session
from moe_watch.sessions.recording.options import RecordingOptions
from moe_watch.sessions.scoring.corpus import read_corpus
from tests.sessions.experts.test_evaluated_usage import Watched

pytestmark = pytest.mark.model
ENGINES = ("llama.cpp", "mlx")
SOURCE = Path(__file__).read_text(encoding="utf-8")
WINDOW = 64


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "python.jsonl"
    lines = SOURCE.split("\n\n")
    path.write_text("".join(json.dumps({"text": each, "domain": "ab"[at % 2]}) + "\n" for at, each in enumerate(lines)))
    return path


@pytest.fixture(scope="module")
def profiles(corpus: Path) -> dict[str, ObservedUsage]:
    options = EngineOptions(context=WINDOW)
    return {
        engine: evaluate_corpora(
            Load(model="pocket", backend=engine, options=options),  # type: ignore[arg-type]
            [read_corpus(corpus)],
            Watched(),
            window=WINDOW,
            saliency=True,
        )
        for engine in ENGINES
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_a_profile_is_that_of_a_recorded_run_over_the_same_tokens(engine: str, tmp_path: Path) -> None:
    """The run evaluates its tokens one by one, the profile all together; only the prompt's rows may be unobserved."""
    path = tmp_path / "run.moe.jsonl"
    settings = RunSettings(
        model="pocket",
        backend=engine,  # type: ignore[arg-type]
        spec=RunSpec(prompt="def", raw=True, tokens=200, seed=3, sampler=SamplerOptions(stop="never")),
        recording=RecordingOptions(output=path),
    )
    with KeptWorker(settings.load(), lambda progress: None) as worker:
        run_headless(LiveSource(settings, Surroundings(worker=worker.lend)), lambda item: None)
        worker._live = None
        tokens = [each for each in read_session(path) if isinstance(each, Token)]
        ids = [each.id for each in tokens]
        prompt = sum(each.phase == "prefill" for each in tokens)
        whole, before = (_scored(worker, ids[:length], len(ids)) for length in (len(ids), prompt))
    recorded = total(usage_of_files([path], ImportOptions()).groups[0].blocks)
    rows_of_prompt = recorded.rows - (len(ids) - prompt)
    assert set(rows_of_prompt.tolist()) <= {1, prompt}  # the last layer evaluates the last row of a prompt only
    all_rows = rows_of_prompt == prompt
    assert all_rows.sum() >= 5
    assert recorded.counts[all_rows].tolist() == np.array(whole.counts)[all_rows].tolist()
    assert recorded.weights is not None
    np.testing.assert_allclose(recorded.weights[all_rows], np.array(whole.weights)[all_rows], atol=0.5e-4 * len(ids))
    assert (np.array(whole.counts) - np.array(before.counts) <= recorded.counts).all()


def _scored(worker: KeptWorker, ids: list[int], window: int) -> UsageSums:
    [scored] = worker.score(Score(ids=ids, window=window, surprisal=False, usage=True))
    assert scored.usage is not None
    return scored.usage


def test_the_engines_agree(profiles: dict[str, ObservedUsage]) -> None:
    a, b = (total(block for group in profiles[engine].groups for block in group.blocks) for engine in ENGINES)
    assert a.rows.tolist() == b.rows.tolist()
    moved = np.abs(a.counts - b.counts).sum() / a.counts.sum()
    assert moved < 1e-3  # a tie of two experts may be rounded either way
    np.testing.assert_allclose(a.weights, b.weights, rtol=1e-2)
    np.testing.assert_allclose(a.saliency, b.saliency, rtol=1e-2)
    np.testing.assert_allclose(a.mean_entropy, b.mean_entropy, rtol=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_profile_is_whole(profiles: dict[str, ObservedUsage], engine: str) -> None:
    profile = make_profile(profiles[engine])
    assert profile.unavailable == {}
    assert (profile.num_hidden_layers, profile.num_experts, profile.num_experts_per_tok) == (6, 8, 2)
    assert profile.window == WINDOW
    assert profile.rows == dict.fromkeys(map(str, range(6)), profile.calibration_tokens)
    assert all(sum(counts) == 2 * profile.calibration_tokens for counts in profile.activation_counts.values())
    weights = profile.weight_mass
    assert weights is not None
    for mass in weights.values():  # the weights of a token sum to 1
        assert sum(mass) == pytest.approx(profile.calibration_tokens, rel=1e-5)
    assert [group.name for group in profile.groups] == ["a", "b"]
    assert profile.stability is not None
    assert profile.stability.across is not None
    assert profile.stability.within["saliency"].overlap["0"][-1] > 0.8


def test_windows_are_contexts_of_their_own() -> None:
    """A window is evaluated as if nothing came before it: the same text twice has the same counts twice."""
    worker = KeptWorker(
        Load(model="pocket", backend="llama.cpp", options=EngineOptions(context=WINDOW)), lambda _: None
    )
    with worker:
        [ids] = worker.tokenize([SOURCE[:200]]).ids
        other = worker.tokenize([SOURCE[-200:]]).ids[0]
        first = _scored(worker, ids[:WINDOW], WINDOW)
        _scored(worker, other[:WINDOW], WINDOW)
        again = _scored(worker, ids[:WINDOW], WINDOW)
        assert first == again
