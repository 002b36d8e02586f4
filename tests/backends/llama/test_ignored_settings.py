"""Warnings about settings that llama.cpp ignores, in a GGUF file and in a config.json beside it."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from moe_watch.backends.llama.bindings import has_key
from moe_watch.backends.llama.ignored_settings import ignored, ignored_settings
from moe_watch.backends.model_files import catalog
from moe_watch.backends.model_files.gguf import GgufFile, read_gguf
from tests.backends import llama_files, pocket_variants

CONTEXT = 4096


def file_of(architecture: str, folder: pathlib.Path, **entries: Any) -> GgufFile:
    sizes = {"embedding_length": 64, "block_count": 4, "expert_used_count": 2}
    entries = {f"{architecture}.{key.replace('__', '.')}": value for key, value in (sizes | entries).items()}
    return GgufFile(folder / "m.gguf", {"general.architecture": architecture} | entries, [])


def said(
    folder: pathlib.Path,
    architecture: str,
    config: dict[str, Any] | None = None,
    gate: str = "softmax_top_k",
    **entries: Any,
) -> list[str]:
    if config is not None:
        whole = {"hidden_size": 64, "num_hidden_layers": 4} | config
        (folder / "config.json").write_text(json.dumps(whole))
    return ignored_settings(file_of(architecture, folder, **entries), gate, CONTEXT)


RENORMALISED = "softmax_top_k_renormalised"

IGNORED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "Qwen2-MoE renormalises": ("qwen2moe", {"norm_topk_prob": True}, "softmax_top_k", "norm_topk_prob true"),
    "OLMoE renormalises": ("olmoe", {"norm_topk_prob": True}, "softmax_top_k", "norm_topk_prob true"),
    "OLMoE clips": ("olmoe", {"clip_qkv": 8.0}, "softmax_top_k", "clip_qkv 8"),
    "Qwen3-MoE does not renormalise": ("qwen3moe", {"norm_topk_prob": False}, RENORMALISED, "norm_topk_prob false"),
    "Mixtral slides": ("llama", {"sliding_window": 64}, "top_k_softmax", "sliding_window 64"),
    "Qwen2-MoE slides": (
        "qwen2moe",
        {"sliding_window": 64, "use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"]},
        "softmax_top_k",
        "sliding_window 64",
    ),
    "gpt-oss does not round YaRN's range": (
        "gpt-oss",
        {"rope_scaling": {"rope_type": "other", "truncate": False}},
        "top_k_softmax",
        "rope_scaling.truncate false",
    ),
    "Llama 4 has short chunks": (
        "llama4",
        {"attention_chunk_size": 64},
        "sigmoid_top_k_on_input",
        "attention_chunk_size 64",
    ),
    "nested": (
        "llama4",
        {"text_config": {"hidden_size": 64, "attn_scale": 0.2}},
        "sigmoid_top_k_on_input",
        "attn_scale 0.2",
    ),
    "the rotation is stretched": (
        "qwen3moe",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}},
        RENORMALISED,
        "rope_scaling of type dynamic",
    ),
    "weights are scaled": ("qwen3moe", {"routed_scaling_factor": 2.5}, RENORMALISED, "routed_scaling_factor 2.5"),
    "scores are sigmoids": ("qwen3moe", {"scoring_func": "sigmoid"}, RENORMALISED, "scoring_func sigmoid"),
    "logits are capped": (
        "laguna",
        {"moe_router_logit_softcapping": 3.0},
        RENORMALISED,
        "moe_router_logit_softcapping 3",
    ),
}


@pytest.mark.parametrize("case", IGNORED)
def test_a_setting_of_the_config_is_named(case: str, tmp_path: pathlib.Path) -> None:
    architecture, config, gate, setting = IGNORED[case]
    warnings = said(tmp_path, architecture, config, gate)
    assert warnings == [f"{setting} is ignored by llama.cpp: all numbers are computed without it"]


HARMLESS: dict[str, tuple[str, dict[str, Any], str]] = {
    "the window is longer than the context": ("llama", {"sliding_window": CONTEXT}, "top_k_softmax"),
    "no window": ("llama", {"sliding_window": None}, "top_k_softmax"),
    "the window is off": ("qwen2moe", {"sliding_window": 64, "use_sliding_window": False}, "softmax_top_k"),
    "no layer slides": ("qwen2moe", {"sliding_window": 64, "layer_types": ["full_attention"]}, "softmax_top_k"),
    "llama.cpp reads it": ("gpt-oss", {"sliding_window": 64}, "top_k_softmax"),
    "the gate agrees": ("qwen3moe", {"norm_topk_prob": True, "scoring_func": "softmax"}, RENORMALISED),
    "the gate is not known": ("qwen3moe", {"norm_topk_prob": False, "scoring_func": "sigmoid"}, "unknown"),
    "a name that is not known": ("dots1", {"scoring_func": "noaux_tc"}, "sigmoid_top_k"),
    "another model's config": ("qwen2moe", {"hidden_size": 128, "norm_topk_prob": True}, "softmax_top_k"),
    "long chunks": ("llama4", {"attention_chunk_size": 8192}, "sigmoid_top_k_on_input"),
    "values of another kind": (
        "llama",
        {"sliding_window": "64", "norm_topk_prob": "yes", "routed_scaling_factor": [2], "rope_scaling": "yarn"},
        "top_k_softmax",
    ),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_changes_nothing_is_not_named(case: str, tmp_path: pathlib.Path) -> None:
    assert said(tmp_path, *HARMLESS[case]) == []


CONFIG_KEYS = [
    *("sliding_window", "use_sliding_window", "layer_types", "norm_topk_prob", "routed_scaling_factor", "scoring_func"),
    *(
        "clip_qkv",
        "rope_scaling",
        "rope_parameters",
        "rope_theta",
        "attention_chunk_size",
        "text_config",
        "hidden_size",
    ),
    *("num_hidden_layers", "moe_router_logit_softcapping"),
]
FILE_KEYS = [
    *("attention.sliding_window", "attention.clamp_kqv", "expert_weights_norm", "expert_weights_scale"),
    *("expert_used_count", "expert_group_count", "expert_group_used_count", "rope.freq_base", "rope.freq_base_swa"),
    *("rope.scaling.type", "rope.scaling.factor"),
]
ANYTHING: list[Any] = [
    None,
    True,
    -1,
    0,
    7,
    1e400,
    float("nan"),
    "x",
    [],
    [1, [2]],
    {},
    {"rope_type": ["yarn"]},
    10**400,
]


@pytest.mark.parametrize("architecture", ["llama", "mellum", "afmoe", "deepseek2", "llama4", "gpt-oss"])
def test_values_of_any_kind_are_no_more_than_no_finding(architecture: str, tmp_path: pathlib.Path) -> None:
    for value in ANYTHING:
        for key in CONFIG_KEYS:
            said(tmp_path, architecture, {key: value}, "softmax_top_k")
        (tmp_path / "config.json").unlink()
        for key in FILE_KEYS:
            said(tmp_path, architecture, None, "softmax_top_k", **{key.replace(".", "__"): value})


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_a_config_that_cannot_be_read_is_none(content: bytes, tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    assert said(tmp_path, "qwen2moe") == []


@pytest.mark.parametrize(
    ("architecture", "entries", "gate", "setting"),
    [
        ("llama", {"attention__sliding_window": 64}, "top_k_softmax", "llama.attention.sliding_window 64"),
        ("olmoe", {"attention__clamp_kqv": 8.0}, "softmax_top_k", "olmoe.attention.clamp_kqv 8"),
        ("qwen3moe", {"expert_weights_norm": False}, RENORMALISED, "qwen3moe.expert_weights_norm false"),
        ("llama", {"expert_weights_scale": 2.5}, "top_k_softmax", "llama.expert_weights_scale 2.5"),
        ("qwen3moe", {"expert_gating_func": 2}, RENORMALISED, "qwen3moe.expert_gating_func 2"),
        (
            "qwen3moe",
            {"expert_gating_func": 9},
            RENORMALISED,
            "qwen3moe.expert_gating_func 9 (an unknown function; softmax is used)",
        ),
        ("phimoe", {}, RENORMALISED, "the LayerNorm and sparsemixer of Phi-3.5-MoE"),
        (
            "gpt-oss",
            {"rope__scaling__type": "yarn"},
            "top_k_softmax",
            "rope_scaling.truncate, which is false in published gpt-oss models,",
        ),
        (
            "deepseek2",
            {"expert_group_count": 8, "expert_group_used_count": 3},
            "softmax_top_k×16",
            "topk_method group_limited_greedy",
        ),
    ],
)
def test_a_setting_of_the_file_alone_is_named(
    architecture: str, entries: dict[str, Any], gate: str, setting: str, tmp_path: pathlib.Path
) -> None:
    assert said(tmp_path, architecture, None, gate, **entries) == [ignored(setting, "llama.cpp")]


def test_a_config_that_is_no_file_is_not_waited_for(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    assert said(tmp_path, "qwen2moe") == []
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").symlink_to("/dev/zero")
    assert said(tmp_path, "qwen2moe") == []


def test_a_rotation_that_the_file_names_is_heeded(tmp_path: pathlib.Path) -> None:
    config = {"rope_theta": 10_000.0, "rope_scaling": {"type": "yarn", "factor": 4.0}}
    assert said(tmp_path, "qwen3moe", config, RENORMALISED, rope__scaling__type="yarn") == []
    assert said(tmp_path, "hunyuan-moe", config, RENORMALISED, rope__freq_base=1e6) == [], "Hunyuan's converter"
    assert said(tmp_path, "qwen3moe", config, RENORMALISED) == [ignored("rope_scaling of type yarn", "llama.cpp")]


def test_a_key_that_llama_cpp_has_no_name_for_is_named(tmp_path: pathlib.Path) -> None:
    assert has_key("attention.sliding_window")
    assert not has_key("attention.sliding_win")
    warnings = said(tmp_path, "llama", None, "top_k_softmax", future__switch=1, another=2)
    assert warnings == ["not known whether llama.cpp applies llama.future.switch, llama.another"]


def test_pocket_has_no_such_setting() -> None:
    assert ignored_settings(read_gguf(catalog.POCKET_GGUF), "top_k_softmax", 2048) == []


def test_a_window_that_is_ignored_stands_in_the_header(tmp_path: pathlib.Path) -> None:
    path = pocket_variants.write(tmp_path / "m.gguf", {".attention.sliding_window": pocket_variants.number(32)})
    with llama_files.opening() as load_path:
        assert load_path(path).warnings == [ignored("llama.attention.sliding_window 32", "llama.cpp")]
