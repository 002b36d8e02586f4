"""llama.cpp with experts switched off, and with another number of experts per token, against `transformers`."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from moe_watch.backends.llama.engine import LlamaEngine
from moe_watch.backends.llama.loading import LoadedLlamaModel, load_model
from moe_watch.backends.model_files import catalog
from moe_watch.backends.model_files.config import read_config
from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.arrays import ABSENT
from moe_watch.routing.errors import UserError
from moe_watch.routing.router.masks import ExpertGroups, ExpertMask
from tests.truth.expected import GATES
from tests.truth.llama_comparison import ignore, run_pieces
from tests.truth.llama_expected import DIFFERENT, NOT_CONVERTED
from tests.truth.masked.reference import (
    ANOTHER_K,
    MASKED,
    NOT_MASKED,
    SELECTS_TWO,
    Distance,
    Reference,
    distance,
    read_reference,
)
from tests.truth.mlx_comparison import MODELS, EngineRun, read_golden

CONVERTED = [name for name in GATES if name not in NOT_CONVERTED]
EQUAL = [name for name in CONVERTED if name not in DIFFERENT]

WEIGHTS, OUTPUT = 1e-5, 1e-4
"""Largest differences of weights, and of output logits."""
RECURRENT = (
    "bailing_hybrid",
    "granitemoehybrid",
    "jamba",
    "kimi_linear",
    "nemotron_h",
    "qwen3_5_moe_text",
    "qwen3_next",
)
"""Models whose recurrent layers add up rounding errors."""
RECURRENT_FACTOR = 10.0
"""Factor of both bounds for them."""
LOOKED_UP = {"gemma4_text": 5e-3}
"""llama.cpp looks the GELU up in a table of half precision."""


def load(name: str, options: EngineOptions) -> tuple[LlamaEngine, LoadedLlamaModel]:
    loaded = load_model(
        catalog.locate(str(MODELS / name / "model.gguf"), "llama.cpp"), options=options, progress=ignore
    )
    return LlamaEngine(loaded), loaded


def run(name: str, reference: Reference) -> tuple[EngineRun, EngineRun]:
    """Return the run at once and the run token by token, with the mask or the number of experts of the reference."""
    another_k = None if reference.mask else reference.k
    engine, loaded = load(name, EngineOptions(threads=1, experts_per_token=another_k))
    ids = reference.golden.ids.tolist()
    try:
        engine.mask(reference.mask)
        at_once = run_pieces(engine, loaded, [ids])
        engine.reset()
        stepwise = run_pieces(engine, loaded, [[token] for token in ids])
        assert engine.take_warnings() == []  # the gate holds for the weights that llama.cpp applied
        return at_once, stepwise
    finally:
        engine.close()


def check_equal(name: str, found: Distance) -> None:
    factor = RECURRENT_FACTOR if name in RECURRENT else 1.0
    assert found.unequal == 0
    assert found.output_logits <= LOOKED_UP.get(name, OUTPUT * factor)
    if "per_expert" in GATES[name]:
        assert found.weights is None
    else:
        assert found.weights is not None
        assert found.weights <= WEIGHTS * factor


def check_at_once(at_once: EngineRun, stepwise: EngineRun) -> None:
    """The sequence at once selects the same sets; in the last layer it computes the last token only."""
    computed = at_once.experts[..., 0] != ABSENT
    assert computed[:, :-1].all()
    np.testing.assert_array_equal(np.sort(at_once.experts)[computed], np.sort(stepwise.experts)[computed])
    np.testing.assert_allclose(at_once.output_logits[-1], stepwise.output_logits[-1], rtol=0, atol=1e-3)


def masked_selected(seen: EngineRun, mask: ExpertMask) -> int:
    """Return the number of masked experts among the selected ones."""
    return sum(
        int(np.isin(seen.experts[:, place], list(mask.masked(layer))).sum()) for place, layer in enumerate(seen.layers)
    )


def test_every_model_has_a_reference() -> None:
    assert sorted([*MASKED, *NOT_MASKED]) == sorted(GATES)
    assert sorted([*ANOTHER_K, *SELECTS_TWO]) == sorted(GATES)


@pytest.mark.parametrize("name", [name for name in EQUAL if name in MASKED])
def test_a_masked_model_routes_as_transformers(name: str) -> None:
    reference = read_reference(name, "masked.npz")
    whole = read_golden(name)
    at_once, stepwise = run(name, reference)
    check_equal(name, distance(stepwise, reference.golden))
    check_at_once(at_once, stepwise)
    assert masked_selected(stepwise, reference.mask) == 0
    assert np.isneginf(stepwise.logits).sum() == len(reference.mask) * len(whole.ids)
    assert masked_selected(_as_run(stepwise, whole.experts), reference.mask) > len(whole.ids) // 4


def _as_run(seen: EngineRun, experts: np.ndarray) -> EngineRun:
    return EngineRun(seen.layers, seen.gate, seen.logits, experts, None, seen.output_logits)


@pytest.mark.parametrize("name", [name for name in DIFFERENT if name in MASKED])
def test_no_masked_expert_is_selected_where_llama_cpp_differs(name: str) -> None:
    reference = read_reference(name, "masked.npz")
    at_once, stepwise = run(name, reference)
    assert masked_selected(at_once, reference.mask) == masked_selected(stepwise, reference.mask) == 0


@pytest.mark.parametrize("name", [name for name in EQUAL if name in ANOTHER_K])
def test_another_k_routes_as_transformers(name: str) -> None:
    reference = read_reference(name, "another_k.npz")
    at_once, stepwise = run(name, reference)
    assert stepwise.experts.shape[-1] == reference.k != read_golden(name).experts.shape[-1]
    check_equal(name, distance(stepwise, reference.golden))
    check_at_once(at_once, stepwise)


@pytest.mark.parametrize("name", CONVERTED)
def test_groups_are_those_of_the_config(name: str) -> None:
    config = read_config(MODELS / name)
    count = config.get("n_group") or config.get("num_expert_group") or 1  # Kimi's name
    used = config.get("topk_group") or 1
    engine, _ = load(name, EngineOptions(threads=1))
    try:
        assert engine.why_no_mask == ""
        assert engine.groups == (ExpertGroups(count, used) if count > 1 else None)
        if name in NOT_MASKED:
            with pytest.raises(UserError, match="would keep 1 of 2 experts"):
                engine.mask(ExpertMask.of([(engine.model.layers[0], 0)]))
    finally:
        engine.close()


def test_the_comparison_notices_another_mask() -> None:
    reference = read_reference("mixtral", "masked.npz")
    (layer, expert), *rest = reference.mask.pairs
    other = ExpertMask.of([(layer, (expert + 1) % 8), *rest])
    _, stepwise = run("mixtral", Reference(reference.golden, other))
    found = distance(stepwise, reference.golden)
    assert found.unequal > len(reference.golden.ids) // 4
    assert found.output_logits > 0.1


@pytest.mark.parametrize("name", ["glm4_moe", "ernie4_5_moe_biased", "dots1"])
def test_a_selection_bias_needs_a_mask_as_well(name: str) -> None:
    """A score of 0 plus the bias is among the highest for some token, which ends the run."""
    reference = read_reference(name, "masked.npz")
    engine, loaded = load(name, EngineOptions(threads=1))
    assert loaded.mask_nodes.names == ("ffn_moe_logits", "ffn_moe_probs_biased")
    loaded.tap._state.masked_at[1] = None
    try:
        engine.mask(reference.mask)
        with pytest.raises(UserError, match=r"layer \d selected expert \d, which is switched off"):
            run_pieces(engine, loaded, [reference.golden.ids.tolist()])
    finally:
        engine.close()
