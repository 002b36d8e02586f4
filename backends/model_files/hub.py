"""Models on the Hugging Face Hub, through `huggingface_hub`: its cache, its offline switch, its downloads."""

from __future__ import annotations

import errno
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Progress

MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

FILES = ["*.json", "model*.safetensors", "tokenizer.model", "tiktoken.model", "*.tiktoken", "*.txt", "*.jinja"]
"""Files that the engines read. No Python files: a model's own code is not run without the user's consent."""

CODE = ["*.py"]
"""Files that are also fetched if the user trusts that code."""


def cached_snapshot(model_id: str) -> Path | None:
    """Return the model's folder in the local cache, or None if it is not complete there. Uses no network."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:
        return None
    try:
        return Path(snapshot_download(model_id, local_files_only=True, allow_patterns=FILES))
    except LocalEntryNotFoundError:
        return None


def files(model_id: str) -> list[str]:
    """Return the paths of a repository's files, as listed by the Hub.

    Raises:
        UserError: there is no such repository, access is denied, or the Hub cannot be reached.
    """
    try:
        from huggingface_hub import model_info
    except ImportError as error:
        raise _no_client(model_id) from error
    try:
        # Not `list_repo_files`, which retries for half a minute if the Hub cannot be reached.
        return [sibling.rfilename for sibling in model_info(model_id).siblings or []]
    except Exception as error:  # errors of the client and of its HTTP library have no common base class
        raise _explain(model_id, error) from error


def download(model_id: str, progress: Callable[[Progress], None], *, patterns: Sequence[str] = FILES) -> Path:
    """Download the missing files of a model into the cache, and return its folder.

    Args:
        model_id: `OWNER/NAME`.
        progress: receives the number of bytes during the download.
        patterns: patterns of the paths to download.

    Raises:
        UserError: there is no such model, access is denied, or the Hub cannot be reached.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise _no_client(model_id) from error
    progress(Progress(stage="reading", unit="bytes", note=f"downloading {model_id}"))
    try:
        path = snapshot_download(model_id, allow_patterns=list(patterns), tqdm_class=_progress_bar(model_id, progress))
    except Exception as error:  # as in `files`, and of the library that transfers large files
        raise _explain(model_id, error) from error
    return Path(path)


def _no_client(model_id: str) -> UserError:
    return UserError(f"{model_id} is not on this machine", advice="to download it: pip install huggingface_hub")


def _explain(model_id: str, error: Exception) -> UserError:
    """Return the error message for a failure of the Hub's client."""
    from huggingface_hub import errors

    unreachable = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    match error:
        case errors.GatedRepoError():
            advice = f"accept its terms at https://huggingface.co/{model_id}, then run `hf auth login`"
            return UserError(f"{model_id} is gated", advice=advice)
        case errors.RepositoryNotFoundError():
            return UserError(
                f"{model_id} is neither a local folder nor a model on the Hugging Face Hub that you can read",
                advice="check the name; for a private model run `hf auth login`",
            )
        case _ if isinstance(error, unreachable) or _is_of_transport(error):
            return UserError(
                f"{model_id} is neither a local folder nor complete in the local cache, and the Hub cannot be reached",
                advice="go online, or give a local folder",
            )
        case OSError(errno=errno.ENOSPC):
            return UserError(
                f"{model_id} does not fit on the disk", advice="free space, or set HF_HOME to a larger one"
            )
        case _:
            what = f"{model_id} cannot be downloaded ({type(error).__name__}: {_first_line(error)})"
            return UserError(what, advice="try again: downloaded parts are kept")


def _is_of_transport(error: Exception) -> bool:
    """Return whether this is a transport error of the HTTP library, by name: the client has changed its library."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")


def _progress_bar(model_id: str, progress: Callable[[Progress], None]) -> type[Any]:
    """Return a progress bar class for the Hub's client that reports bytes and prints nothing."""
    from tqdm import tqdm

    class ReportingBar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self._counts_bytes = options.get("unit") == "B"
            super().__init__(*args, **options | {"file": io.StringIO()})

        def display(self, *_args: Any, **_options: Any) -> None:
            """Report progress; tqdm calls this at most ten times a second."""
            if self._counts_bytes and self.total:
                done, total = int(self.n), int(self.total)
                progress(
                    Progress(stage="reading", done=done, total=total, unit="bytes", note=f"downloading {model_id}")
                )

    return ReportingBar
