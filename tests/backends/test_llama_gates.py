"""What is said of a llama.cpp model's router weights is what it applies, and nothing is said that is not known."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from backends import llama_gate, llama_loading
from backends.llama_gate import ProbeTap
from backends.observation import captured
from routing.gates import UNKNOWN_GATE
from routing.observe import observe
from tests.backends import llama_files
from tests.backends.llama_files import Open
from tests.backends.test_mlx_engine import begin, draw, sets

FAMILIES = {
    "sigmoid": (llama_files.write_sigmoid, "sigmoid_top_k_renormalised", [0, 1]),
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


@pytest.mark.parametrize(
    ("claimed", "says"), [("SQRT", "is not known"), ("SOFT_MAX", "do not compute what they seem to")]
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
