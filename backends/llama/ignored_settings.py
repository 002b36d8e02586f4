"""Settings of a model that llama.cpp ignores, so that it computes another model (read in llama-cpp-python 0.3.36).

They are in the metadata of the GGUF file, or in a `config.json` beside it, because llama.cpp's converter leaves many
out. Each is compared with the gate read from the graph, or with the code of the architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from moe_watch.backends.ignored_settings import ignored, not_known
from moe_watch.backends.llama.bindings import has_key
from moe_watch.backends.model_files.config import Config, read_config
from moe_watch.backends.model_files.gguf import GgufFile
from moe_watch.backends.model_files.gguf_checks import SCORE_FUNCTIONS
from moe_watch.routing.errors import UserError
from moe_watch.routing.router.gates import Gate, Scores, Weighting, parse

ENGINE = "llama.cpp"

READ_BY = {
    "attention.sliding_window": {
        *("afmoe", "cohere2moe", "deepseek4", "dots3note", "exaone-moe", "gemma4", "gpt-oss", "granite_swa", "laguna"),
        *("lfm2moe", "llama4", "maple", "mellum", "mimo2", "muse-glimmer", "smallthinker", "spark2_5", "step35"),
        *("cohere2", "exaone4", "gemma2", "gemma3", "gemma3n", "lfm2", "olmo2", "plamo3"),
    },
    "attention.clamp_kqv": {"dbrx", "mpt", "olmo"},
    "router_logit_softcapping": {"grok"},
    "attn_logit_softcapping": {"gemma2", "grok"},
}
"""Keys that change the numbers of a model, and the architectures whose code reads them; dense ones are last."""

IN_CONFIG = {
    "clip_qkv": "attention.clamp_kqv",
    "moe_router_logit_softcapping": "router_logit_softcapping",
    "attn_logit_softcapping": "attn_logit_softcapping",
}
"""Names of these keys in a config.json; sliding windows have separate conditions."""

BUILT_IN = {"llama4": {"attention_chunk_size": 8192, "floor_scale": 8192, "attn_scale": 0.1}}
"""Constants of an architecture in llama.cpp's code, used for every model, by their name in a config.json."""

ALWAYS = {"phimoe": "the LayerNorm and sparsemixer of Phi-3.5-MoE"}
"""Parts of an architecture that llama.cpp computes differently in every model."""

NORMS = ("norm_topk_prob", "route_norm", "moe_renormalize")
SCALES = ("routed_scaling_factor", "moe_routed_scaling_factor", "route_scale")
SCORES = {"softmax": Scores.SOFTMAX, "sigmoid": Scores.SIGMOID, "1": Scores.SOFTMAX, "2": Scores.SIGMOID}
"""Names in a config.json, and numbers of llama.cpp."""
SCORE_NAMES = ("scoring_func", "score_function", "moe_router_activation_func", "score_func")
"""Names of the parts of a gate in config.json files."""

STRETCHED = frozenset({"yarn", "linear", "dynamic"})
"""RoPE types that a file must name; other types are stored as tensors."""

LARGEST_CONFIG = 2**24
"""Bytes."""
LARGEST = 1e30
"""Bound of a setting's value; files may contain any number."""

EVERY_FOURTH = 4
"""Interval of AFMoE's layers without rotation."""


@dataclass(frozen=True, slots=True)
class Model:
    """Facts about a model that the rules check."""

    file: GgufFile
    config: Config
    """Config of the language model; empty if there is no config.json beside the file."""
    gate: Gate | None
    context: int
    """Length in tokens."""
    chosen: Mapping[int, int]
    """Experts that llama.cpp selects per token, by model layer index."""

    def metadata(self, key: str) -> Any:
        """Return a metadata entry of the architecture; None if it is absent."""
        return self.file.metadata.get(f"{self.file.architecture}.{key}")

    def first(self, names: tuple[str, ...]) -> tuple[str, Any] | None:
        """Return the name and value of the first of these config entries that is present; None if none is."""
        return next(((name, self.config[name]) for name in names if self.config.get(name) is not None), None)


def ignored_settings(file: GgufFile, gate: str, context: int, chosen: Mapping[int, int] | None = None) -> list[str]:
    """Return a warning for every setting that llama.cpp ignores and that changes this model's numbers.

    Args:
        file: header of the model's first file.
        gate: gate as read from the graph; an unknown gate is not checked.
        context: length in tokens; windows that are not shorter change nothing.
        chosen: experts that llama.cpp selects per token, by model layer index.
    """
    model = Model(file, _config_beside(file), parse(gate), context, chosen or {})
    found = dict.fromkeys(what for rule in RULES for what in rule(model))
    unknown = [*_unknown_keys(file)]
    return [
        *(ignored(what, ENGINE) for what in found),
        *([not_known(unknown, ENGINE)] if unknown else []),
    ]


def _config_beside(file: GgufFile) -> Config:
    """Return the config.json in the file's folder if its model has the same shape; else an empty config."""
    path = file.path.with_name("config.json")
    if not path.is_file() or path.stat().st_size > LARGEST_CONFIG:
        return {}
    try:
        whole = read_config(path.parent)
    except (UserError, OSError):
        return {}
    nested = whole.get("text_config")
    config: Config = nested if isinstance(nested, dict) else whole
    sizes = {"hidden_size": "embedding_length", "num_hidden_layers": "block_count"}
    fits = all(config.get(name) == file.number(key) for name, key in sizes.items() if name in config)
    return config if fits and sizes.keys() & config.keys() else {}


def _unknown_keys(file: GgufFile) -> Iterator[str]:
    """Yield metadata keys of the architecture that this build of llama.cpp does not contain."""
    start = f"{file.architecture}."
    for key in file.metadata:
        if file.architecture and key.startswith(start) and not has_key(key.removeprefix(start)):
            yield key


# -- rules: each yields descriptions of ignored settings


def _keys_not_read(model: Model) -> Iterator[str]:
    for key, architectures in READ_BY.items():
        value = model.metadata(key)
        is_window = key == "attention.sliding_window"
        if not _is_number(value) or value <= 0 or (is_window and value >= model.context):
            continue
        if model.file.architecture not in architectures:
            yield f"{model.file.architecture}.{key} {value:g}"
    for name, key in IN_CONFIG.items():
        value = model.config.get(name)
        if _is_number(value) and value > 0 and model.file.architecture not in READ_BY[key]:
            yield f"{name} {value:g}"


def _window(model: Model) -> Iterator[str]:
    """Yield a sliding window of the config, if it is shorter than the context and some layer has it."""
    window, kinds = model.config.get("sliding_window"), model.config.get("layer_types")
    is_named = not isinstance(kinds, list) or "sliding_attention" in kinds
    slides = model.config.get("use_sliding_window", True) and is_named
    is_read = model.file.architecture in READ_BY["attention.sliding_window"]
    is_in_file = model.metadata("attention.sliding_window") == window
    if _is_number(window) and 0 < window < model.context and slides and not is_read and not is_in_file:
        yield f"sliding_window {window:g}"


def _gate(model: Model) -> Iterator[str]:
    """Yield parts of the gate that contradict the gate that llama.cpp computes."""
    if model.gate is None:
        return
    norm = model.first(NORMS) or _entry(model, "expert_weights_norm")
    several = (model.file.number("expert_used_count") or 2) > 1
    renormalises = model.gate.weighting is not Weighting.AS_THEY_ARE
    if norm and several and isinstance(norm[1], bool) and norm[1] != renormalises:
        yield f"{norm[0]} {str(norm[1]).lower()}"
    name, scale = model.first(SCALES) or _entry(model, "expert_weights_scale") or ("", None)
    if _is_number(scale) and scale and model.gate.scale and abs(scale - model.gate.scale) > 1e-4 * abs(scale):
        yield f"{name} {scale:g}"
    score = model.first(SCORE_NAMES) or _entry(model, "expert_gating_func")
    if score and SCORES.get(str(score[1]), model.gate.scores) is not model.gate.scores:
        yield f"{score[0]} {score[1]}"
    function = model.file.number("expert_gating_func")
    if function is not None and function not in (0, *SCORE_FUNCTIONS):
        key = f"{model.file.architecture}.expert_gating_func"
        yield f"{key} {function} (an unknown function; {model.gate.scores.value} is used)"


def _chosen(model: Model) -> Iterator[str]:
    """Yield the number of experts per token by layer, which some architectures replace by the first layer's number."""
    by_layer = model.file.array("expert_used_count") or ()
    if any(layer < len(by_layer) and by_layer[layer] != used for layer, used in model.chosen.items()):
        yield f"{model.file.architecture}.expert_used_count by layer"


def _yarn(model: Model) -> Iterator[str]:
    """Yield `truncate: false`: llama.cpp always rounds YaRN's range to whole dimensions."""
    ropes = [model.config.get(name) for name in ("rope_scaling", "rope_parameters")]
    if any(isinstance(rope, dict) and rope.get("truncate") is False for rope in ropes):
        yield "rope_scaling.truncate false"
    elif not model.config and model.file.architecture == "gpt-oss" and model.metadata("rope.scaling.type") == "yarn":
        yield "rope_scaling.truncate, which is false in published gpt-oss models,"


def _rope(model: Model) -> Iterator[str]:
    """Yield a scaled RoPE that is absent from the file; the converter may have changed the base instead."""
    given = [model.config.get(name) for name in ("rope_scaling", "rope_parameters")]
    ropes = [rope for rope in given if isinstance(rope, dict)]
    kinds = {str(rope.get("rope_type") or rope.get("type")) for rope in ropes}
    bases = [base for base in (rope.get("rope_theta") for rope in (model.config, *ropes)) if base is not None]
    is_in_file = model.metadata("rope.scaling.type") not in (None, "none") or model.metadata("rope.scaling.factor")
    is_changed = bool(bases) and model.metadata("rope.freq_base") not in [None, *bases]
    if not is_in_file and not is_changed:
        yield from (f"rope_scaling of type {kind}" for kind in sorted(STRETCHED & kinds))


def _groups(model: Model) -> Iterator[str]:
    """Yield DeepSeek-V2's group selection by the best expert: llama.cpp ranks groups by their two best experts."""
    groups, used = (model.file.number(f"expert_group_{name}") or 1 for name in ("count", "used_count"))
    is_v2 = model.file.architecture == "deepseek2" and model.gate is not None and model.gate.scores is Scores.SOFTMAX
    if is_v2 and 1 <= used < groups:
        yield "topk_method group_limited_greedy"


def _built_in(model: Model) -> Iterator[str]:
    for name, used in BUILT_IN.get(model.file.architecture, {}).items():
        value = model.config.get(name)
        if _is_number(value) and value > 0 and value != used and min(value, used) < model.context:
            yield f"{name} {value:g}"


def _rotation(model: Model) -> Iterator[str]:
    """Yield rotations that the architecture applies in other layers, or with another base, than the model."""
    sliding = model.metadata("rope.freq_base_swa")
    is_other = _is_number(sliding) and sliding != model.metadata("rope.freq_base")
    if model.file.architecture == "mellum" and is_other:
        yield f"mellum.rope.freq_base_swa {sliding:g}"
    kinds = model.config.get("layer_types")
    if model.file.architecture == "afmoe" and isinstance(kinds, list):
        full = [number for number, kind in enumerate(kinds) if kind == "full_attention"]
        if full != list(range(EVERY_FOURTH - 1, len(kinds), EVERY_FOURTH)):
            yield "layer_types (selects the layers without rotation)"


def _always(model: Model) -> Iterator[str]:
    if model.file.architecture in ALWAYS:
        yield ALWAYS[model.file.architecture]


Rule = Callable[[Model], Iterator[str]]

RULES: tuple[Rule, ...] = (
    _keys_not_read,
    _window,
    _gate,
    _chosen,
    _yarn,
    _rope,
    _groups,
    _built_in,
    _rotation,
    _always,
)


def _entry(model: Model, key: str) -> tuple[str, Any] | None:
    value = model.metadata(key)
    return None if value is None else (f"{model.file.architecture}.{key}", value)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
