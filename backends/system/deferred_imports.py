"""Import of mlx-lm without transformers and huggingface_hub, which take most of a worker's start.

mlx-lm imports both for tokenizers and downloads. The embedded model needs neither: its tokenizer is a file of the
`tokenizers` library, and its files are on the disk.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from types import ModuleType
from typing import Any

PACKAGE = "mlx_lm"
TOKENIZERS = f"{PACKAGE}.tokenizer_utils"
"""Module of mlx-lm that uses transformers."""


class PlaceholderClass:
    """Placeholder for a tokenizer class of transformers; it can be subclassed and registered only."""

    @staticmethod
    def register(*_: Any, **__: Any) -> None:
        """Ignore a registration; `complete` repeats it with the real class."""


def _snapshot_download(*args: Any, **options: Any) -> Any:
    return importlib.import_module("huggingface_hub").snapshot_download(*args, **options)


NAMES: dict[str, dict[str, object]] = {
    "transformers": dict.fromkeys(
        ("AutoTokenizer", "PreTrainedTokenizer", "PreTrainedTokenizerFast"), PlaceholderClass
    ),
    "transformers.tokenization_utils_base": {"PreTrainedTokenizerBase": PlaceholderClass},
    "huggingface_hub": {"snapshot_download": _snapshot_download},
}
"""Modules and names that `import mlx_lm` uses (read in mlx-lm 0.32.2)."""


def import_mlx_lm() -> None:
    """Import mlx-lm with placeholders for the modules in `NAMES`; call `complete` before it loads a tokenizer.

    Nothing is imported if mlx-lm or one of these modules is imported already. A version of mlx-lm that needs more names
    is left to an ordinary import.
    """
    if not {PACKAGE, *NAMES}.isdisjoint(sys.modules):
        return
    sys.modules.update({name: _placeholder(name) for name in NAMES})
    try:
        with suppress(ImportError, AttributeError, TypeError):
            importlib.import_module(PACKAGE)
            return
        for name in [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]:
            del sys.modules[name]
    finally:
        for name in NAMES:
            del sys.modules[name]


def complete() -> None:
    """Import the modules that `import_mlx_lm` left out, so that mlx-lm can load tokenizers."""
    module = sys.modules.get(TOKENIZERS)
    if module is not None and getattr(module, "AutoTokenizer", None) is PlaceholderClass:
        importlib.reload(module)


def _placeholder(name: str) -> ModuleType:
    module = ModuleType(name, "Placeholder while mlx-lm is imported.")
    vars(module).update(NAMES[name], __path__=[])
    return module
