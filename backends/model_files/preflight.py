"""Checks of a model's files, before any engine is imported or any screen opens."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from pathlib import Path

from moe_watch.backends.model_files import ollama
from moe_watch.backends.model_files.catalog import ModelLocation
from moe_watch.backends.model_files.config import (
    Config,
    check_selection,
    context_length,
    expert_count,
    layer_count,
    read_config,
)
from moe_watch.backends.model_files.dense import check_generates, check_task, is_dense
from moe_watch.backends.model_files.gguf import GgufFile, read_parts
from moe_watch.backends.model_files.gguf_checks import check_model
from moe_watch.backends.model_files.hub_gguf import GgufName
from moe_watch.backends.model_files.safetensors import AGAIN, TensorInfo, read_tensors, unreadable
from moe_watch.backends.system.regular_files import read_regular
from moe_watch.routing.errors import UserError

WEIGHTS = "model*.safetensors"
"""Names of weight files that mlx-lm loads."""
TOKENIZERS = ("tokenizer.json", "*.model", "*.tiktoken", "vocab.*", "tekken.json")
"""Names of vocabulary files; one is enough."""
INDEX = "model.safetensors.index.json"
TEMPLATES = "additional_chat_templates"
"""Folder that transformers searches for templates."""
TEXTS = frozenset((".json", ".jinja", ".txt", ".model", ".tiktoken", ".py"))
"""Suffixes of files that libraries read as a whole."""
LONGEST_VOCABULARY = 1_000_000_000
"""Bytes. The largest tokenizer.json of a published model has some 40 MB."""


def preflight(location: ModelLocation) -> None:
    """Check a model's files. A model that is not downloaded yet passes: it is checked after the download.

    Raises:
        UserError: the model cannot be observed.
    """
    if location.path is None:
        return
    check = _check_gguf if location.format == "gguf" else _check_folder
    try:
        check(location.name, location.path)
    except UserError as error:
        if location.origin == "embedded":
            raise UserError(f"the embedded model is damaged ({error.what})", advice="reinstall moe-watch") from error
        if location.origin == "hub" and error.advice == AGAIN:
            raise UserError(error.what, advice=f"run `{_download_again(location)}`") from error
        if location.origin == "ollama" and error.advice == AGAIN:
            again = f"run `ollama pull {location.name.removeprefix(ollama.PREFIX)}`"
            raise UserError(error.what, advice=again) from error
        raise


def is_dense_model(location: ModelLocation) -> bool:
    """Return whether a model that passed `preflight` is dense; False if it is not downloaded yet."""
    if location.path is None:
        return False
    if location.format == "gguf":
        return (read_parts(location.path)[0].number("expert_count") or 0) < 2
    return expert_count(read_config(location.path)) is None


def hidden_layers(location: ModelLocation) -> int | None:
    """Return the number of layers of a model, those without a router included; None if its files do not state it.

    Layers that predict further tokens are not counted, as in a Hugging Face config.
    """
    if location.path is None:
        return None
    if location.format == "huggingface":
        return layer_count(read_config(location.path))
    file = read_parts(location.path, digests=False)[0]
    blocks = file.number("block_count")
    return None if blocks is None else blocks - (file.number("nextn_predict_layers") or 0)


def longest_context(location: ModelLocation) -> int | None:
    """Return the longest context that a model supports, in tokens; None if its files do not state it."""
    if location.path is None:
        return None
    if location.format == "huggingface":
        return context_length(read_config(location.path))
    return read_parts(location.path, digests=False)[0].number("context_length")


def _download_again(location: ModelLocation) -> str:
    """Return the Hub's command for a new download."""
    name = GgufName.parse(location.name)
    if location.format == "huggingface" or name is None or location.path is None:
        return f"hf download {location.name}"
    return f'hf download {name.repository} --include "*{location.path.name}" --force-download'


def _check_gguf(name: str, path: Path) -> None:
    check_parts(name, path, read_parts(path))


def check_parts(name: str, path: Path, parts: Sequence[GgufFile]) -> None:
    """Check a GGUF model, given the headers of all its files.

    Raises:
        UserError: it is no model, or llama.cpp cannot run it.
    """
    if kind := other_than_a_model(parts[0]):
        raise UserError(f"{path} is {kind}", advice="give the model's own file")
    check_generates(name, parts[0])
    check_model(name, parts)


def other_than_a_model(file: GgufFile) -> str | None:
    """Return a description of a GGUF file that is not a complete model; None if it is one."""
    kind = str(file.metadata.get("general.type", "model"))
    if kind == "adapter":
        return "an adapter (LoRA), not a model"
    if kind == "mmproj" or file.architecture == "clip":
        return "the image or sound part of a model"
    if not file.tensors:
        return "a vocabulary without weights"
    return None if kind == "model" else f"not a model ({kind})"


def _check_folder(name: str, folder: Path) -> None:
    config = _config(folder)
    _check_readable(folder)
    check_config(name, folder, config, read_tensor_tables(folder))


def check_config(name: str, folder: Path, config: Config, tensors: Sequence[TensorInfo]) -> None:
    """Check a model folder, given its config.json and the tensor tables of its weight files.

    Raises:
        UserError: MLX cannot run the model, or the files contradict each other about experts.
    """
    check_task(name, config)
    check_selection(config, name)
    is_dense(config, tensors, name)
    if not any(any(folder.glob(name)) for name in TOKENIZERS):
        raise UserError(f"{folder} has no tokenizer ({', '.join(TOKENIZERS)})", advice=AGAIN)


def _check_readable(folder: Path) -> None:
    """Refuse files on which a library would wait or read without end: it opens files by fixed names."""
    for place in (folder, folder / TEMPLATES):
        try:
            paths = sorted(place.iterdir())
        except FileNotFoundError:
            continue
        except OSError as error:
            raise unreadable(place, error) from error
        for path in paths:
            _check_entry(path)


def _check_entry(path: Path) -> None:
    try:
        status = path.stat()
    except OSError:  # a dangling link, or one without permission: the code that needs it reports it
        return
    if stat.S_ISDIR(status.st_mode):
        return
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is not a regular file", advice="remove it from the model's folder")
    if path.suffix in TEXTS and status.st_size > LONGEST_VOCABULARY:
        raise UserError(f"{path} is larger than {LONGEST_VOCABULARY:,} bytes", advice=AGAIN)


def _config(folder: Path) -> Config:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder", advice="check the path")
    others = sorted(folder.glob("*.gguf"))
    if others and not (folder / "config.json").exists():
        raise UserError(f"{folder} has no config.json", advice=f"to use its GGUF file, give {others[0]}")
    return read_config(folder)


def read_tensor_tables(folder: Path) -> list[TensorInfo]:
    """Read the tensor tables of all weight files of a folder, each checked against its file's size.

    Raises:
        UserError: there are no weight files, one is missing, or one is damaged.
    """
    return [tensor for path in weight_files(folder) for tensor in read_tensors(path)]


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a folder, sorted by name.

    Raises:
        UserError: there are none, or the index lists one that is missing.
    """
    files = sorted(folder.glob(WEIGHTS))
    missing = sorted(_indexed_files(folder) - {path.name for path in files})
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{folder} lacks {missing[0]}{more}, listed in {INDEX}", advice=AGAIN)
    if not files:
        raise UserError(f"{folder} has no weights ({WEIGHTS})", advice=AGAIN)
    return files


def _indexed_files(folder: Path) -> set[str]:
    """Return the files in the index; empty if there is no index."""
    path = folder / INDEX
    if not path.exists():
        return set()
    try:
        return {str(name) for name in json.loads(read_regular(path))["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not a valid index", advice=AGAIN) from error
