"""Reader of a model's `config.json`, whose keys have different names in different model families."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moe_watch.backends.model_files.safetensors import AGAIN, unreadable
from moe_watch.backends.system.regular_files import read_regular
from moe_watch.routing.errors import UserError

Config = dict[str, Any]

EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
SELECTED_COUNTS = (
    "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k", "top_k_experts",
    "num_selected_experts", "experts_per_token",
)  # fmt: skip
LAYER_COUNTS = ("num_hidden_layers", "n_layers", "num_layers", "n_layer")
CONTEXT_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")
TRAINED_LENGTHS = ("moe_watch_trained_length", "original_max_position_embeddings")
QUANTIZATIONS = ("quantization", "quantization_config")
NOT_LANGUAGE = ("vision", "audio")
NO_LIMIT = 2**40
"""Tokens. A longer context means no limit: tokenizers write 10³⁰."""
ROPE_KEYS = ("rope_theta", "partial_rotary_factor")
"""Keys that transformers 5 writes into `rope_parameters` and mlx-lm reads outside it."""


def read_config(folder: Path) -> Config:
    """Read the `config.json` of a model folder.

    Raises:
        UserError: the file is missing, or is not a JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(read_regular(path))
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no config.json", advice="give a folder in Hugging Face layout") from error
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON", advice=AGAIN) from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a JSON object", advice=AGAIN)
    return config


def config_sections(config: Config) -> Iterator[Config]:
    """Yield the config and its sections (`text_config`, `ffn_config`, …), which multimodal families nest."""
    yield config
    for name, value in config.items():
        if isinstance(value, dict) and not name.startswith(NOT_LANGUAGE):
            yield from config_sections(value)


def _first_integer(config: Config, names: tuple[str, ...], at_least: int) -> int | None:
    for section in config_sections(config):
        for name in names:
            value = section.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and at_least <= value < NO_LIMIT:
                return value
    return None


def expert_count(config: Config) -> int | None:
    """Return the number of routed experts per MoE layer, or None for a dense model."""
    return _first_integer(config, EXPERT_COUNTS, at_least=2)


def selected_count(config: Config) -> int | None:
    """Return the number of experts per token; None if the config has none, or one number per layer."""
    return _first_integer(config, SELECTED_COUNTS, at_least=1)


def layer_count(config: Config) -> int | None:
    """Return the number of all layers; None if the config does not give it."""
    return _first_integer(config, LAYER_COUNTS, at_least=1)


def check_selection(config: Config, name: str) -> None:
    """Refuse a config that selects no expert, or more experts than a layer has.

    Raises:
        UserError: it does; the message names the key.
    """
    experts = expert_count(config)
    for section in config_sections(config):
        for key in SELECTED_COUNTS:
            given = section.get(key)
            for count in given if isinstance(given, list) else [given]:
                if isinstance(count, int) and experts is not None and not 1 <= count <= experts:
                    raise UserError(f"the config.json of {name} has {key} {count}, of {experts} experts", advice=AGAIN)


def context_length(config: Config) -> int | None:
    """Return the longest context that the model supports, in tokens."""
    return _first_integer(config, CONTEXT_LENGTHS, at_least=1)


def impossible_length(config: Config) -> str | None:
    """Return the key and value of the first entry that cannot be a context length; None if there is none."""
    for section in config_sections(config):
        for name in CONTEXT_LENGTHS:
            value = section.get(name)
            if value is not None and _first_integer({name: value}, (name,), at_least=1) is None:
                return f"{name} {json.dumps(value)[:40]}"
    return None


def trained_length(config: Config) -> int | None:
    """Return the longest sequence seen in training, if the config has it (as the original length before extension)."""
    return _first_integer(config, TRAINED_LENGTHS, at_least=1)


def quantization(config: Config) -> str | None:
    """Return the quantization that a config claims, e.g. `4-bit affine, groups of 64`; None if it claims none."""
    settings = next(
        filter(None, (section.get(name) for section in config_sections(config) for name in QUANTIZATIONS)), None
    )
    if not isinstance(settings, dict):
        return None
    if "bits" not in settings:
        return str(settings.get("quant_method") or settings.get("quant_algo") or "quantized")
    method = settings.get("mode") or settings.get("quant_method") or "affine"
    groups = f", groups of {settings['group_size']}" if "group_size" in settings else ""
    return f"{settings['bits']}-bit {method}{groups}{_exceptions(settings)}"


def _exceptions(settings: Config) -> str:
    """Return modules that mlx-lm's converter stored with other settings, e.g. `; 4 modules 8-bit`."""
    bits = Counter(entry["bits"] for entry in settings.values() if isinstance(entry, dict) and "bits" in entry)
    usual = settings["bits"]
    found = [f"{number} modules {width}-bit" for width, number in sorted(bits.items()) if width != usual]
    whole = sum(entry is False for entry in settings.values())
    return "".join(f"; {each}" for each in [*found, *([f"{whole} modules not quantized"] if whole else [])])


def text_section(config: Config) -> Config:
    """Return the part of a config that describes the language model."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def rope_overrides(config: Config) -> Config:
    """Return entries to add to a config so that mlx-lm finds its position encoding.

    mlx-lm reads the keys outside `rope_parameters`, finds none, and silently uses a default: the text stays plausible,
    but other experts are selected.
    """
    overrides = _lifted(config)
    nested = config.get("text_config")
    if isinstance(nested, dict) and (lifted := _lifted(nested)):
        overrides["text_config"] = nested | lifted
    return overrides


def _lifted(section: Config) -> Config:
    parameters = section.get("rope_parameters")
    if not isinstance(parameters, dict):
        return {}
    lifted = {key: parameters[key] for key in ROPE_KEYS if key in parameters and section.get(key) is None}
    kind = parameters.get("rope_type", "default")
    if kind != "default" and section.get("rope_scaling") is None:
        lifted["rope_scaling"] = parameters | {"type": kind}
    return lifted


def rope_warnings(config: Config) -> list[str]:
    """Return a warning for each contradiction in the config about the position encoding."""
    warnings = []
    for section in config_sections(config):
        if not isinstance(section.get("rope_parameters"), dict):
            continue
        for key in ROPE_KEYS:
            used, other = section.get(key), section["rope_parameters"].get(key)
            if None not in (used, other) and used != other:
                warnings.append(f"config.json has {key} {used} and, in rope_parameters, {other}: {used} is used")
    return warnings
