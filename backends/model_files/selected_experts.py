"""Another number of experts per token than the one in a model's config.json."""

from __future__ import annotations

from moe_watch.backends.model_files.config import (
    NOT_LANGUAGE,
    SELECTED_COUNTS,
    Config,
    config_sections,
    expert_count,
)
from moe_watch.routing.errors import UserError
from moe_watch.routing.header import experts_per_token

OPTION = "--experts-per-token"

IDENTITY_EXPERTS = "zero_expert_num"
"""Key with the number of experts that return their input, which a router selects like the others."""


def check_selectable(name: str, k: int, experts: int | None) -> int:
    """Return the number of experts of a layer, of which k can be selected.

    Args:
        name: name of the model.
        k: experts per token.
        experts: experts of a layer; 0 or None for a dense model.

    Raises:
        UserError: the model is dense, or k is outside 1..E.
    """
    if not experts:
        raise UserError(f"{OPTION} is {k}, and {name} is a dense model", advice=f"leave out {OPTION}")
    if not 1 <= k <= experts:
        raise UserError(f"{OPTION} is {k}, and {name} has {experts} experts per layer", advice=f"give 1 to {experts}")
    return experts


def with_experts_per_token(config: Config, k: int, name: str) -> Config:
    """Return the entries of a config with which every MoE layer selects k experts: nested sections are whole.

    Raises:
        UserError: k is outside 1..E, or the config has no such number.
    """
    experts = expert_count(config)
    identities = next((n for each in config_sections(config) if isinstance(n := each.get(IDENTITY_EXPERTS), int)), 0)
    check_selectable(name, k, experts and experts + identities)
    entries = _entries(config, k)
    if not entries:
        raise UserError(
            f"{OPTION} is {k}, and the config.json of {name} has no number of experts per token",
            advice=f"leave out {OPTION}",
        )
    return entries


def own_experts_per_token(config: Config, layers: list[int]) -> int | list[int] | None:
    """Return the number in a config, by MoE layer if numbers differ; None if it has none.

    Args:
        config: content of config.json.
        layers: model layer index of each MoE layer.
    """
    for section in config_sections(config):
        for key in SELECTED_COUNTS:
            own = section.get(key)
            if isinstance(own, int) and not isinstance(own, bool):
                return own
            if isinstance(own, list) and len(own) > max(layers, default=-1):
                return experts_per_token([int(own[layer]) for layer in layers])
    return None


def _entries(section: Config, k: int) -> Config:
    changed: Config = {}
    for key, value in section.items():
        if key in SELECTED_COUNTS and isinstance(value, int | list):
            changed[key] = [k] * len(value) if isinstance(value, list) else k
        elif isinstance(value, dict) and not key.startswith(NOT_LANGUAGE) and (inner := _entries(value, k)):
            changed[key] = value | inner
    return changed
