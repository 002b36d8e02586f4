"""Models on the Hugging Face Hub, through `huggingface_hub`: its cache, its offline switch, its downloads."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from routing.errors import UserError
from routing.events import Progress

MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

FILES = ["*.json", "model*.safetensors", "tokenizer.model", "*.tiktoken", "*.txt", "*.jinja"]
"""What the engines read. No Python files: a model's own code is never run."""


def cached_snapshot(model_id: str) -> Path | None:
    """The model's folder in the local cache, or None if it is not (wholly) there. Asks nobody."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:
        return None
    try:
        return Path(snapshot_download(model_id, local_files_only=True, allow_patterns=FILES))
    except LocalEntryNotFoundError:
        return None


def download(model_id: str, progress: Callable[[Progress], None]) -> Path:
    """Fetch what is missing of a model into the cache; returns its folder.

    Raises:
        UserError: there is no such model, it may not be read, or the Hub cannot be reached.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(f"{model_id} is not on this machine", advice='pip install "moe-watch[mlx]"') from error
    progress(Progress(stage="reading", unit="bytes", note=f"downloading {model_id}"))
    try:
        path = snapshot_download(model_id, allow_patterns=FILES, tqdm_class=_progress_bar(model_id, progress))
    except (OSError, ValueError) as error:
        raise _explain(model_id, error) from error
    return Path(path)


def _explain(model_id: str, error: Exception) -> UserError:
    """The one line for what can go wrong. Everything that the Hub's client raises is an OSError or a ValueError."""
    from huggingface_hub import errors

    match error:
        case errors.GatedRepoError():
            advice = f"accept its terms at https://huggingface.co/{model_id}, then run `hf auth login`"
            return UserError(f"{model_id} is gated", advice=advice)
        case errors.RepositoryNotFoundError():
            return UserError(
                f"{model_id} is neither a folder here nor a model on the Hugging Face Hub that you may read",
                advice="check the name; for a private model run `hf auth login`",
            )
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
            return UserError(
                f"{model_id} is neither a folder here nor wholly in the local cache, and the Hub cannot be reached",
                advice="go online, or give a local folder",
            )
        case _:
            return UserError(f"{model_id} cannot be downloaded ({type(error).__name__}: {_first_line(error)})")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")


def _progress_bar(model_id: str, progress: Callable[[Progress], None]) -> type[Any]:
    """A progress bar class for the Hub's client that draws nothing and reports bytes instead."""
    from tqdm import tqdm

    class ReportingBar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self._counts_bytes = options.get("unit") == "B"
            super().__init__(*args, **options | {"file": io.StringIO()})

        def display(self, *_args: Any, **_options: Any) -> None:
            """Called at every redraw, at most ten times a second."""
            if self._counts_bytes and self.total:
                done, total = int(self.n), int(self.total)
                progress(
                    Progress(stage="reading", done=done, total=total, unit="bytes", note=f"downloading {model_id}")
                )

    return ReportingBar
