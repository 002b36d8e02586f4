"""Options of an engine: their effect, and refusals."""

from __future__ import annotations

import pathlib
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

import gguf

from moe_watch.backends.engine import Engine
from moe_watch.backends.engine_options import KV_TYPES, SUPPORTED, check_ranges, check_support, flag
from moe_watch.backends.llama import model as llama_model
from moe_watch.backends.llama.bindings import buffer_types
from moe_watch.backends.model_files import catalog
from moe_watch.backends.model_files.catalog import load_engine, locate
from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Sampling
from tests.backends import llama_files, tiny

PROMPT = "def area(width, height):\n    return width"
QUANTISED = gguf.GGMLQuantizationType.Q8_0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("gguf")
    config = tiny.MIXTRAL | {"hidden_size": 128}  # heads of 32 numbers, the block size of quantised caches
    llama_files.write_gguf(folder / "wide.gguf", config)
    llama_files.write_gguf(folder / "quantised.gguf", config, experts_as=QUANTISED)
    llama_files.write_gguf(folder / "narrow.gguf")
    return folder


@pytest.fixture
def opened(files: pathlib.Path) -> Any:
    engines: list[Engine] = []

    def open_with(model: str = "wide", **options: Any) -> Engine:
        given = EngineOptions(**{"threads": 1} | options)
        location = locate(str(files / f"{model}.gguf"))
        engines.append(load_engine("llama.cpp", location, options=given, progress=lambda _: None))
        return engines[-1]

    yield open_with
    for engine in engines:
        engine.close()


def generated(engine: Engine, tokens: int = 20) -> list[tuple[int, list[list[int]]]]:
    """Ids and routing of a greedy run."""
    engine.reset()
    engine.configure(Sampling(temperature=0.0, seed=0, stop="never"), reseed=True)
    rows = [row for step in engine.prefill(engine.encode(PROMPT, turn=False, first=True), lambda _: None)
            for row in step.experts[0].tolist()]  # fmt: skip
    drawn = [engine.draw(last=True) for _ in range(tokens)]
    return [(-1, rows), *((one.id, [layer[0].tolist() for layer in one.routing.experts]) for one in drawn)]


# -- options in use are reported


def test_what_the_engine_chooses_is_said(opened: Any) -> None:
    assert opened().backend.settings == {
        "kv_type": "f32",
        "flash_attention": "off",
        "context": 2048,
        "batch": 512,
        "micro_batch": 512,
        "gpu_layers": 0,
        "mmap": True,
        "mlock": False,
    }


def test_an_inexact_model_has_a_half_cache(opened: Any) -> None:
    settings = opened("quantised").backend.settings
    assert (settings["kv_type"], settings["flash_attention"]) == ("f16", "on")


def test_a_float32_cache_is_exact_throughout(opened: Any) -> None:
    engine = opened("quantised", kv_type="F32")
    assert (engine.backend.settings["kv_type"], engine.backend.settings["flash_attention"]) == ("f32", "off")
    assert engine.backend.dtype.endswith("; F32 cache, flash attention off")


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_every_type_of_cache_runs(opened: Any, kv_type: str) -> None:
    engine = opened(kv_type=kv_type)
    assert engine.backend.settings["kv_type"] == kv_type
    assert len(generated(engine)) == 21


def test_a_coarse_cache_is_another_computation(opened: Any) -> None:
    """An unused cache type would leave every log-probability as it is."""

    def logprobs(engine: Engine) -> list[float]:
        engine.configure(Sampling(temperature=0.0, seed=0, stop="never"), reseed=True)
        list(engine.prefill(engine.encode(PROMPT, turn=False, first=True), lambda _: None))
        return [engine.draw(last=True).logprob for _ in range(5)]

    exact, coarse = logprobs(opened()), logprobs(opened(kv_type="q4_0"))
    assert max(abs(a - b) for a, b in zip(exact, coarse, strict=True)) > 1e-3


@pytest.mark.parametrize(
    ("asked", "batches"),
    [
        ({"batch": 16}, (16, 16)),
        ({"batch": 7, "micro_batch": 3}, (7, 3)),
        ({"micro_batch": 5}, (512, 5)),
        ({"micro_batch": 1024}, (1024, 1024)),
        ({"batch": 2}, (2, 2)),
        ({"context": 100}, (100, 100)),
    ],
)
def test_batches_change_nothing_that_is_seen(opened: Any, asked: dict[str, int], batches: tuple[int, int]) -> None:
    engine = opened(**asked)
    assert (engine.backend.settings["batch"], engine.backend.settings["micro_batch"]) == batches
    assert generated(engine) == generated(opened())


def test_a_long_batch_is_evaluated_at_once(opened: Any) -> None:
    reports: list[int] = []
    engine = opened(batch=1024)
    steps = [seen.tokens for seen in engine.prefill([5] * 1500, reports.append)]
    assert (steps, reports) == ([1024, 476], [1024, 1500])


def test_a_context_of_one_token(opened: Any) -> None:
    settings = opened(context=1).backend.settings
    assert (settings["context"], settings["batch"]) == (1, 2)


def test_a_context_of_so_many_tokens(opened: Any) -> None:
    engine = opened(context=100)
    assert (engine.context_length, engine.model.context_length, engine.backend.settings["context"]) == (100, 100, 100)
    assert engine.warnings == []
    with pytest.raises(UserError, match=r"^--context is 2049: use at most 2,048 tokens, which the model supports$"):
        opened(context=2049)


@pytest.mark.parametrize(
    ("asked", "used"),
    [
        ({"mmap": True}, (True, False)),
        ({"mmap": False}, (False, False)),
        ({"mlock": True}, (True, True)),
        ({"mmap": False, "mlock": True}, (False, True)),
        ({"mlock": False}, (True, False)),
    ],
)
def test_how_the_file_is_read(opened: Any, asked: dict[str, bool], used: tuple[bool, bool]) -> None:
    engine = opened(**asked)
    settings = engine.backend.settings
    if asked.get("mlock") and not settings["mlock"]:
        assert engine.warnings == ["--mlock has no effect, the system refused to lock memory: see `ulimit -l`"]
        used = (used[0], False)
    assert (settings["mmap"], settings["mlock"]) == used
    assert generated(engine) == generated(opened())


def test_what_is_not_locked_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {llama_model.LOAD_MODE: "mmap+mlock", llama_model.NOT_LOCKED: "failed to mlock", llama_model.OFFLOADED: "7"}
    monkeypatch.setattr(llama_model.log, "last", said.__getitem__)
    settings, warnings = llama_model._outcome(EngineOptions(mlock=True))
    assert settings == {"gpu_layers": 7, "mmap": True, "mlock": False}
    assert warnings == ["--mlock has no effect, the system refused to lock memory: see `ulimit -l`"]


def test_tensors_are_put_where_they_shall_be(opened: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert "CPU" in buffer_types()
    overrides = ["ffn_.*_exps=CPU", "blk=0=CPU"]
    engine = opened(tensor_overrides=overrides)
    assert engine.backend.settings["tensor_overrides"] == "; ".join(overrides)
    assert "tensor overrides to CPU" in capfd.readouterr().err, "llama.cpp says so when a pattern matches"
    assert generated(engine) == generated(opened())


# -- impossible options are refused


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"tensor_overrides": ["x=NOWHERE"]}, "--override-tensor: there is no buffer 'NOWHERE': use "),
        ({"tensor_overrides": ["(=CPU"]}, "cannot load wide (Mismatched '(' and ')' in regular expression)"),
        ({"threads": 100000}, "--threads is 100000"),
        ({"context": 0}, "--context is 0"),
    ],
)
def test_llama_cpp_says_what_it_cannot(opened: Any, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        opened(**asked)
    assert said in str(caught.value)


def test_layers_for_a_gpu_that_is_not_there(opened: Any) -> None:
    if llama_model.lib.llama_supports_gpu_offload():
        pytest.skip("this llama-cpp-python has a GPU")
    assert opened(gpu_layers=0).backend.settings["gpu_layers"] == 0
    for layers in (-1, 3):
        with pytest.raises(UserError, match=f"^--gpu-layers is {layers}, and this llama-cpp-python does not"):
            opened(gpu_layers=layers)


def test_a_cache_that_the_model_cannot_have(opened: Any) -> None:
    with pytest.raises(UserError, match=r"does not divide n_embd_head_k=16\): give another --kv-type$"):
        opened("narrow", kv_type="q8_0")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threads": 0}, "--threads is 0: use at least 1"),
        ({"gpu_layers": -2}, "--gpu-layers is -2: use 0 or more, or -1 for all"),
        ({"context": 0}, "--context is 0: use at least 1 token"),
        ({"context": 10**30}, f"--context is {10**30}: use 2,147,483,647 tokens at most"),
        ({"batch": 1}, "--batch is 1: use at least 2 tokens"),
        ({"micro_batch": -1}, "--micro-batch is -1: use at least 2 tokens"),
        (
            {"batch": 8, "micro_batch": 9},
            "--micro-batch is 9 and --batch 8: give a --micro-batch that is not larger than --batch",
        ),
        ({"kv_type": "f8"}, "--kv-type is 'f8': use one of f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl"),
        ({"tensor_overrides": ["exps"]}, "--override-tensor is 'exps': use PATTERN=BUFFER"),
        ({"tensor_overrides": ["=CPU"]}, "--override-tensor is '=CPU': use PATTERN=BUFFER"),
        ({"tensor_overrides": ["x="]}, "--override-tensor is 'x=': use PATTERN=BUFFER"),
    ],
)
def test_values_out_of_range(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        check_ranges(EngineOptions(**options))
    assert str(caught.value).startswith(said)


GIVEN = {
    "threads": 2, "gpu_layers": 0, "context": 64, "batch": 64, "micro_batch": 64, "mmap": False, "mlock": False,
    "kv_type": "f16", "experts_per_token": 2, "tensor_overrides": ["x=CPU"], "trust_remote_code": True,
}  # fmt: skip
"""A value for every option, none of them the default."""


def test_every_option_is_for_some_engine() -> None:
    assert set(GIVEN) == set(EngineOptions.__struct_fields__) == set().union(*SUPPORTED.values())
    assert set(SUPPORTED) == set(catalog.ENGINES)
    for engine, fields in SUPPORTED.items():
        check_support(engine, EngineOptions(**{field: GIVEN[field] for field in fields}))
    check_support("mlx", EngineOptions())


@pytest.mark.parametrize("field", [field for field in GIVEN if field not in SUPPORTED["mlx"]])
def test_mlx_refuses_what_it_could_only_ignore(field: str) -> None:
    with pytest.raises(UserError) as caught:
        check_support("mlx", EngineOptions(**{field: GIVEN[field]}))
    assert str(caught.value).startswith(f"the mlx backend does not support {flag(field)}: leave it out")


def test_a_gguf_file_brings_no_code_to_trust() -> None:
    with pytest.raises(UserError) as caught:
        check_support("llama.cpp", EngineOptions(trust_remote_code=True))
    assert str(caught.value) == (
        "the llama.cpp backend does not support --trust-remote-code: leave it out, or use --backend mlx"
    )


# -- MLX


def test_mlx_takes_a_context(mixtral_folder: pathlib.Path) -> None:
    location = locate(str(mixtral_folder))

    def load(**options: Any) -> Engine:
        return load_engine("mlx", location, options=EngineOptions(**options), progress=lambda _: None)

    engine = load(context=100)
    assert (engine.context_length, engine.model.context_length) == (100, 100)
    assert engine.backend.settings == {"kv_type": "f32", "context": 100}
    with pytest.raises(UserError, match="--context is 4096: use at most 2,048 tokens, which the model supports"):
        load(context=4096)
    with pytest.raises(UserError, match="the mlx backend does not support --threads"):
        load(threads=2)


def test_settings_survive_the_wire(opened: Any) -> None:
    backend = opened(kv_type="bf16").backend
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(backend), type=type(backend)) == backend
    assert all(isinstance(value, str | int | bool) and not isinstance(value, np.generic)
               for value in backend.settings.values())  # fmt: skip
