"""Dense models in both engines; what the engine evaluates must agree with the files, or the model is refused."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Iterator

import gguf
import mlx.core as mx
import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from moe_watch.backends.engine import Engine
from moe_watch.backends.llama import loading as llama_loading
from moe_watch.backends.llama.ignored_settings import ignored_settings
from moe_watch.backends.llama.tap.gate import check_rows
from moe_watch.backends.mlx import loading as mlx_loading
from moe_watch.backends.mlx.tap import RouterTap
from moe_watch.backends.model_files.dense import check_without_experts
from moe_watch.backends.model_files.gguf import read_gguf
from moe_watch.backends.protocol import Measure
from moe_watch.backends.worker.throughput import Measurements
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Sampling
from tests.backends import llama_files, tiny
from tests.backends.conftest import load_folder
from tests.backends.engines.test_fork_families import assert_forks_leave_no_trace
from tests.backends.mlx.test_engine import draw

UNRELIABLE = "its routing cannot be observed reliably"


@pytest.fixture(params=["mlx", "llama.cpp"])
def engine(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Engine]:
    """The same dense model in each engine."""
    if request.param == "mlx":
        yield load_folder(tiny.write_model(tmp_path / "llama", tiny.DENSE))
        return
    with llama_files.opening() as load_path:
        yield load_path(llama_files.write_gguf(tmp_path / "m.gguf", tiny.DENSE))


def test_both_engines_compute_the_same_text(tmp_path: pathlib.Path) -> None:
    folder = load_folder(tiny.write_model(tmp_path / "llama", tiny.DENSE))
    with llama_files.opening() as load_path:
        file = load_path(llama_files.write_gguf(tmp_path / "m.gguf", tiny.DENSE))
        texts = []
        for each in (folder, file):
            each.configure(Sampling(temperature=0.0, seed=0, stop="never"), reseed=True)
            list(each.prefill([2, 30, 40], lambda _: None))
            texts.append([(token.id, round(token.logprob, 3)) for token in draw(each, 20)])
    assert texts[0] == texts[1]


def test_a_fork_leaves_no_trace(engine: Engine) -> None:
    assert_forks_leave_no_trace(engine)


def test_throughput_is_measured(engine: Engine) -> None:
    measurements = Measurements(engine)
    for variant in ("bare", "tap off", "tap on"):
        for phase in ("decode", "prefill"):
            asked = Measure(variant=variant, phase=phase, prompt="Hello", tokens=20)  # type: ignore[arg-type]
            assert measurements.measure(asked) > 0


# -- llama.cpp


def test_llama_cpp_gets_no_callback(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe has one, to find routers that the file does not name; the context of the run has none."""
    taps: list[object] = []
    new_context = llama_loading.new_context

    def noted(model: object, settings: llama_loading.ContextSettings, tap: llama_loading.Tap | None) -> object:
        taps.append(tap.callback if tap else None)
        return new_context(model, settings, tap)

    monkeypatch.setattr(llama_loading, "new_context", noted)
    with llama_files.opening() as load_path:
        load_path(llama_files.write_gguf(tmp_path / "m.gguf", tiny.DENSE))
        assert [callback is None for callback in taps] == [False, True]
        taps.clear()
        load_path(llama_files.write_gguf(tmp_path / "x.gguf"))
        assert [callback is None for callback in taps] == [False, False]


def test_a_router_in_a_file_without_experts_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of an MoE model whose header was read without its number of experts: the probe sees the routers."""
    path = llama_files.write_gguf(tmp_path / "m.gguf")
    read_parts = llama_loading.read_parts

    def without_experts(path: pathlib.Path) -> list[object]:
        parts = read_parts(path)
        parts[0].metadata.pop("llama.expert_count")
        return list(parts)

    monkeypatch.setattr(llama_loading, "read_parts", without_experts)
    with llama_files.opening() as load_path, pytest.raises(UserError) as caught:
        load_path(path)
    assert str(caught.value) == f"m is dense by its files, but layer 0 has a router: {UNRELIABLE}: give another model"


def test_experts_without_a_router_in_the_graph_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        check_rows([])
    assert str(caught.value) == (
        f"no MoE layer was found in this model, though it has experts: {UNRELIABLE}: give another model"
    )


@pytest.mark.parametrize(
    ("architecture", "key"),
    [("gemma3", "attention.sliding_window"), ("olmo", "attention.clamp_kqv"), ("gemma2", "attn_logit_softcapping")],
)
def test_settings_that_llama_cpp_reads_in_dense_families_are_not_named(
    architecture: str, key: str, tmp_path: pathlib.Path
) -> None:
    def warnings(kind: str) -> list[str]:
        def change(writer: gguf.GGUFWriter) -> None:
            writer.add_float32(f"{kind}.{key}", 8.0)

        path = llama_files.write_gguf(tmp_path / f"{kind}.gguf", tiny.DENSE, architecture=kind, change=change)
        return ignored_settings(read_gguf(path), "none", 2048)

    assert warnings(architecture) == []
    assert len(warnings("llama")) == 1, "another family ignores it"


# -- MLX

Load = Callable[[dict[str, object]], Engine]


@pytest.fixture
def with_entries(tmp_path: pathlib.Path) -> Load:
    """Load the dense model with further entries in its config.json, without the checks of its files before."""

    def load(entries: dict[str, object]) -> Engine:
        folder = tiny.write_model(tmp_path / "m", tiny.DENSE)
        (folder / "config.json").write_text(json.dumps(tiny.DENSE | entries))
        return load_folder(folder)

    return load


def test_a_config_with_experts_and_no_moe_layer_is_refused(with_entries: Load) -> None:
    with pytest.raises(UserError) as caught:
        with_entries({"num_experts": 8, "num_experts_per_tok": 2})
    assert str(caught.value) == (
        f"no MoE layer was found in this model, though it has experts: {UNRELIABLE}: give another model"
    )


def test_a_config_with_experts_per_token_alone_is_refused(with_entries: Load) -> None:
    with pytest.raises(UserError, match=f"has num_experts_per_tok 2, but no number of experts: {UNRELIABLE}"):
        with_entries({"num_experts_per_tok": 2})


def test_moe_layers_of_a_model_that_is_dense_by_its_files_are_refused() -> None:
    model = tiny.random_model(tiny.MIXTRAL)
    with pytest.raises(UserError, match=f"m is dense by its files, but layer 0 has a router: {UNRELIABLE}"):
        mlx_loading._check_experts(model, RouterTap(model), "m", is_dense=True)


def test_modules_for_experts_outside_the_known_containers_are_refused() -> None:
    """A family whose experts are modules of a class that the tap has no hook for."""
    model = tiny.random_model(tiny.DENSE)
    mlx_loading._check_experts(model, RouterTap(model), "m", is_dense=True)
    block = model.layers[1].mlp
    block.__class__ = type("HiddenSparseMoeBlock", (type(block),), {})
    with pytest.raises(UserError, match=r"mlx-lm's model\.layers\.1\.mlp is a module for experts: its routing"):
        mlx_loading._check_experts(model, RouterTap(model), "m", is_dense=True)


def test_no_layer_is_fine() -> None:
    check_without_experts("m", [])


def test_a_window_that_mlx_lm_gives_to_no_layer_is_named(with_entries: Load) -> None:
    """Mistral 7B v0.1: all layers have a window, which mlx-lm's code reads and applies to none."""
    (warning,) = with_entries({"model_type": "mistral", "sliding_window": 64}).warnings
    assert warning.startswith("sliding_window 64 (limits attention to this number of tokens) is ignored by mlx-lm ")


@pytest.mark.parametrize("entries", [{"sliding_window": None}, {"sliding_window": 2048}, {"hidden_act": "silu"}])
def test_entries_without_an_effect_are_not_named(with_entries: Load, entries: dict[str, object]) -> None:
    assert with_entries({"model_type": "mistral"} | entries).warnings == []


def test_another_activation_is_named(with_entries: Load) -> None:
    (warning,) = with_entries({"hidden_act": "gelu"}).warnings
    assert warning.startswith('hidden_act "gelu" (is the activation of the experts or the MLP) is ignored by mlx-lm')


def test_half_precision_is_loaded(tmp_path: pathlib.Path) -> None:
    engine = load_folder(tiny.write_model(tmp_path / "h", tiny.DENSE, dtype=mx.bfloat16))
    assert (engine.model.is_dense, engine.model.gate) == (True, "none")
    assert engine.model.bytes == engine.model.non_expert_bytes


def test_a_quantized_dense_model_is_loaded(tmp_path: pathlib.Path) -> None:
    engine = load_folder(tiny.write_model(tmp_path / "q", tiny.DENSE, bits=4))
    assert engine.model.is_dense
    assert engine.model.quantization == "4-bit affine, groups of 32"
    engine.configure(Sampling(temperature=0.0, seed=0, stop="never"), reseed=True)
    list(engine.prefill([2, 3], lambda _: None))
    assert len(draw(engine, 3)) == 3
