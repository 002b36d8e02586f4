"""Python code in a model's folder, for its config, tokenizer or architecture; it runs only with the user's consent."""

from __future__ import annotations

import json
from pathlib import Path

from moe_watch.backends.model_files.config import Config
from moe_watch.routing.errors import UserError

FLAG = "--trust-remote-code"


def files_with_code(folder: Path, config: Config) -> list[str]:
    """Return the names of the code files in a model's config and tokenizer config."""
    named = [*_of_map(config), *_of_map(_tokenizer_config(folder))]
    if isinstance(architecture := config.get("model_file"), str):
        named.append(architecture)
    return sorted(set(named))


def needs_code(name: str, files: list[str]) -> UserError:
    """Return the error for a model that cannot be loaded without its code."""
    return UserError(
        f"{name} needs Python code from its folder ({', '.join(files)}), which is not run without your consent",
        advice=f"read that code, then give {FLAG} to run it with your rights",
    )


def _tokenizer_config(folder: Path) -> Config:
    try:
        found = json.loads((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _of_map(config: Config) -> list[str]:
    """Return the files of an `auto_map`, with values `module.Class` or lists of a slow and a fast tokenizer."""
    found = config.get("auto_map")
    values = found.values() if isinstance(found, dict) else []
    classes = [each for value in values for each in (value if isinstance(value, list) else [value])]
    return [f"{each.rpartition('.')[0]}.py" for each in classes if isinstance(each, str) and "." in each]
