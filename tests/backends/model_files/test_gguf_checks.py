"""GGUF files in the field: refused in one line before llama.cpp aborts on their metadata, or run."""

from __future__ import annotations

import pathlib
from typing import Any

import gguf
import numpy as np
import pytest

from moe_watch.backends.model_files import catalog
from moe_watch.backends.model_files.gguf import GgufFile, read_gguf
from moe_watch.backends.model_files.gguf_checks import check_model
from moe_watch.backends.model_files.preflight import preflight
from moe_watch.routing.errors import UserError
from tests.backends import llama_files, pocket_variants
from tests.backends.mlx.test_engine import begin, draw
from tests.backends.pocket_variants import TYPES, Tensors, number, numbers

CONVERT = "convert the model again, or download another conversion of it"


MINIMAX = {"minimax-m2.expert_count": 8, "minimax-m2.expert_used_count": 2}


def in_16_bits(tensors: Tensors) -> Tensors:
    """The routers' weights as integers."""
    return {name: (data * 1000).astype(np.int16) if "ffn_gate_inp" in name else data for name, data in tensors.items()}


def groups(count: int, used: int) -> dict[str, Any]:
    return {"changed": {".expert_group_count": number(count), ".expert_group_used_count": number(used)}}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no expert is used": ({"changed": {".expert_used_count": number(0)}}, "selects no experts for a token"),
    "none in any layer": ({"changed": {".expert_used_count": numbers([0] * 6)}}, "selects no experts for a token"),
    "more are used than there are": (
        {"changed": {".expert_used_count": number(9)}},
        "selects 9 of 8 experts for a token (llama.expert_used_count)",
    ),
    "more in one layer": (
        {"changed": {".expert_used_count": numbers([2, 2, 9, 2, 2, 2])}},
        "selects 9 of 8 experts for a token",
    ),
    "numbers for other layers": (
        {"changed": {".expert_used_count": numbers([2] * 5)}},
        "llama.expert_used_count of m has 5 numbers for 6 layers",
    ),
    "used ones are not named": (
        {"dropped": [".expert_used_count"]},
        "does not give the number of experts per token (llama.expert_used_count is missing)",
    ),
    "experts are not named": (
        {"dropped": [".expert_count"]},
        "has routers, but llama.expert_count does not give the number of experts",
    ),
    "no experts": ({"changed": {".expert_count": number(0)}}, "has routers, but llama.expert_count does not give"),
    "experts by layer": (
        {"changed": {".expert_count": numbers([8] * 6)}},
        "has one number of experts per layer (llama.expert_count is an array), which llama.cpp does not read",
    ),
    "too many experts": (
        {"changed": {".expert_count": number(2000)}},
        "has 2,000 experts: give a model with at most 1,024",
    ),
    "one tensor per expert": (
        {"of": pocket_variants.one_tensor_per_expert},
        f"one tensor per expert, a format from before April 2024 that llama.cpp no longer reads: {CONVERT}",
    ),
    "a router of integers": ({"of": in_16_bits}, "tensor 'blk.0.ffn_gate_inp.weight' of m has type I16"),
    "uneven groups": (groups(3, 1), "divides 8 experts into 3 groups"),
    "groups of one": (groups(8, 1), "divides 8 experts into 8 groups"),
    "all groups are used": (groups(4, 4), "uses 4 of 4 groups of experts"),
    "no group is used": (groups(4, 0), "uses 0 of 4 groups of experts"),
    "no layers": ({"changed": {".block_count": number(0)}}, "claims 0 layers"),
    "more layers predict ahead than there are": (
        {"changed": {".nextn_predict_layers": number(7)}},
        "claims 7 nextn_predict_layers of 6 layers",
    ),
    **{
        f"a norm with {value}": (
            {"changed": {".attention.layer_norm_rms_epsilon": (TYPES.FLOAT32, value)}},
            f"has llama.attention.layer_norm_rms_epsilon {value:g}",
        )
        for value in (-1.0, float("nan"), float("inf"))
    },
    **{
        f"{rotated} rotated dimensions": (
            {"changed": {".rope.dimension_count": number(rotated)}},
            f"rotates {rotated:,} of 32 dimensions of a head",
        )
        for rotated in (0, 1, 5, 64, 2**32 - 1)
    },
    "no context": ({"changed": {".context_length": number(0)}}, "claims a context of 0 tokens"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_cannot_run_is_said_by_its_metadata(case: str, tmp_path: pathlib.Path) -> None:
    variant, says = REFUSED[case]
    path = pocket_variants.write(tmp_path / "m.gguf", **variant)
    with pytest.raises(UserError) as caught:
        preflight(catalog.locate(str(path)))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "dense" not in str(caught.value)


@pytest.mark.parametrize("function", [0, 5, 2**32 - 1])
def test_scores_that_llama_cpp_does_not_know_are_named_where_it_reads_them(
    function: int, tmp_path: pathlib.Path
) -> None:
    changed = {".expert_gating_func": number(function)}
    path = pocket_variants.write(tmp_path / "m.gguf", changed, architecture="minimax-m2")
    reads_it = GgufFile(path, read_gguf(path).metadata | MINIMAX, [])
    with pytest.raises(UserError, match=f"m has minimax-m2.expert_gating_func {function}"):
        check_model("m", [reads_it])
    preflight(catalog.locate(str(pocket_variants.write(tmp_path / "pocket.gguf", changed))))


def test_tensors_that_overlap_are_named(tmp_path: pathlib.Path) -> None:
    path = pocket_variants.write(tmp_path / "m.gguf")
    data = bytearray(path.read_bytes())
    first, second = gguf.GGUFReader(path).tensors[:2]
    offset = second.field.parts[-1]
    place = data.index(second.name.encode()) + len(second.name) + 4 + 8 * len(second.shape) + 4
    assert data[place : place + 8] == offset.tobytes()
    data[place : place + 8] = (int(offset[0]) - 32).to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"is corrupt: tensors '{first.name}' and '{second.name}' overlap"):
        read_gguf(path)


def test_short_arrays_of_integers_are_read(tmp_path: pathlib.Path) -> None:
    path = pocket_variants.write(tmp_path / "m.gguf", {".expert_used_count": numbers([2, 1, 2, 1, 2, 1])})
    file = read_gguf(path)
    assert file.array("expert_used_count") == (2, 1, 2, 1, 2, 1)
    assert file.array("expert_count") is None
    assert str(file.metadata["llama.expert_used_count"]).startswith("6 items, ")


NOT_LOADED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a count in 16 bits": (
        {"changed": {".expert_count": (TYPES.UINT16, 8)}},
        "key llama.expert_count has wrong type u16 but expected type u32",
        CONVERT,
    ),
    "a size that is missing": (
        {"dropped": [".embedding_length"]},
        "key not found in model: llama.embedding_length",
        CONVERT,
    ),
    "a pre-tokenizer of the future": (
        {"changed": {"tokenizer.ggml.pre": (TYPES.STRING, "qwen99")}},
        "unknown pre-tokenizer type: 'qwen99'",
        "try a newer llama-cpp-python or another model",
    ),
}


@pytest.mark.parametrize("case", NOT_LOADED)
def test_a_newer_engine_is_advised_only_where_it_could_help(case: str, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")
    variant, reason, advice = NOT_LOADED[case]
    path = pocket_variants.write(tmp_path / "m.gguf", **variant)
    with llama_files.opening() as load_path, pytest.raises(UserError) as caught:
        load_path(path)
    assert reason in str(caught.value)
    assert str(caught.value).endswith(f"): {advice}")


# -- what can be run

RUNS: dict[str, tuple[dict[str, Any], int, list[str]]] = {
    "one expert": ({"changed": {".expert_used_count": number(1)}}, 1, []),
    "three": ({"changed": {".expert_used_count": number(3)}}, 3, []),
    "all": ({"changed": {".expert_used_count": number(8)}}, 8, []),
    "the same in every layer": ({"changed": {".expert_used_count": numbers([2] * 6)}}, 2, []),
    "another number in one layer, which this architecture does not read": (
        {"changed": {".expert_used_count": numbers([2, 2, 2, 1, 2, 2])}},
        2,
        ["llama.expert_used_count by layer is ignored by llama.cpp: all numbers are computed without it"],
    ),
    "half of the groups": (groups(4, 2), 2, []),
    "a context without bounds": (
        {"changed": {".context_length": number(2**32 - 1)}},
        2,
        ["the context is limited to 8,192 of 4,294,967,295 tokens, to save memory"],
    ),
    "a scale that is not read": (
        {"changed": {".expert_weights_scale": (TYPES.FLOAT32, 2.5)}},
        2,
        ["llama.expert_weights_scale 2.5 is ignored by llama.cpp: all numbers are computed without it"],
    ),
    "a scale of 0, which is none": ({"changed": {".expert_weights_scale": (TYPES.FLOAT32, 0.0)}}, 2, []),
    "no first token": ({"dropped": ["tokenizer.ggml.bos_token_id"]}, 2, []),
}


@pytest.mark.parametrize("case", RUNS)
def test_what_llama_cpp_can_run_is_run(case: str, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")
    variant, chosen, warnings = RUNS[case]
    path = pocket_variants.write(tmp_path / "m.gguf", **variant)
    preflight(catalog.locate(str(path)))
    with llama_files.opening() as load_path:
        engine = load_path(path)
        begin(engine, prompt=[2, 3, 4])
        drawn = draw(engine, 3)
    assert (engine.model.experts, engine.model.experts_per_token, engine.warnings) == (8, chosen, warnings)
    assert {rows.shape for token in drawn for rows in token.routing.experts} == {(1, chosen)}


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "MXFP4", "BF16"])
def test_quantisation_is_what_the_tensors_are(kind: str, tmp_path: pathlib.Path) -> None:
    """Independent of `general.file_type`."""
    pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")
    merged = [name for name in pocket_variants.tensors() if "_exps" in name]
    claimed = {"general.file_type": number(int(gguf.LlamaFileType.MOSTLY_Q2_K))}
    types = dict.fromkeys(merged, gguf.GGMLQuantizationType[kind])
    path = pocket_variants.write(tmp_path / "m.gguf", claimed, types=types)
    with llama_files.opening() as load_path:
        engine = load_path(path)
    if kind == "BF16":
        assert engine.model.quantization is None
    else:
        assert engine.model.quantization is not None
        assert f"{kind} " in engine.model.quantization
        assert "Q2_K" not in engine.model.quantization
    assert f"{kind} " in (engine.backend.dtype or "")
