"""Settings of a model that mlx-lm ignores: `config.json` compared with the loaded modules and their code."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import mlx.nn as nn

from moe_watch.backends.mlx.layers import moe_layers
from moe_watch.backends.mlx.settings.source_reads import names_read
from moe_watch.backends.model_files.config import NOT_LANGUAGE, Config
from moe_watch.backends.model_files.config_keys import ALIASES, HARMLESS, NEUTRAL, ROPE_NEUTRAL, Setting
from moe_watch.routing.router.gates import Gate, Weighting

ROPE = ("rope_scaling", "rope_parameters")
"""Keys of mappings that describe the rotation of queries and keys."""
PLAIN = (None, "default", "mrope")
"""RoPE types without scaling."""
ROPE_CLASSES = {
    "yarn": "yarn", "deepseek_yarn": "yarn", "telechat3-yarn": "yarn", "dynamic": "ntk", "llama3": "llama3",
    "longrope": "suscaled", "su": "suscaled", "proportional": "proportional",
}  # fmt: skip
"""Part of the class name of the module that computes a RoPE type."""

WINDOWED = ("sliding_attention", "chunked_attention")
SLIDES_EVERYWHERE = frozenset({"mistral"})
"""Families whose code reads a window for the layers of `layer_types`; without that list all layers have it."""
ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "silu": ("silu", "swish"),
    "gelu_approx": ("gelu_pytorch_tanh", "gelu_new", "gelu_fast"),
    "gelu": ("gelu",),
    "relu2": ("relu2",),
    "relu": ("relu",),
}
"""Activations of a config.json by the function of MLX that computes them."""
NORMALISES = ("norm_topk_prob", "moe_renormalize", "moe_norm_topk_prob")
SCORES = {"softmax": "softmax", "sigmoid": "sigmoid", "sqrtsoftplus": "sqrt_softplus"}
LONGEST_VALUE = 40


@dataclass(frozen=True, slots=True)
class Ignored:
    """Setting that changes the numbers and that the loaded model does not apply."""

    key: str
    """Its key, without the sections around it."""
    value: Any
    what: str
    """Effect of the setting, as a clause."""

    def __str__(self) -> str:
        return f"{self.key} {shown(self.value)} ({self.what})"


@dataclass(frozen=True, slots=True)
class UnreadSettings:
    """Settings that the code of the loaded model does not read."""

    ignored: list[Ignored]
    not_known: list[str]
    """Each as `name value`, with an unknown effect."""


def unread_settings(config: Config, model: nn.Module) -> UnreadSettings | None:
    """Return the settings of a config that the loaded model does not read; None if its code is not in mlx-lm."""
    read = names_read(model)
    return None if read is None else _Check(config, model, read).settings()


def shown(value: Any) -> str:
    """Return a value as in JSON, cut to a length that fits a message."""
    text = json.dumps(value, default=str)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def windowed_layers(section: Config) -> set[int]:
    """Return the layers in which a token attends only to the last `sliding_window` tokens.

    Without `layer_types` all layers have the window, as in Mixtral and Qwen3-MoE.
    """
    window, longest = section.get("sliding_window"), section.get("max_position_embeddings")
    if (
        not isinstance(window, int)
        or isinstance(window, bool)
        or window <= 0
        or section.get("use_sliding_window") is False
    ):
        return set()
    if isinstance(longest, int) and window >= longest:
        return set()
    types = section.get("layer_types")
    if isinstance(types, list):
        return {layer for layer, kind in enumerate(types) if kind == "sliding_attention"}
    layers, first = section.get("num_hidden_layers"), section.get("max_window_layers")
    if not isinstance(layers, int):
        return set()
    if section.get("model_type") == "qwen2_moe" and isinstance(first, int):
        return {layer for layer in range(min(layers, first)) if layer % 2 == 0}  # the layout of transformers 5
    return set(range(layers))


def rotations(section: Config) -> Iterator[Config]:
    """Yield the mappings that describe the rotation; some families have one per type of layer."""
    for key in ROPE:
        found = section.get(key)
        if isinstance(found, dict):
            nested = [value for value in found.values() if isinstance(value, dict)]
            yield from nested or [found]


def rope_kind(rotation: Config) -> str | None:
    """Return the RoPE type, for example `yarn`; None if it is not scaled."""
    kind = rotation.get("rope_type") or rotation.get("type")
    return None if kind in PLAIN else str(kind)


class _Check:
    def __init__(self, config: Config, model: nn.Module, read: frozenset[str]) -> None:
        self._config = config
        self._modules = list(model.modules())
        self._read = read
        self._gates = {layer.gate for layer in moe_layers(model)}
        self._ignored: dict[str, Ignored] = {}
        self._not_known: dict[str, str] = {}

    def settings(self) -> UnreadSettings:
        self._section(self._config)
        return UnreadSettings(list(self._ignored.values()), list(self._not_known.values()))

    def _section(self, section: Config) -> None:
        self._rotation(section)
        for key, value in section.items():
            if key in ROPE or key.startswith(NOT_LANGUAGE) or _is_harmless(key):
                continue
            if isinstance(value, dict) and key not in NEUTRAL:
                self._section(value)
            elif key not in self._read and not self._is_alias(key, section):
                self._unread(key, value, NEUTRAL, section)
            elif key == "sliding_window" and self._slides_nowhere(section):
                self._ignored.setdefault(key, Ignored(key, value, NEUTRAL[key].what))

    def _unread(self, key: str, value: Any, table: dict[str, Setting], section: Config) -> None:
        setting = table.get(key)
        is_off = value is None or value == [] or value == {} or value == ""
        if is_off or (value is False and not (setting and setting.false_counts)):
            return
        if setting is None:
            self._not_known.setdefault(key, f"{key} {shown(value)}")
        elif not (_is_among(value, setting.neutral) or self._makes_no_difference(key, value, section)):
            self._ignored.setdefault(key, Ignored(key, value, setting.what))

    def _is_alias(self, key: str, section: Config) -> bool:
        """Return whether another key has the same meaning, which is checked in its place."""
        other = ALIASES.get(key)
        if other is None or other not in section:
            return False
        return other in self._read or key not in NEUTRAL

    def _makes_no_difference(self, key: str, value: Any, section: Config) -> bool:
        match key:
            case "sliding_window":
                return not windowed_layers(section)
            case "hidden_act" | "hidden_activation":
                return self._is_built_in(value)
            case "layer_types":
                return not self._has_other_layers(value, section)
            case "no_rope_layers":
                return _is_every_fourth([rotates == 0 for rotates in value]) if isinstance(value, list) else False
            case "rope_theta":
                return not any("rope" in type(module).__name__.lower() for module in self._modules)
            case "scoring_func":
                return all(gate is None or gate.scores.value == SCORES.get(str(value)) for gate in self._gates)
            case "attention_factor":
                return _is_default_factor(value, section.get("factor"))
            case _ if key in NORMALISES:
                return all(gate is None or _normalises(gate) == bool(value) for gate in self._gates)
            case _:
                return False

    def _is_built_in(self, activation: Any) -> bool:
        """Return whether an activation is the only one in the code of a dense family.

        Families of MoE models are listed by their fixed activation in `NEUTRAL`.
        """
        used = [name for name in ACTIVATIONS if name in self._read]
        return not self._gates and len(used) == 1 and activation in ACTIVATIONS[used[0]]

    def _slides_nowhere(self, section: Config) -> bool:
        """Return whether all layers should have a window, which the family's code gives to none of them."""
        kind, types = section.get("model_type"), section.get("layer_types")
        return kind in SLIDES_EVERYWHERE and types is None and bool(windowed_layers(section))

    def _has_other_layers(self, types: Any, section: Config) -> bool:
        """Return whether layers have windows or chunks that the family's code does not set itself."""
        if not isinstance(types, list) or not any(kind in WINDOWED for kind in types):
            return False
        if "chunked_attention" in types:
            return not _is_every_fourth([kind == "full_attention" for kind in types])
        return "sliding_window" in self._read and bool(windowed_layers(section))

    def _rotation(self, section: Config) -> None:
        """Compare the RoPE type with the modules that rotate, and its numbers with the keys that the code reads."""
        for rotation in rotations(section):
            kind = rope_kind(rotation)
            if kind is None:
                continue
            if not self._rotates(kind):
                self._ignored.setdefault(ROPE[0], Ignored(ROPE[0], kind, "scales the rotation of queries and keys"))
                return
            for key, value in rotation.items():
                if key not in self._read and key in ROPE_NEUTRAL:
                    self._unread(key, value, ROPE_NEUTRAL, rotation)

    def _rotates(self, kind: str) -> bool:
        if kind == "linear":
            return any(isinstance(module, nn.RoPE) and module.scale != 1 for module in self._modules)
        part = ROPE_CLASSES.get(kind, kind)
        return any(part in type(module).__name__.lower() for module in self._modules)


def _is_harmless(key: str) -> bool:
    return any(fnmatchcase(key, pattern) for patterns in _PATTERNS for pattern in patterns)


_PATTERNS = [tuple(patterns.split()) for patterns in HARMLESS.values()]


def _is_among(value: Any, neutral: tuple[Any, ...]) -> bool:
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in neutral)


def _is_every_fourth(full: list[bool]) -> bool:
    """Return whether the layout is Llama 4's, which is fixed in mlx-lm's code."""
    return all(is_full == ((layer + 1) % 4 == 0) for layer, is_full in enumerate(full))


def _is_default_factor(value: Any, factor: Any) -> bool:
    """Return whether the value is YaRN's default 0.1 ln s + 1 (Peng et al. 2023, arXiv 2309.00071)."""
    if not isinstance(value, int | float) or not isinstance(factor, int | float):
        return False
    return math.isclose(value, 0.1 * math.log(factor) + 1 if factor > 1 else 1.0, rel_tol=1e-6)


def _normalises(gate: Gate) -> bool:
    return gate.weighting in (Weighting.RENORMALISED, Weighting.SOFTMAX_OF_SELECTED)
