"""Settings that mlx-lm does not read: found, added where that can be done from outside, and named."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from moe_watch.backends.mlx.open_model import open_model
from moe_watch.backends.mlx.settings.dropped_tensors import _unused
from moe_watch.backends.mlx.settings.ignored import windowed_layers
from moe_watch.backends.mlx.tap import RouterTap
from moe_watch.backends.model_files.config import read_config
from tests.truth.expected import CORRECTED, GATES
from tests.truth.mlx_comparison import MODELS, Array, read_golden

Altered = Callable[..., pathlib.Path]


@pytest.fixture
def altered(tmp_path: pathlib.Path) -> Altered:
    """A copy of a tiny model with other entries in its config.json, without some, or with other tensors."""

    def alter(
        name: str, *, without: tuple[str, ...] = (), tensors: dict[str, Any] | None = None, **entries: Any
    ) -> Any:
        folder = tmp_path / name
        shutil.copytree(MODELS / name, folder)
        config = json.loads((folder / "config.json").read_text()) | entries
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in without}))
        if tensors is not None:
            mx.save_safetensors(str(folder / "model.safetensors"), mx.load(str(folder / "model.safetensors")) | tensors)
        return folder

    return alter


def opened(folder: pathlib.Path) -> tuple[nn.Module, list[str]]:
    model, _, said = open_model(folder, read_config(folder))
    model.set_dtype(mx.float32)
    return model, said


def run(model: nn.Module, ids: Array, *, stepwise: bool = False) -> tuple[Array, Array]:
    """Output logits [T, V], and selected experts [T, L, k] in ascending order."""
    tap, cache = RouterTap(model), make_prompt_cache(model)
    outputs, experts = [], []
    for piece in np.split(ids, len(ids)) if stepwise else [ids]:
        outputs.append(np.array(model(mx.array(piece)[None], cache=cache))[0])
        experts.append(np.stack(tap.frame.read(len(piece)).experts, axis=1))
    tap.close()
    return np.concatenate(outputs), np.sort(np.concatenate(experts))


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 8.0}


def yarn_angles(dims: int, base: float, scaling: dict[str, Any]) -> Array:
    """One position step's angle, written down from Peng et al. 2023, section 3.2: by the turns within the context."""
    plain = [base ** (-2 * pair / dims) for pair in range(dims // 2)]
    turns = [scaling["original_max_position_embeddings"] * angle / (2 * np.pi) for angle in plain]
    # r counts turns; the ramp runs, linear in the pair's number, between the pairs with beta_fast and beta_slow turns.
    logs = np.log(turns)
    at = lambda count: np.interp(-np.log(count), -logs, np.arange(dims // 2))  # noqa: E731
    low, high = at(scaling["beta_fast"]), at(scaling.get("beta_slow", 1.0))
    if scaling.get("truncate", True):
        low, high = np.floor(low), np.ceil(high)
    kept = 1 - np.clip((np.arange(dims // 2) - low) / (high - low), 0, 1)
    return np.array(plain) * (kept + (1 - kept) / scaling["factor"])


@pytest.mark.parametrize("name", ["qwen3_moe", "qwen2_moe", "mixtral", "glm4_moe", "gpt_oss"])
@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_yarn_rotates_by_the_angles_of_the_paper(name: str, truncate: bool, key: str, altered: Altered) -> None:
    """Wherever the config says it. gpt-oss has YaRN of mlx-lm's own, which always truncates."""
    scaling = YARN | {"truncate": truncate} | ({"rope_theta": 10_000.0} if key == "rope_parameters" else {})
    folder = altered(name, without=("rope_scaling", "rope_parameters"), rope_theta=10_000.0)
    config = read_config(folder) | {key: scaling}
    (folder / "config.json").write_text(json.dumps(config))
    model, said = opened(folder)
    ropes = [module["rope"] for module in model.modules() if "rope" in module]
    assert len(ropes) == 3
    for rope in ropes:
        x = mx.zeros((1, 1, 1, 16))
        half = rope.dims // 2
        x[..., :half] = 1.0  # the first of each pair: it turns to cosine and sine
        turned = np.array(rope(x, offset=3))[0, 0, 0]
        angles = 3 * yarn_angles(rope.dims, 10_000.0, scaling)
        expected = (0.1 * np.log(4.0) + 1) * np.concatenate([np.cos(angles), np.sin(angles)])
        np.testing.assert_allclose(turned[: rope.dims], expected, atol=1e-5)
        assert (turned[rope.dims :] == (x[0, 0, 0, rope.dims :] if rope.dims < 16 else 0)).all()
    known = "yarn" if name != "gpt_oss" else "truncate false"
    assert any(known in each and "added by moe-watch" in each for each in said) == (name != "gpt_oss" or not truncate)


def test_a_factor_of_attention_is_heeded(altered: Altered) -> None:
    model, said = opened(altered("gpt_oss", rope_scaling=YARN | {"type": "yarn", "attention_factor": 1.5}))
    rope = next(module["rope"] for module in model.modules() if "rope" in module)
    assert np.array(rope(mx.ones((1, 1, 1, 16)), offset=0)) == pytest.approx(1.5)
    assert "attention_factor 1.5 (multiplies rotated queries and keys)" in said[0]


def test_negative_biases_do_not_let_dropped_groups_in(altered: Altered) -> None:
    """With all biases lowered by the same amount the order of scores is the same, and so are all sets."""
    name = "deepseek_v3"
    tensors = mx.load(str(MODELS / name / "model.safetensors"))
    lowered = {key: value - 1.5 for key, value in tensors.items() if key.endswith("e_score_correction_bias")}
    assert len(lowered) == 2
    model, said = opened(altered(name, tensors=lowered))
    golden = read_golden(name)
    outputs, experts = run(model, golden.ids)
    np.testing.assert_array_equal(experts, np.sort(golden.experts))
    np.testing.assert_allclose(outputs, golden.output_logits, atol=1e-3)
    assert ["dropped groups" in each for each in said] == [True]


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "qwen2_moe"])
def test_a_window_hides_what_lies_before_it(family: str, altered: Altered) -> None:
    """The view of three layers with a window of 5 reaches 12 tokens back, and no further."""
    windows: dict[str, Any] = {"sliding_window": 5, "use_sliding_window": True}
    if family == "qwen2_moe":
        windows["layer_types"] = ["sliding_attention"] * 3
    model, said = opened(altered(family, **windows))
    assert "sliding_window 5 (limits attention to this number of tokens) is ignored by mlx-lm" in said[0]
    assert "added by moe-watch" in said[0]
    ids = read_golden(family).ids
    before, near, far = ids.copy(), ids.copy(), ids.copy()
    near[-13] = (near[-13] + 1) % 128
    far[-14] = (far[-14] + 1) % 128
    (base, experts), (seen, _), (unseen, same) = (run(model, each) for each in (before, near, far))
    assert np.abs(seen[-1] - base[-1]).max() > 1e-6
    np.testing.assert_array_equal(unseen[-1], base[-1])
    np.testing.assert_array_equal(same[-1], experts[-1])
    stepped, chosen = run(model, ids, stepwise=True)
    np.testing.assert_allclose(stepped, base, atol=1e-3)
    np.testing.assert_array_equal(chosen, experts)


def test_only_the_layers_that_are_named_have_a_window(altered: Altered) -> None:
    """One layer with a window of 5, then two that see all: the first token is seen through the second layer."""
    types = ["sliding_attention", "full_attention", "full_attention"]
    folder = altered("qwen2_moe", sliding_window=5, use_sliding_window=True, layer_types=types)
    model, _ = opened(folder)
    ids = read_golden("qwen2_moe").ids
    other = ids.copy()
    other[0] = (other[0] + 1) % 128
    base, changed = run(model, ids)[0], run(model, other)[0]
    assert np.abs(changed[-1] - base[-1]).max() > 1e-6
    first = model.layers[0](model.model.embed_tokens(mx.array(ids)[None]), None, make_prompt_cache(model)[0])
    again = model.layers[0](model.model.embed_tokens(mx.array(other)[None]), None, make_prompt_cache(model)[0])
    np.testing.assert_array_equal(np.array(first)[0, 5:], np.array(again)[0, 5:])
    np.testing.assert_allclose(run(model, ids, stepwise=True)[0], base, atol=1e-3)


@pytest.mark.parametrize(
    ("entries", "layers"),
    [
        ({}, {0, 1, 2, 3}),
        ({"use_sliding_window": False}, set()),
        ({"sliding_window": None}, set()),
        ({"sliding_window": True}, set()),
        ({"sliding_window": 100}, set()),
        ({"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, {1}),
        ({"model_type": "qwen2_moe", "max_window_layers": 28}, {0, 2}),
        ({"model_type": "qwen2_moe", "max_window_layers": 2}, {0}),
    ],
)
def test_layers_with_a_window(entries: dict[str, Any], layers: set[int]) -> None:
    """As transformers 5.23 lays them out."""
    section = {"num_hidden_layers": 4, "sliding_window": 5, "use_sliding_window": True, "max_position_embeddings": 100}
    assert windowed_layers(section | entries) == layers


def test_weights_are_divided_by_their_sum_where_the_config_says_so(altered: Altered) -> None:
    model, said = opened(altered("qwen2_moe", norm_topk_prob=True))
    assert ["norm_topk_prob true (divides weights by their sum)" in each for each in said] == [True]
    block = model.layers[0].mlp
    x = mx.random.normal((7, 64), key=mx.random.key(0))
    probabilities = np.array(mx.softmax(block.gate(x), axis=-1))
    top = np.argsort(-probabilities)[:, :3]
    weights = np.take_along_axis(probabilities, top, -1)
    experts = np.array(block.switch_mlp(x, mx.array(top)))
    shared = np.array(mx.sigmoid(block.shared_expert_gate(x)) * block.shared_expert(x))
    expected = (experts * (weights / weights.sum(-1, keepdims=True))[..., None]).sum(1) + shared
    np.testing.assert_allclose(np.array(block(x)), expected, atol=1e-5)
    assert RouterTap(model).gate == "softmax_top_k_renormalised"


def test_queries_keys_and_values_are_bounded(altered: Altered) -> None:
    model, said = opened(altered("olmoe", clip_qkv=0.25))
    assert ["clip_qkv 0.25 (bounds queries, keys and values)" in each for each in said] == [True]
    attention = model.layers[0].self_attn
    x = mx.random.normal((1, 9, 64), key=mx.random.key(0)) * 8
    for part in (attention.q_norm(attention.q_proj(x)), attention.k_norm(attention.k_proj(x)), attention.v_proj(x)):
        assert mx.abs(part).max().item() == 0.25
    unbounded = opened(MODELS / "olmoe")[0].layers[0].self_attn
    v = np.array(unbounded.v_proj(x))
    np.testing.assert_allclose(np.array(attention.v_proj(x)), np.clip(v, -0.25, 0.25), atol=1e-6)


# -- what can only be named


@pytest.mark.parametrize(
    ("name", "entries", "named"),
    [
        ("mixtral", {"hidden_act": "gelu"}, 'hidden_act "gelu" (is the experts\' activation)'),
        ("qwen3_moe", {"attn_logit_softcapping": 30.0}, "attn_logit_softcapping 30.0 (bounds attention scores)"),
        ("deepseek_v2", {"norm_topk_prob": True}, "norm_topk_prob true (divides weights by their sum)"),
        ("mixtral", {"norm_topk_prob": False}, "norm_topk_prob false (divides weights by their sum)"),
        ("deepseek_v3", {"scoring_func": "softmax"}, 'scoring_func "softmax" (turns router logits into scores)'),
        ("olmoe", {"sliding_window": 16}, "sliding_window 16 (limits attention to this number of tokens)"),
        ("glm4_moe", {"rope_scaling": {"type": "longrope", "factor": 2.0}}, 'rope_scaling "longrope" (scales the '),
        ("llama4_text", {}, None),
    ],
)
def test_a_setting_that_cannot_be_added_is_named(
    name: str, entries: dict[str, Any], named: str | None, altered: Altered
) -> None:
    said = opened(altered(name, **entries))[1]
    assert [each.partition(" is ignored by mlx-lm ")[0].startswith(named or "") for each in said] == [True] * bool(
        named
    )
    assert all(each.endswith(": all numbers are computed without it") for each in said)


def test_what_is_not_known_is_said_once(altered: Altered) -> None:
    said = opened(altered("mixtral", weave_experts=3, weft={"angle": 0.5}, unused=None, off=False, none=[]))[1]
    assert len(said) == 1
    assert said[0].startswith("not known whether mlx-lm ")
    assert said[0].endswith("'s mixtral applies weave_experts 3, angle 0.5")


@pytest.mark.parametrize(
    "entries",
    [
        {"sliding_window": 512},
        {"sliding_window": 4096, "use_sliding_window": False},
        {"attention_dropout": 0.1, "router_jitter_noise": 0.1, "torch_dtype": "bfloat16", "image_token_id": 7},
        {"num_nextn_predict_layers": 1, "vision_config": {"anything": 1}},
        {"rope_scaling": {"type": "default"}},
        {"norm_topk_prob": True},
    ],
)
def test_a_setting_that_changes_nothing_is_not_named(entries: dict[str, Any], altered: Altered) -> None:
    assert opened(altered("mixtral", **entries))[1] == []


@pytest.mark.parametrize("name", [name for name in GATES if name not in CORRECTED])
def test_a_model_that_is_computed_as_it_is_meant_has_no_warning(name: str) -> None:
    assert opened(MODELS / name)[1] == []


# -- tensors


def test_a_tensor_that_the_model_has_not_taken_is_named(altered: Altered) -> None:
    """Drafting layers and pictures are not needed for text; anything else is."""
    said = opened(altered("gemma4_text", tensors={"model.layers.1.self_attn.k_proj.input_max": mx.array(3.0)}))[1]
    assert said[0].startswith("the checkpoint's tensor model.layers.1.self_attn.k_proj.input_max is ignored by mlx-lm ")
    assert opened(altered("longcat_flash", tensors={"model.mtp.0.weight": mx.ones((4, 4))}))[1] == []


def test_every_tensor_of_a_whole_model_is_taken() -> None:
    """Of those that are stacked, split, viewed and renamed on the way."""
    for name in ("qwen3_moe", "gpt_oss", "granitemoe", "qwen3_5_moe_text"):
        model, said = opened(MODELS / name)
        assert said == []
        assert tree_flatten(model.parameters())


# -- checkpoints as transformers 5 writes them

UNWRITTEN = {
    "qwen3_moe": ("num_experts", "head_dim", "rope_theta"),
    "qwen3_moe_8_of_128": ("num_experts", "rope_theta"),
    "mellum": ("num_experts",),
    "glm4_moe": ("rope_scaling", "rope_theta", "partial_rotary_factor", "head_dim"),
    "exaone_moe": ("is_moe_layer",),
    "solar_open": ("first_k_dense_replace", "partial_rotary_factor", "rope_scaling", "rope_theta"),
    "minimax_m2": ("shared_intermediate_size", "rotary_dim"),
    "mimo_v2_flash": (
        "hybrid_layer_pattern", "moe_layer_freq", "sliding_window_size", "n_shared_experts", "topk_method",
        "scoring_func", "layernorm_epsilon", "rope_theta", "swa_rope_theta", "partial_rotary_factor",
    ),
    "bailing_hybrid": ("num_experts_per_tok", "n_group"),
}  # fmt: skip
"""Keys that mlx-lm demands, that published models have, and that transformers 5 leaves out."""


@pytest.mark.parametrize("name", UNWRITTEN)
def test_keys_that_are_not_written_are_filled_in(name: str, altered: Altered) -> None:
    model, said = opened(altered(name, without=UNWRITTEN[name]))
    golden = read_golden(name)
    outputs, experts = run(model, golden.ids)
    np.testing.assert_array_equal(experts, np.sort(golden.experts))
    np.testing.assert_allclose(outputs, golden.output_logits, atol=1e-3)
    assert len(said) == 1
    assert said[0].startswith("config.json, written by transformers 5, lacks keys that mlx-lm requires; filled in: ")


def test_a_model_that_needs_no_scaling_is_read_where_mlx_lm_demands_one(altered: Altered) -> None:
    """DeepSeek-V2's code knows scaled rotations only; by a factor of 1 it is the plain one."""
    plain = {"rope_theta": 10_000.0, "rope_type": "default"}
    model, said = opened(altered("deepseek_v2", without=("rope_scaling",), rope_parameters=plain))
    rope = model.layers[0].self_attn.rope
    x = mx.random.normal((1, 1, 5, 16), key=mx.random.key(0))
    same = mx.fast.rope(x, 16, traditional=True, base=10_000.0, scale=1.0, offset=0)
    np.testing.assert_allclose(np.array(rope(x, offset=0)), np.array(same), atol=1e-5)
    assert len(said) == 1
    assert said[0].endswith("filled in: rope_scaling null")


def test_one_of_very_many_tensors_is_found() -> None:
    """Stacked experts of every layer, one of which was left out, and a tensor of no layer."""
    before = {f"model.layers.{layer}.experts.{n}.w": mx.zeros((1,)) for layer in range(3) for n in range(1500)}
    before |= {"model.extra": mx.zeros((1,)), "model.norm": mx.ones((1,)), "model.layers.0.wandering": mx.ones((1,))}
    after = {
        f"model.layers.{layer}.stacked.w": mx.stack(
            [before[f"model.layers.{layer}.experts.{n}.w"] for n in range(1500) if (layer, n) != (1, 1234)]
        )
        for layer in range(3)
    }
    after |= {"model.norm": before["model.norm"], "model.elsewhere": before["model.layers.0.wandering"] + 1}
    assert _unused(before, after) == ["model.layers.1.experts.1234.w", "model.extra"]
