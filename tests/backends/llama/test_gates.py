"""The gate of a llama.cpp model gives the weights that it applies; an unknown gate is absent."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from moe_watch.backends.generation.observation import captured
from moe_watch.backends.llama import loading as llama_loading
from moe_watch.backends.llama.tap import gate as llama_gate
from moe_watch.backends.llama.tap import gate_check as llama_gate_check
from moe_watch.backends.llama.tap.gate import ProbeTap
from moe_watch.backends.tap_rows import RecordedRouting
from moe_watch.routing.router.gates import UNKNOWN_GATE
from moe_watch.routing.router.observe import observe
from tests.backends import llama_files, tiny
from tests.backends.llama_files import Open
from tests.backends.mlx.test_engine import begin, draw, sets
from tests.backends.scripted import Session, start

BOUNDED = "sigmoid_top_k_renormalised(sum≥6.1035156e-05)"
"""llama.cpp divides by 2⁻¹⁴ at least."""

FAMILIES = {
    "sigmoid": (llama_files.write_sigmoid, BOUNDED, [0, 1]),
    "sigmoid, tiny scores": (lambda path: llama_files.write_sigmoid(path, logits_near=-12), BOUNDED, [0, 1]),
    "scaled": (llama_files.write_scaled, "softmax_top_k×2.5", [1, 2]),
    "gpt-oss": (llama_files.write_gpt_oss, "top_k_softmax", [0, 1]),
    "mixtral": (llama_files.write_gguf, "top_k_softmax", [0, 1]),
    "qwen2": (lambda path: llama_files.write_gguf(path, llama_files.QWEN2), "softmax_top_k", [0, 1, 2]),
    "qwen3": (lambda path: llama_files.write_gguf(path, llama_files.QWEN3), "softmax_top_k_renormalised", [0, 1, 2]),
}


@pytest.fixture(scope="module")
def open_gguf() -> Iterator[Open]:
    with llama_files.opening() as load_path:
        yield load_path


@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_weights_are_those_the_model_applies(
    family: str, open_gguf: Open, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, gate, layers = FAMILIES[family]
    probe = ProbeTap(apart=False)
    monkeypatch.setattr(llama_loading, "_tap", lambda *_: (probe, "the probe"))
    engine = open_gguf(write(tmp_path / "m.gguf"))
    assert (engine.model.gate, engine.model.layers, engine.warnings) == (gate, layers, [])
    begin(engine)
    for _ in range(30):
        routing = engine.draw().routing
        given = [np.stack(rows, axis=1) for rows in (routing.logits, routing.experts)]
        observed = observe(*given, gate)
        applied = np.stack([[*probe.steps[layer].values()][-1] for layer in layers])
        order = np.argsort(given[1][0], axis=-1)
        ours = np.argsort(observed.experts[0], axis=-1)
        np.testing.assert_allclose(
            np.take_along_axis(observed.weights[0], ours, -1) * 1e-4, np.take_along_axis(applied, order, -1), atol=6e-5
        )


def test_a_sum_below_llama_cpps_bound_leaves_weights_that_do_not_sum_to_one(
    open_gguf: Open, tmp_path: pathlib.Path
) -> None:
    engine = open_gguf(llama_files.write_sigmoid(tmp_path / "m.gguf", logits_near=-12))
    prompt = [tiny.BOS, *range(40, 80)]
    [routing] = begin(engine, prompt=prompt)
    scored, chosen = 1 / (1 + np.exp(-routing.logits[0].astype(np.float64))), routing.experts[0]
    sums = np.take_along_axis(scored, chosen.astype(np.int64), -1).sum(-1)
    assert sums[0] > 0.1
    assert sums[1:].max() < 2.0**-14
    observed = observe(routing.logits[0][:, None], chosen[:, None], engine.model.gate)
    found = observed.weights[:, 0].sum(-1) * 1e-4
    np.testing.assert_allclose(found, sums / np.maximum(sums, 2.0**-14), atol=1e-4)
    assert found[1:].max() < 0.9


@pytest.mark.parametrize("compiler", ["cc", "no-such-compiler"])
def test_a_gate_that_fails_at_a_later_token_is_noticed_and_the_engines_weights_are_taken(
    compiler: str, open_gguf: Open, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first token of a context does not show the bound; the gate is given without it, as if it were not known."""
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setattr(llama_gate, "_smallest_sum", lambda *_: 0.0)
    engine = open_gguf(llama_files.write_sigmoid(tmp_path / "m.gguf", logits_near=-12))
    gate = engine.model.gate
    assert gate == "sigmoid_top_k_renormalised"
    begin(engine, prompt=[tiny.BOS])
    assert engine.take_warnings() == []
    drawn = draw(engine, llama_gate_check.EVERY + 3)
    [warning] = engine.take_warnings()
    assert warning.startswith(f"near position {llama_gate_check.EVERY} the weights of layer 0 do not follow the gate")
    assert [bool(token.routing.weights) for token in drawn] == [False] * (llama_gate_check.EVERY - 1) + [True] * 4
    for token in drawn[llama_gate_check.EVERY - 1 :]:
        for logits, experts, weights in zip(
            token.routing.logits, token.routing.experts, token.routing.weights, strict=True
        ):
            scored = np.take_along_axis(1 / (1 + np.exp(-logits.astype(np.float64))), experts.astype(np.int64), -1)
            np.testing.assert_allclose(weights, scored / 2.0**-14, rtol=1e-4)
    begin(engine, prompt=[tiny.BOS])
    assert engine.take_warnings() == [
        f"the router weights do not follow the gate {gate}: weights are read from llama.cpp"
    ]


def test_a_run_says_once_that_its_weights_are_the_engines(
    open_gguf: Open, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_gate, "_smallest_sum", lambda *_: 0.0)
    session = Session(open_gguf(llama_files.write_sigmoid(tmp_path / "m.gguf", logits_near=-12)))
    session.run(start(tokens=5))
    [said] = session.warnings
    assert said.startswith("near position 1 the weights of layer 0 do not follow the gate sigmoid_top_k")
    sums = [sum(token.weights[:2]) for token in session.tokens]
    assert sums[0] == pytest.approx(10_000, abs=1)
    assert max(sums[1:]) < 9000


def test_a_sound_gate_is_checked_without_a_trace(
    open_gguf: Open, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checked tokens have the same routing as unchecked ones, and are read the fast way."""
    engine = open_gguf(llama_files.write_sigmoid(tmp_path / "m.gguf", logits_near=-12))
    runs = []
    for every in (1, 10**9):
        monkeypatch.setattr(llama_gate_check, "EVERY", every)
        begin(engine, prompt=[tiny.BOS])
        drawn = draw(engine, 20)
        assert {type(token.routing) for token in drawn} == {RecordedRouting}
        runs.append([token.routing for token in drawn])
        assert engine.take_warnings() == []
    np.testing.assert_array_equal(*map(sets, runs))


@pytest.mark.parametrize(
    ("claimed", "says"), [("SQRT", "is not known"), ("SOFT_MAX", "do not fit the gate in the graph")]
)
def test_a_gate_that_is_not_known_or_does_not_hold_shows_experts_only(
    claimed: str, says: str, open_gguf: Open, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_gate, "operation", lambda _: claimed)
    engine = open_gguf(llama_files.write_sigmoid(tmp_path / "sigmoid.gguf"))
    assert engine.model.gate == UNKNOWN_GATE
    assert captured(engine.model.gate) == ["experts", "logprob"]
    [warning] = engine.warnings
    assert says in warning
    assert warning.endswith("only the selected experts are shown")
    routings = begin(engine) + [token.routing for token in draw(engine, 30)]
    assert {layer is None for routing in routings for layer in routing.logits} == {True}
    assert set(np.unique(sets(routings))) == {-1, 0, 1, 2, 3}
