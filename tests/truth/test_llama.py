"""llama.cpp, seen through the engine, against `transformers`: the same sets, weights and probabilities, in each layer.

models/truth/make_gguf.py made the files, with llama.cpp's own converter.
"""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from moe_watch.backends.llama.ignored_settings import ignored, ignored_settings
from moe_watch.backends.model_files.gguf import read_gguf
from moe_watch.routing.arrays import ABSENT
from tests.truth.expected import GATES
from tests.truth.llama_comparison import compare, runs
from tests.truth.llama_expected import BEYOND_THE_RUN, DIFFERENT, NOT_CONVERTED, OTHER_GATES, gate_of
from tests.truth.mlx_comparison import MODELS, probabilities, read_golden

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "families-llama.md"

CONVERTED = [name for name in GATES if name not in NOT_CONVERTED]
EQUAL = [name for name in CONVERTED if name not in DIFFERENT]
OUTPUT_TOLERANCE = {"gemma4_text": 5e-3}
"""llama.cpp looks the GELU up in a table of half precision."""


def test_every_model_of_the_suite_is_converted_or_said_not_to_be() -> None:
    assert {path.parent.name for path in MODELS.glob("*/model.gguf")} == set(CONVERTED)
    assert {folder.name for folder in MODELS.iterdir()} == {*CONVERTED, *NOT_CONVERTED}
    assert {*DIFFERENT, *OTHER_GATES} < set(CONVERTED)


def test_the_page_names_every_model_and_every_reason() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in GATES if f"\n| {name} | " not in page] == []
    reasons = [*NOT_CONVERTED.values(), *(known.reason for known in DIFFERENT.values())]
    assert [reason for reason in reasons if reason not in page] == []


@pytest.mark.parametrize("name", CONVERTED)
def test_all_is_float32(name: str) -> None:
    assert {tensor.dtype for tensor in read_gguf(MODELS / name / "model.gguf").tensors} == {"F32"}
    assert runs(name).dtype == "F32 100 %; F32 cache, flash attention off"
    assert sum(path.stat().st_size for path in (MODELS / name).iterdir()) < 1_500_000


@pytest.mark.parametrize("name", CONVERTED)
def test_gates_and_layers_are_named_as_in_the_model(name: str) -> None:
    seen = runs(name).stepwise
    assert seen.gate == gate_of(name)
    assert seen.layers == read_golden(name).layers.tolist()


@pytest.mark.parametrize("name", EQUAL)
def test_llama_cpp_routes_as_transformers(name: str) -> None:
    golden = read_golden(name)
    tokens, layers = len(golden.ids), len(golden.layers)
    at_once, stepwise = compare(runs(name).at_once, golden), compare(runs(name).stepwise, golden)
    assert stepwise.rows == tokens * layers
    assert at_once.rows in (stepwise.rows, tokens * (layers - 1) + 1)
    for found in (at_once, stepwise):
        assert found.unequal == []
        assert found.probabilities <= 1e-3
        assert found.output_logits <= OUTPUT_TOLERANCE.get(name, 1e-3)
        if "per_expert" in GATES[name]:
            assert found.weights is None
        else:
            assert found.weights is not None
            assert found.weights <= 1e-4


@pytest.mark.parametrize("name", CONVERTED)
def test_token_by_token_is_the_sequence_at_once(name: str) -> None:
    at_once, stepwise = runs(name).at_once, runs(name).stepwise
    computed = at_once.experts[..., 0] != ABSENT
    assert computed[:, :-1].all()
    assert computed[-1].all()
    np.testing.assert_array_equal(np.sort(at_once.experts)[computed], np.sort(stepwise.experts)[computed])
    spread_out = [probabilities(seen.gate, seen.logits[computed]) for seen in (at_once, stepwise)]
    np.testing.assert_allclose(*spread_out, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", EQUAL)
def test_the_same_token_comes_next(name: str) -> None:
    assert runs(name).sampled == read_golden(name).output_logits[-1].argmax()


@pytest.mark.parametrize("name", CONVERTED)
def test_a_known_difference_is_warned_of_and_nothing_else_is(name: str) -> None:
    file = read_gguf(MODELS / name / "model.gguf")
    said = ignored_settings(file, gate_of(name), file.number("context_length") or 0)
    setting = DIFFERENT[name].warning if name in DIFFERENT else BEYOND_THE_RUN.get(name)
    assert said == ([] if setting is None else [ignored(setting, "llama.cpp")])


@pytest.mark.parametrize("name", DIFFERENT)
def test_known_differences_are_as_measured(name: str) -> None:
    """None may vanish or grow unnoticed. The output differs, too, so what is seen is what llama.cpp does."""
    golden, known, seen = read_golden(name), DIFFERENT[name], runs(name).stepwise
    found = compare(seen, golden)
    assert len(found.unequal) == pytest.approx(known.unequal, rel=0.1)
    assert found.probabilities == pytest.approx(known.probabilities, rel=0.1)
    assert found.output_logits == pytest.approx(known.output_logits, rel=0.1)
    assert known.output_logits > 0.1
    first = [probabilities(seen.gate, logits[0, 0]) for logits in (seen.logits, golden.router_logits)]
    assert np.allclose(*first, rtol=0, atol=1e-4) != known.before_any_router


def test_gpt_oss_differs_by_the_range_of_yarn_alone() -> None:
    rounded, seen = read_golden("gpt_oss"), runs("gpt_oss_untruncated_yarn").stepwise
    np.testing.assert_array_equal(rounded.ids, read_golden("gpt_oss_untruncated_yarn").ids)
    found = compare(seen, rounded)
    assert found.unequal == []
    assert max(found.probabilities, found.output_logits) <= 1e-3


@pytest.mark.parametrize("wrong", ["layer", "token"])
def test_the_comparison_notices(wrong: str) -> None:
    golden, seen = read_golden("deepseek_v3"), runs("deepseek_v3").stepwise
    axis = {"token": 0, "layer": 1}[wrong]
    moved = type(golden)(
        **{name: np.roll(value, 1, axis) if np.ndim(value) == 3 else value for name, value in vars(golden).items()}
    )
    found = compare(seen, moved)
    assert len(found.unequal) > found.rows // 2
    assert found.weights is not None
    assert min(found.weights, found.probabilities) > 0.1
