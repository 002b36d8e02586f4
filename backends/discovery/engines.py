"""Engine of a model, and the model types of an installed mlx-lm. No engine is imported."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path

from moe_watch.backends.model_files.catalog import ENGINE_OF_FORMAT, ENGINES, Format, missing_packages

REMAPPING = "MODEL_REMAPPING"
"""Table in mlx-lm's `utils.py`: model types that are run by the code of another one."""


@cache
def is_installed(format_: Format) -> bool:
    """Return whether the engine of a format is installed."""
    return not missing_packages(ENGINES[ENGINE_OF_FORMAT[format_]])


def engine_problem(format_: Format, architecture: str | None) -> str:
    """Return the reason why the engine has no code for an architecture; empty if it has, or is not installed.

    llama.cpp's list of architectures is inside its library, so GGUF files are not checked.
    """
    if format_ != "huggingface" or architecture is None:
        return ""
    known = mlx_model_types()
    return f"mlx-lm has no model type {architecture!r}" if known and architecture not in known else ""


@cache
def mlx_model_types() -> frozenset[str]:
    """Return the model types that the installed mlx-lm loads; empty if it is not installed."""
    spec = importlib.util.find_spec("mlx_lm")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    found: set[str] = set()
    for folder in map(Path, folders):
        found |= {path.stem for path in (folder / "models").glob("*.py")}
        found |= {path.name for path in (folder / "models").glob("*") if (path / "__init__.py").exists()}
        found |= _remapped(folder / "utils.py")
    return frozenset(found)


def _remapped(source: Path) -> set[str]:
    """Return the keys of the table, read from the source because importing mlx-lm takes a second."""
    try:
        tree = ast.parse(source.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return set()
    for node in tree.body:
        names = [target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)]
        if isinstance(node, ast.Assign) and REMAPPING in names and isinstance(node.value, ast.Dict):
            return {
                key.value for key in node.value.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)
            }
    return set()
