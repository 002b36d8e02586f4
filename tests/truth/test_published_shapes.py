"""Both engines against `transformers` on tiny models of published shape, over a prompt of several micro-batches.

`published_shapes_expected` has the expected result of each engine. A test also fails if more sets are equal than
expected: the engine then applies a setting that it ignored before. Take the model out of the table there (or add it to
`MLX_CORRECTED`, if moe-watch applies the setting and mlx-lm does not), and write the pages with
`python -m models.truth.mlx_table` and `python -m models.truth.llama_table`.
"""

from __future__ import annotations

import pathlib
from dataclasses import replace

import numpy as np
import pytest

from moe_watch.routing.arrays import ABSENT
from tests.truth import mlx_comparison as mlx
from tests.truth import published_shapes as shapes
from tests.truth.expected import GATES
from tests.truth.mlx_comparison import scale
from tests.truth.published_shapes_expected import (
    EXACT,
    LLAMA_APART,
    LLAMA_DIFFERENT,
    LLAMA_NOT_CONVERTED,
    MLX_APART,
    MLX_CORRECTED,
    MLX_DIFFERENT,
    Bounds,
    Different,
)

try:
    from tests.truth import llama_comparison as llama
except ImportError:
    llama = None  # type: ignore[assignment]

NAMES = shapes.names()
NOT_CORRECTED = [name for name in MLX_DIFFERENT if name not in MLX_CORRECTED]
EXACT_ON_MLX = [name for name in NAMES if name not in {*NOT_CORRECTED, *MLX_APART}]
CONVERTED = [name for name in NAMES if name not in LLAMA_NOT_CONVERTED]
needs_llama = pytest.mark.skipif(
    llama is None, reason="the llama.cpp engine is not installed: pip install moe-watch[llama]"
)

DOCS = pathlib.Path(__file__).parents[2] / "docs"
POINTS = 2.0
"""Percentage points by which the share of equal sets of a model that differs may be another one on another machine."""


def check_equal(found: mlx.Comparison | llama.Comparison, bounds: Bounds) -> None:
    assert len(found.unequal) <= bounds.unequal, f"sets that differ: {found.unequal[:10]}"
    assert found.weights is None or found.weights <= bounds.weights
    assert found.probabilities <= bounds.probabilities
    assert found.output_logits <= bounds.output_logits


def check_different(found: mlx.Comparison | llama.Comparison, known: Different) -> None:
    """The output differs, too: what was seen is what the engine does."""
    share = 100 * (1 - len(found.unequal) / found.rows)
    assert share == pytest.approx(known.share, abs=POINTS), (
        f"{share:.2f} % of sets are equal, and {known.share} % were expected, because {known.reason}. "
        "Was this fixed? Then update tests/truth/published_shapes_expected.py, and write the pages with their scripts"
    )
    assert found.output_logits > 0.01


def test_every_model_is_expected_to_do_something() -> None:
    assert {*MLX_DIFFERENT, *MLX_APART, *LLAMA_DIFFERENT, *LLAMA_APART, *LLAMA_NOT_CONVERTED} <= set(NAMES)
    converted = {path.parent.name for path in shapes.SHAPES.glob("*/model.gguf.xz")}
    assert converted == set(CONVERTED)


def test_every_family_has_a_published_shape() -> None:
    families = {name for name in GATES if not any(name.startswith(f"{other}_") for other in GATES)}
    assert len(families) > 30
    assert [family for family in families if not any(name.startswith(f"{family}_") for name in NAMES)] == []


@pytest.mark.parametrize("name", NAMES)
def test_shapes_are_near_published_ones(name: str) -> None:
    golden = shapes.read_golden(name)
    tokens, layers, selected = golden.experts.shape
    experts = golden.router_logits.shape[-1]
    assert tokens == len(golden.ids) == 600
    assert shapes.PROMPT > 512
    assert golden.weights.shape == golden.experts.shape
    assert golden.router_logits.shape == (len(golden.kept), layers, experts)
    assert len(golden.output_logits) == len(golden.kept)
    assert golden.experts.max() < experts
    assert (experts, selected) >= (8, 1)
    assert len(np.unique(golden.experts)) > experts * 0.25, "a router that always selects the same shows nothing"
    assert sum(path.stat().st_size for path in (shapes.SHAPES / name).iterdir()) < 1_300_000


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NOT_CORRECTED])
def test_mlx_routes_as_transformers(name: str) -> None:
    golden, seen = shapes.read_golden(name), shapes.run_on_mlx(name)
    assert seen.layers == golden.layers.tolist()
    check_equal(mlx.compare(seen, golden), MLX_APART.get(name, EXACT))


@pytest.mark.parametrize("name", [name for name in EXACT_ON_MLX if not name.startswith("gemma4")])
def test_on_mlx_weights_follow_from_the_logits(name: str) -> None:
    """The gate is the right one: with what it says, logits and sets give the weights that were applied."""
    golden, seen = shapes.read_golden(name), shapes.run_on_mlx(name)
    computed = seen.computed()
    assert computed.weights is not None
    expected = np.take_along_axis(golden.all_weights(), computed.experts, axis=-1)
    np.testing.assert_allclose(computed.weights * 1e-4, expected, rtol=0, atol=EXACT.weights * scale(seen.gate))


@pytest.mark.parametrize("name", MLX_DIFFERENT)
def test_what_mlx_lm_ignores_is_as_measured(name: str) -> None:
    check_different(
        mlx.compare(shapes.run_on_mlx(name, plain=True), shapes.read_golden(name)),
        MLX_DIFFERENT[name],
    )


def test_moe_watch_corrects_the_models_that_it_is_said_to() -> None:
    """Each of the others must go into `MLX_CORRECTED` when all of its sets are equal."""
    equal = {name for name in NOT_CORRECTED if not compare_mlx(name).unequal}
    assert equal == set()


def compare_mlx(name: str) -> mlx.Comparison:
    return mlx.compare(shapes.run_on_mlx(name), shapes.read_golden(name))


@needs_llama
@pytest.mark.parametrize("name", [name for name in CONVERTED if name not in LLAMA_DIFFERENT])
def test_llama_cpp_routes_as_transformers(name: str) -> None:
    golden, seen = shapes.read_golden(name), llama.run_shape(name)
    assert seen.layers == golden.layers.tolist()
    computed = seen.experts[..., 0] != ABSENT
    assert computed[:, :-1].all()
    assert computed[shapes.PROMPT - 1 :].all()
    check_equal(llama.compare(seen, golden), LLAMA_APART.get(name, EXACT))


@needs_llama
@pytest.mark.parametrize("name", LLAMA_DIFFERENT)
def test_what_llama_cpp_ignores_is_as_measured(name: str) -> None:
    check_different(
        llama.compare(llama.run_shape(name), shapes.read_golden(name)),
        LLAMA_DIFFERENT[name],
    )


@pytest.mark.parametrize("engine", ["mlx", pytest.param("llama.cpp", marks=needs_llama)])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_comparison_notices(engine: str, axis: int) -> None:
    """Sets and logits of the next token, or of the next layer."""
    name = "deepseek_v3_8_of_256"
    golden = shapes.read_golden(name)
    rolled = {key: np.roll(getattr(golden, key), 1, axis) for key in ("experts", "weights", "router_logits")}
    moved = replace(golden, **rolled)
    found = (
        mlx.compare(shapes.run_on_mlx(name), moved) if engine == "mlx" else llama.compare(llama.run_shape(name), moved)
    )
    assert len(found.unequal) > found.rows // 2
    assert found.weights is not None
    assert found.weights > 0.1


@pytest.mark.parametrize(
    ("page", "different"), [("families.md", MLX_DIFFERENT), ("families-llama.md", LLAMA_DIFFERENT)]
)
def test_the_page_names_every_shape_and_every_reason(page: str, different: dict[str, Different]) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert [name for name in NAMES if f"\n| {name} | " not in text] == []
    assert [known.reason for known in different.values() if known.reason not in text] == []
