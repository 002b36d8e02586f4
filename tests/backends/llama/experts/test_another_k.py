"""Another number of experts per token in llama.cpp: refusals, and the header.

Against `transformers`: tests/truth/masked.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import gguf
import pytest
from msgspec import UNSET

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from moe_watch.backends.engine import Engine
from moe_watch.backends.engine_sizes import EngineSizes, FailedSizes, SizesItem
from moe_watch.backends.llama import model
from moe_watch.backends.llama.engine import load
from moe_watch.backends.llama.experts import another_k
from moe_watch.backends.llama.experts.another_k import check_another_k, check_selected
from moe_watch.backends.memory.ask import ask_engine
from moe_watch.backends.model_files import catalog
from moe_watch.backends.model_files.gguf import GgufFile, read_parts
from moe_watch.backends.model_files.safetensors import TensorInfo
from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.errors import UserError
from tests.backends import llama_files, tiny
from tests.backends.mlx.test_engine import begin, draw
from tests.truth.mlx_comparison import MODELS

OpenWith = Callable[..., Engine]


@pytest.fixture
def open_with() -> Iterator[OpenWith]:
    with ExitStack() as stack:

        def open_path(path: pathlib.Path | str, k: int | None) -> Engine:
            options = EngineOptions(threads=1, experts_per_token=k)
            engine = load(catalog.locate(str(path), "llama.cpp"), options=options, progress=lambda _: None)
            stack.callback(engine.close)
            return engine

        yield open_path


def header(architecture: str = "qwen3moe", tensors: tuple[str, ...] = (), **numbers: int) -> GgufFile:
    metadata = {"general.architecture": architecture, **{f"{architecture}.{key}": n for key, n in numbers.items()}}
    infos = [TensorInfo(name=name, dtype="I32", shape=(3, 9), bytes=108) for name in tensors]
    return GgufFile(pathlib.Path("m.gguf"), metadata, infos)


def refused(k: int, file: GgufFile) -> str:
    with pytest.raises(UserError) as caught:
        check_another_k("tiny", [file], k)
    return str(caught.value)


def test_the_header_has_both_numbers(open_with: OpenWith) -> None:
    engine = open_with("pocket", 4)
    assert (engine.model.experts_per_token, engine.model.own_experts_per_token) == (4, 2)
    assert engine.backend.settings["experts_per_token"] == 4
    prompt = begin(engine)
    assert [rows.shape[1] for routing in prompt for rows in routing.experts] == [4] * 6
    assert [rows.shape for rows in draw(engine, 1)[0].routing.experts] == [(1, 4)] * 6
    assert not [warning for warning in engine.warnings if "expert" in warning]
    assert engine.take_warnings() == []


def test_the_own_number_is_no_other(open_with: OpenWith) -> None:
    engine, plain = open_with("pocket", 2), open_with("pocket", None)
    assert engine.model == plain.model
    assert engine.model.own_experts_per_token is UNSET
    assert engine.backend.settings["experts_per_token"] == 2
    assert "experts_per_token" not in plain.backend.settings


@pytest.mark.parametrize("k", [1, 8])
def test_one_expert_and_all_of_them_are_possible(k: int, open_with: OpenWith) -> None:
    engine = open_with("pocket", k)
    [token] = draw_after_prompt(engine)
    assert sorted(token.routing.experts[0][0].tolist())[-k:] == sorted(token.routing.experts[0][0].tolist())
    assert token.routing.experts[0].shape == (1, k)


def draw_after_prompt(engine: Engine) -> list:
    begin(engine)
    return draw(engine, 1)


def test_the_file_is_not_opened_by_llama_cpp_if_the_number_is_refused(
    open_with: OpenWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp would abort the process."""
    monkeypatch.setattr(model.lib, "llama_model_load_from_file", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(UserError, match="--experts-per-token is 9, and pocket has 8 experts per layer: give 1 to 8"):
        open_with("pocket", 9)


def test_a_dense_model_has_no_experts(open_with: OpenWith) -> None:
    with pytest.raises(UserError, match="--experts-per-token is 1, and model is a dense model"):
        open_with(MODELS.with_name("dense") / "llama" / "model.gguf", 1)


def test_groups_hold_enough_experts() -> None:
    grouped = header(expert_count=64, expert_used_count=6, expert_group_count=8, expert_group_used_count=2,
                     expert_feed_forward_length=32)  # fmt: skip
    check_another_k("tiny", [grouped], 16)
    assert refused(17, grouped).endswith("a token's 2 groups of tiny hold 16 experts: give 1 to 16")
    one_group = header("llama", expert_count=8, expert_used_count=2, expert_group_count=1, expert_group_used_count=1)
    check_another_k("tiny", [one_group], 8)


def test_files_made_for_one_number_are_refused() -> None:
    hashed = header("deepseek4", ("blk.0.ffn_gate_tid2eid.weight",), expert_count=8, expert_used_count=3)
    assert "selects the experts of some layers by token, from a table" in refused(2, hashed)
    assert "does not give the width of an expert" in refused(2, header(expert_count=8, expert_used_count=2))


def test_one_number_for_each_layer_is_refused(tmp_path: pathlib.Path, open_with: OpenWith) -> None:
    def by_layer(writer: gguf.GGUFWriter) -> None:
        writer.add_array("llama.expert_used_count", [2, 1])

    path = llama_files.write_gguf(tmp_path / "m.gguf", change=lambda writer: _replace(writer, by_layer))
    assert read_parts(path)[0].array("expert_used_count") == (2, 1)
    with pytest.raises(UserError, match="m has one number of experts per token for each layer"):
        open_with(path, 2)


def _replace(writer: gguf.GGUFWriter, add: Callable[[gguf.GGUFWriter], None]) -> None:
    writer.kv_data[0].pop("llama.expert_used_count")
    add(writer)


def test_an_architecture_that_ignores_the_number_is_refused(
    open_with: OpenWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An architecture whose code has a fixed number: here the override has the key of another entry."""
    monkeypatch.setattr(another_k, "KEY", "expert_shared_count")
    with pytest.raises(UserError, match=r"llama[.]cpp selects 2 experts in layer 0 of pocket"):
        open_with("pocket", 3)
    check_selected("tiny", 3, {0: 3, 4: 3})


def test_the_memory_of_a_model_with_another_number(tmp_path: pathlib.Path) -> None:
    """Buffers of activations grow with it; a number that is refused is the answer for that item only."""
    path = llama_files.write_gguf(
        tmp_path / "m.gguf", tiny.MIXTRAL | {"intermediate_size": 2048, "num_hidden_layers": 1}
    )
    asked = [SizesItem(model=str(path), options=EngineOptions(threads=1, experts_per_token=k)) for k in (None, 4, 5)]
    own, all_experts, refusal = ask_engine("llama.cpp", asked)
    assert isinstance(own, EngineSizes)
    assert isinstance(all_experts, EngineSizes)
    assert isinstance(refusal, FailedSizes)
    assert sum(buffer.compute for buffer in all_experts.buffers) > sum(buffer.compute for buffer in own.buffers)
    assert refusal.what == "--experts-per-token is 5, and m has 4 experts per layer"
