"""Experts that are switched off in llama.cpp's graph: both callbacks, their stops, and their errors.

Against `transformers`: tests/truth/masked.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from llama_cpp import llama_cpp as lib

from moe_watch.backends.engine import Engine
from moe_watch.backends.llama import bindings
from moe_watch.backends.llama.bindings import GgmlTensor
from moe_watch.backends.llama.compiler import CannotCompile, compiled_tap
from moe_watch.backends.llama.context import ContextSettings, evaluate, new_context
from moe_watch.backends.llama.engine import load
from moe_watch.backends.llama.tap import masking
from moe_watch.backends.llama.tap.base import Tap
from moe_watch.backends.llama.tap.compiled_tap import CompiledTap
from moe_watch.backends.llama.tap.masking import (
    DIFFERENT,
    FROM_A_TABLE,
    UNKNOWN_SELECTION,
    MaskedColumns,
    MaskNodes,
    Selection,
    mask_nodes,
    read_selection,
)
from moe_watch.backends.llama.tap.python_tap import PythonTap
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.errors import UserError
from moe_watch.routing.router.masks import ExpertGroups, ExpertMask
from moe_watch.routing.router.observe import observe
from tests.backends import llama_files
from tests.backends.llama_files import Open
from tests.backends.mlx.test_engine import begin, draw, logits, sets
from tests.truth.mlx_comparison import MODELS

IDS = list(range(2, 80))
POCKET_NODES = ("ffn_moe_logits",)
MASK = ExpertMask.of([(0, 3), (2, 0), (2, 5), (5, 7)])
VARIANTS = ["mixtral", "qwen3_moe", "olmoe", "glm4_moe", "ernie4_5_moe_biased", "gpt_oss", "llama4_text", "gemma4_text"]
"""Models of every form of the graph: softmax, sigmoid and bias, groups, softmax and bias, softmax of selected, …"""


@pytest.fixture(scope="module")
def open_gguf() -> Iterator[Open]:
    with llama_files.opening() as load_path:
        yield load_path


@pytest.fixture(scope="module")
def pocket(open_gguf: Open) -> Engine:
    return open_gguf("pocket")


@pytest.fixture
def engine(pocket: Engine) -> Iterator[Engine]:
    yield pocket
    pocket.observe(True)
    pocket.mask(ExpertMask())
    pocket.reset()


def no_compiler() -> None:
    raise CannotCompile("none here")


@pytest.fixture(scope="module")
def plain() -> Iterator[Engine]:
    """Pocket with the callback in Python."""
    with llama_files.opening() as load_path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("moe_watch.backends.llama.loading.compiled_tap", no_compiler)
            engine = load_path("pocket")
        yield engine


def model(name: str) -> str:
    return str(MODELS / name / "model.gguf")


def some_mask(engine: Engine) -> ExpertMask:
    """Return one expert in each layer but the last: a group keeps three of four."""
    layers = engine.model.layers if len(engine.model.layers) == 1 else engine.model.layers[:-1]
    return ExpertMask.of((layer, 2 + number % 4) for number, layer in enumerate(layers))


def outputs(engine: Any) -> np.ndarray:
    last = lib.llama_get_logits_ith(engine._loaded.context, -1)
    return np.ctypeslib.as_array(last, (engine.vocabulary,)).copy()


# -- both taps


@pytest.mark.parametrize("name", VARIANTS)
def test_both_callbacks_mask_the_same(name: str, open_gguf: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = open_gguf(model(name))
    monkeypatch.setattr("moe_watch.backends.llama.loading.compiled_tap", no_compiler)
    python = open_gguf(model(name))
    assert isinstance(python._loaded.tap, PythonTap)
    runs, ends = [], []
    for each in (compiled, python):
        each.mask(some_mask(each))
        prompt = begin(each, prompt=IDS[:40])
        runs.append(prompt + [token.routing for token in draw(each, 10)])
        ends.append(outputs(each))
    np.testing.assert_array_equal(*map(sets, runs))
    np.testing.assert_array_equal(*map(logits, runs))
    np.testing.assert_array_equal(*ends)
    seen = np.asarray(logits(runs[0]))
    for place, layer in enumerate(compiled.model.layers):
        off = [expert in some_mask(compiled).masked(layer) for expert in range(compiled.model.experts)]
        np.testing.assert_array_equal(np.isneginf(seen[-10:, place]), np.broadcast_to(off, (10, len(off))))


def test_without_a_mask_the_run_is_as_before(engine: Engine) -> None:
    def run(mask: ExpertMask) -> tuple[np.ndarray, np.ndarray]:
        engine.mask(mask)
        seen = begin(engine, prompt=IDS)
        return sets(seen), outputs(engine)

    before, masked, after = run(ExpertMask()), run(MASK), run(ExpertMask())
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])
    assert np.abs(masked[1] - before[1]).max() > 0.01


def test_a_mask_replaces_the_one_before(engine: Engine) -> None:
    """A mask of a layer is gone when another layer is masked; the next evaluation has the new one."""
    begin(engine, prompt=IDS)
    engine.mask(ExpertMask.of([(1, 4)]))
    engine.mask(ExpertMask.of([(3, 6)]))
    [token] = draw(engine, 1)
    off = {(layer, expert) for layer in range(6) for expert in np.flatnonzero(np.isneginf(token.routing.logits[layer]))}
    assert off == {(3, 6)}


@pytest.mark.parametrize("which", ["engine", "plain"])
def test_a_mask_holds_while_the_tap_is_off(which: str, request: pytest.FixtureRequest) -> None:
    each: Engine = request.getfixturevalue(which)
    each.mask(MASK)
    begin(each, prompt=IDS)
    observed = outputs(each)
    each.observe(False)
    begin(each, prompt=IDS)
    unobserved = outputs(each)
    each.mask(ExpertMask())
    begin(each, prompt=IDS)
    each.observe(True)
    np.testing.assert_array_equal(unobserved, observed)
    assert np.abs(outputs(each) - observed).max() > 0.01


@pytest.mark.parametrize("compiles", [True, False], ids=["compiled", "python"])
def test_a_prompt_in_micro_batches_is_masked_in_all_of_them(
    compiles: bool, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.mask(MASK)
    whole = sets(begin(engine, prompt=IDS))
    if not compiles:
        monkeypatch.setattr("moe_watch.backends.llama.loading.compiled_tap", no_compiler)
    location = catalog.locate("pocket", "llama.cpp")
    small = load(location, options=EngineOptions(threads=1, batch=16, micro_batch=8), progress=lambda _: None)
    try:
        small.mask(MASK)
        np.testing.assert_array_equal(sets(begin(small, prompt=IDS))[:, :-1], whole[:, :-1])
    finally:
        small.close()


def test_a_fork_keeps_the_mask(engine: Engine) -> None:
    engine.mask(MASK)
    begin(engine, prompt=IDS)
    with engine.fork() as rewind:
        first = [token.id for token in draw(engine, 8)]
        rewind()
        again = [token.id for token in draw(engine, 8)]
    assert first == again


def test_what_is_recorded_is_the_masked_router(engine: Engine) -> None:
    """π of a masked expert is 0, so the others sum to 1; the observation in C is NumPy's."""
    engine.mask(MASK)
    begin(engine, prompt=IDS)
    rows = engine._rows
    for token in draw(engine, 30):
        scores = rows.scores_in(token.routing._rows)
        ids = rows.experts_in(token.routing._rows)
        assert scores[2, [0, 5]].tolist() == [0, 0]
        np.testing.assert_allclose(scores.sum(-1), 1, atol=1e-6)
        seen = rows.observe(token.routing.words.reshape(1, 6, -1))
        expected = observe(None, ids[None], engine.model.gate, scored=scores[None])
        for quantity in ("experts", "weights", "entropy", "margin"):
            np.testing.assert_array_equal(getattr(seen, quantity), getattr(expected, quantity))
            assert getattr(expected, quantity).min() >= 0
        kept = np.delete(scores[2].astype(np.float64), [0, 5])
        entropy = -(kept * np.log(kept)).sum() / np.log(8)
        assert expected.entropy[0, 2] * 1e-4 == pytest.approx(entropy, abs=6e-5)
    assert engine.take_warnings() == []


def test_one_expert_left_is_certain(open_gguf: Open) -> None:
    """Of 8 experts 7 are off and one is selected: no entropy, and a margin of 1."""
    each = open_gguf(model("mixtral_top_1"))
    each.mask(ExpertMask.of((0, expert) for expert in range(8) if expert != 4))
    begin(each, prompt=IDS[:20])
    for token in draw(each, 5):
        seen = observe(np.stack(token.routing.logits, 1), np.stack(token.routing.experts, 1), each.model.gate)
        assert (seen.experts[0, 0, 0], seen.entropy[0, 0], seen.margin[0, 0]) == (4, 0, 10_000)


# -- stops


class Counted(Tap):
    """Tap that counts the stops of another one."""

    def __init__(self, tap: CompiledTap | PythonTap) -> None:
        self.tap = tap
        self.stops = Counter[str]()
        kind = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)
        inner = kind(ctypes.cast(tap.callback, ctypes.c_void_p).value)

        def call(address: int, ask: bool, _: Any) -> bool:
            if not ask:
                self.stops[GgmlTensor.from_address(address).name.decode().split("-")[0]] += 1
            return bool(inner(address, ask, tap.user_data))

        self.callback = lib.ggml_backend_sched_eval_callback(call)

    def observe(self, on: bool) -> None:
        self.tap.observe(on)

    def mask(self, columns: Any) -> None:
        self.tap.mask(columns)

    def read_applied(self, node: str | None) -> None:
        self.tap.read_applied(node)

    def take_applied(self) -> Any:
        return self.tap.take_applied()

    def peek(self) -> Any:
        return self.tap.peek()

    def pop(self) -> Any:
        return self.tap.pop()


def compiled(engine: Engine, *, apart: bool) -> CompiledTap:
    info = engine.model
    k = max(info.k_by_layer)
    sizes = {"rows": 512, "layers": len(info.layers), "experts": info.experts, "experts_per_token": k}
    return CompiledTap(compiled_tap(), **sizes, apart=apart, masked_at=engine._loaded.mask_nodes.names)


def python(engine: Engine, *, apart: bool) -> PythonTap:
    return PythonTap(apart=apart, masked_at=engine._loaded.mask_nodes.names)


def stops_with(engine: Engine, tap: Any, columns: dict[int, list[int]], *, on: bool = True) -> Counter[str]:
    """Return the stops of one token by node."""
    counted = Counted(tap)
    context = new_context(
        engine._loaded.model, ContextSettings(context=64, threads=1, on_gpu=False, exact=True), counted
    )
    try:
        counted.observe(on)
        counted.mask(columns)
        evaluate(context, [5])
        tap.pop()
    finally:
        lib.llama_free(context)
    return counted.stops


Make = Callable[..., Any]


@pytest.mark.parametrize("make", [compiled, python])
def test_a_masked_layer_takes_one_more_stop(make: Make, pocket: Engine) -> None:
    def stops(columns: dict[int, list[int]], **options: bool) -> Counter[str]:
        return stops_with(pocket, make(pocket, apart=False), columns, **options)

    reads = Counter(ffn_moe_weights=6)
    assert stops({}) == reads
    assert stops({2: [1]}) == reads + Counter(ffn_moe_logits=1)
    assert stops({2: [1, 3, 4]}) == reads + Counter(ffn_moe_logits=1)
    assert stops({layer: [0] for layer in range(6)}) == reads + Counter(ffn_moe_logits=6)
    assert stops({}, on=False) == Counter()
    assert stops({2: [1]}, on=False) == Counter(ffn_moe_logits=1)


@pytest.mark.parametrize("make", [compiled, python])
def test_a_masked_layer_with_a_bias_takes_two_more_stops(make: Make, open_gguf: Open) -> None:
    each = open_gguf(model("glm4_moe"))
    [first, *rest] = each.model.layers
    reads = Counter(ffn_moe_weights=1 + len(rest))
    assert stops_with(each, make(each, apart=False), {}) == reads
    masked = stops_with(each, make(each, apart=False), {first: [1]})
    assert masked == reads + Counter(ffn_moe_logits=1, ffn_moe_probs_biased=1)


@pytest.mark.parametrize("make", [compiled, python])
def test_scores_apart_are_a_stop_as_before(make: Make, pocket: Engine) -> None:
    found = stops_with(pocket, make(pocket, apart=True), {0: [1]})
    assert found == Counter(ffn_moe_weights=6, ffn_moe_probs=6, ffn_moe_logits=1)


# -- errors


@pytest.mark.parametrize("make", [compiled, python])
def test_a_masked_expert_among_the_selected_is_an_error(make: Make, pocket: Engine) -> None:
    """A graph where the mask has no effect: here its node has a name that does not exist."""
    settings = ContextSettings(context=256, threads=1, on_gpu=False, exact=True)
    tap = make(pocket, apart=False)
    if isinstance(tap, CompiledTap):
        tap._state.masked_at[0] = b"ffn_moe_other"
    else:
        tap = PythonTap(apart=False, masked_at=["ffn_moe_other"])
    context = new_context(pocket._loaded.model, settings, tap)
    try:
        tap.mask({1: [0, 1, 2, 3, 4]})
        evaluate(context, IDS)
        with pytest.raises(UserError, match=r"layer 1 selected expert [0-4], which is switched off"):
            tap.pop()
        assert tap.pop() == []
        tap.mask({})
        evaluate(context, [3])
        assert len(tap.pop()) == 6
    finally:
        lib.llama_free(context)


@pytest.mark.parametrize("which", ["engine", "plain"])
def test_a_mask_that_cannot_be_written_is_an_error(which: str, request: pytest.FixtureRequest) -> None:
    """With the tap off, too: a run that is said to be masked must not continue unmasked."""
    each: Engine = request.getfixturevalue(which)
    tap = each._loaded.tap
    wrong = pytest.MonkeyPatch()
    each.mask(MASK)
    each.observe(False)
    if isinstance(tap, CompiledTap):
        tap._state.scratch_capacity = 4
    else:
        wrong.setattr("moe_watch.backends.llama.tap.python_tap.F32", 7)
    with pytest.raises(RuntimeError, match=r"the tap failed: .*type"):
        begin(each, prompt=IDS)
    wrong.undo()
    each.mask(ExpertMask())
    each.observe(True)


def test_a_mask_that_leaves_no_choice_is_refused(engine: Engine) -> None:
    with pytest.raises(UserError, match="layer 3 would keep 1 expert, and selects 2 per token"):
        engine.mask(ExpertMask.of((3, expert) for expert in range(7)))
    with pytest.raises(UserError, match="has no MoE layer 6"):
        engine.mask(ExpertMask.of([(6, 0)]))


def test_a_dense_model_has_nothing_to_switch_off(open_gguf: Open) -> None:
    dense = open_gguf(str(MODELS.with_name("dense") / "llama" / "model.gguf"))
    with pytest.raises(UserError, match="experts of model cannot be switched off: it is a dense model"):
        dense.mask(ExpertMask.of([(0, 0)]))


# -- the graph


def test_layers_must_select_in_one_way() -> None:
    groups = ExpertGroups(4, 2)
    biased = Selection(logits="l", biased="b", groups=groups)
    assert mask_nodes({0: biased, 1: Selection(logits="l", groups=groups)}) == MaskNodes(("l", "b"), groups)
    assert mask_nodes({0: biased, 1: Selection(logits="l")}).problem == DIFFERENT
    assert mask_nodes({0: Selection(logits="l"), 1: Selection(logits="p")}).problem == DIFFERENT
    assert mask_nodes({0: biased, 4: Selection(problem="none")}) == MaskNodes(problem="none")


def test_ids_from_a_table_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in DeepSeek-V4's first layers: the ids are rows of a table, picked by token."""
    with bindings._sample() as (rows, source, _):
        node, scores = GgmlTensor(), GgmlTensor()
        scores.src[0] = source
        node.src[0], node.src[1] = ctypes.addressof(scores), rows
        assert read_selection(7, node).problem == FROM_A_TABLE.format(layer=7)
        node.src[1] = source
        assert read_selection(7, node).problem == UNKNOWN_SELECTION.format(layer=7)
        node.src[1] = None
        assert read_selection(7, node).problem == UNKNOWN_SELECTION.format(layer=7)


def test_an_unknown_ranking_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step between scores and ranking that is not known could select a masked expert."""
    known = masking.operation
    monkeypatch.setattr(masking, "operation", lambda address: {"ADD": "SUB"}.get(known(address), known(address)))
    with llama_files.opening() as load_path:
        each = load_path(model("ernie4_5_moe_biased"))
        assert each.why_no_mask == "the selection of layer 1 is not known"
        with pytest.raises(UserError, match="cannot be switched off: the selection of layer 1 is not known"):
            each.mask(ExpertMask.of([(1, 0)]))


def test_masked_experts_in_one_array() -> None:
    found = MaskedColumns.of({1: [4, 6], 3: [0]})
    assert (found.starts, found.experts) == ([0, 0, 2, 2, 3], [4, 6, 0])
    assert MaskedColumns.of({}).experts == []
