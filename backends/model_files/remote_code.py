"""Python code that a model brings along, for its config, its tokenizer or its architecture. It is never run unasked."""

from __future__ import annotations

import json
from pathlib import Path

from moe_watch.backends.model_files.config import Config
from moe_watch.routing.errors import UserError

FLAG = "--trust-remote-code"


def files_with_code(folder: Path, config: Config) -> list[str]:
    """Return the names of the files with code that a model's config and tokenizer name."""
    named = [*_of_map(config), *_of_map(_tokenizer_config(folder))]
    if isinstance(architecture := config.get("model_file"), str):
        named.append(architecture)
    return sorted(set(named))


def needs_code(name: str, files: list[str]) -> UserError:
    """Return the error for a model that cannot be loaded without its code."""
    return UserError(
        f"{name} cannot be loaded without Python code of its own ({', '.join(files)}), which is not run unasked",
        advice=f"read that code, and give {FLAG} to run it with your rights",
    )


def _tokenizer_config(folder: Path) -> Config:
    try:
        found = json.loads((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _of_map(config: Config) -> list[str]:
    """Return the files of an `auto_map`: `module.Class`, or a list of a slow and a fast tokenizer's."""
    found = config.get("auto_map")
    values = found.values() if isinstance(found, dict) else []
    classes = [each for value in values for each in (value if isinstance(value, list) else [value])]
    return [f"{each.rpartition('.')[0]}.py" for each in classes if isinstance(each, str) and "." in each]
