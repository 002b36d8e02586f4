"""Opening of models with mlx-lm, with every setting of the model applied that can be."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import load_model

from moe_watch.backends.ignored_settings import corrected, ignored, not_known
from moe_watch.backends.mlx.settings.config_defaults import complete
from moe_watch.backends.mlx.settings.corrections import correct, correct_rules, restore_tensors
from moe_watch.backends.mlx.settings.dropped_tensors import Arrays, Dropped
from moe_watch.backends.mlx.settings.ignored import unread_settings
from moe_watch.backends.model_files.config import Config
from moe_watch.backends.model_files.stored_types import modelopt_settings

REFUSES_SCALING = frozenset({"qwen2_moe"})
"""Families whose arguments refuse a scaled RoPE, which their code does not read: it is added afterwards."""

LARGEST_BIAS = 1_000_000
"""Largest number of elements of a dropped tensor that is checked for all zeros."""


def open_model(
    folder: Path, config: Config, *, trust_remote_code: bool = False, entries: Config | None = None
) -> tuple[nn.Module, Config, list[str]]:
    """Load a model without reading its weights.

    Args:
        folder: folder of the model.
        config: content of its config.json.
        trust_remote_code: run Python code from the folder.
        entries: entries to use in place of those in config.json.

    Returns:
        The model, its config as completed by mlx-lm, and warnings about settings.
    """
    config = config | (entries or {})
    completed_by_us, notices = complete(config)
    overrides = (entries or {}) | completed_by_us
    withheld = {"rope_scaling": None} if config.get("model_type") in REFUSES_SCALING else {}
    dropped = Dropped()
    with _without_wildcards(folder) as path:
        model, completed = load_model(
            path,
            lazy=True,
            model_config=overrides | withheld | modelopt_settings(config, folder),
            get_model_classes=dropped.classes,
            trust_remote_code=trust_remote_code,
        )
    return model, completed, notices + apply_settings(model, config | overrides, dropped.arrays)


@contextmanager
def _without_wildcards(folder: Path) -> Iterator[Path]:
    """Yield a path of the folder that mlx-lm can glob: it reads brackets in a folder's name as a pattern."""
    if glob.escape(str(folder)) == str(folder):
        yield folder
        return
    with TemporaryDirectory(prefix="moe-watch-") as parent:
        link = Path(parent) / "model"
        link.symlink_to(folder.resolve(), target_is_directory=True)
        yield link  # the files stay open until their weights are read


def apply_settings(model: nn.Module, config: Config, dropped: Arrays) -> list[str]:
    """Add to a loaded model what mlx-lm ignores; return a notice or a warning for each such setting.

    Args:
        model: as mlx-lm loaded it; its modules are replaced.
        config: config with the entries that were added for mlx-lm.
        dropped: tensors of the checkpoint that the model does not use.
    """
    engine = f"mlx-lm {version('mlx-lm')}"
    notices = [corrected(rule, engine) for rule in correct_rules(model)]
    lost = {name: array for name, array in dropped.items() if not _is_zero_bias(name, array)}
    restored = restore_tensors(model, lost)
    if restored:
        notices.append(corrected(_tensors(restored), engine))
    if left := [name for name in lost if name not in restored]:
        notices.append(ignored(_tensors(left), engine))
    if (found := unread_settings(config, model)) is None:
        return [*notices, not_known(["config.json"], "the model's own code")]
    notices += [
        (corrected if correct(setting, model, config) else ignored)(str(setting), engine) for setting in found.ignored
    ]
    if found.not_known:
        notices.append(not_known(found.not_known, f"{engine}'s {config.get('model_type')}"))
    return notices


def _tensors(names: list[str]) -> str:
    more = f" (one of {len(names):,} such tensors)" if len(names) > 1 else ""
    return f"the checkpoint's tensor {min(names)}{more}"


def _is_zero_bias(name: str, array: Any) -> bool:
    """Return whether a tensor is a bias of all zeros."""
    return "bias" in name and array.size <= LARGEST_BIAS and not mx.any(array).item()
