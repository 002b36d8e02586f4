"""Catalog of models and engines: from the user's name of a model to its files and its engine. Imports nothing heavy."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from moe_watch.backends import engine_log
from moe_watch.backends.engine_options import check_ranges, check_support
from moe_watch.backends.model_files import hub, hub_gguf, ollama
from moe_watch.backends.model_files.gguf import is_gguf
from moe_watch.backends.model_files.hub_gguf import GgufName
from moe_watch.backends.model_files.safetensors import unreadable
from moe_watch.backends.optional_packages import install_command
from moe_watch.backends.protocol import BackendChoice, EngineOptions
from moe_watch.backends.system.deferred_imports import import_mlx_lm
from moe_watch.backends.system.open_files import clamped_limits
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Progress

if TYPE_CHECKING:
    from moe_watch.backends.engine import Engine

Format = Literal["huggingface", "gguf"]
Origin = Literal["embedded", "folder", "file", "hub", "ollama"]

POCKET = "pocket"
POCKET_FOLDER = Path(__file__).parents[1] / "pocket"
POCKET_GGUF = POCKET_FOLDER / "pocket.gguf"


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """Location of a model."""

    name: str
    path: Path | None
    """Folder or file; None if it is not downloaded yet."""
    format: Format
    origin: Origin


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """Entry of an engine that this version supports."""

    module: str
    """Module whose `load(location, *, options, progress)` returns the `Engine`."""
    reads: Format
    packages: tuple[str, ...]
    """Packages that must be installed."""
    extra: str
    """Extra of moe-watch that installs them."""


ENGINES: dict[str, EngineEntry] = {
    "mlx": EngineEntry("moe_watch.backends.mlx.engine", "huggingface", ("mlx", "mlx_lm"), "mlx"),
    "llama.cpp": EngineEntry("moe_watch.backends.llama.engine", "gguf", ("llama_cpp",), "llama"),
}
"""Engines by name, in the order in which `auto` prefers them."""

ENGINE_OF_FORMAT: dict[Format, str] = {"huggingface": "mlx", "gguf": "llama.cpp"}

ADDRESS = re.compile(r"(?:https?://)?(?:huggingface\.co|hf\.co)/(?P<id>[^/]+/[^/]+)/?(?:tree/main/?)?")
"""Address of a model's page, as copied from a browser."""

EXAMPLES = (
    "give pocket, a folder in Hugging Face layout, a .gguf file, or a Hugging Face id "
    "(owner/name, for GGUF files owner/name:Q4_K_M), or ollama:NAME; `moe-watch models` lists those on this machine"
)


def locate(model: str, backend: str = "auto") -> ModelLocation:
    """Find a model on this machine, without network access.

    Args:
        model: `pocket`, a folder, a GGUF file, or a Hugging Face id or address; an id that ends in GGUF, or has a
            suffix with a quantization or a file (`owner/name:Q4_K_M`), means GGUF files. `ollama:NAME[:TAG]` is a
            model that Ollama has downloaded.
        backend: requested engine; the embedded model is returned in the format of that engine.

    Raises:
        UserError: the name is not a model.
    """
    if address := ADDRESS.fullmatch(model):
        model = address["id"]
    if model == POCKET:
        return _pocket(backend)
    if model.startswith(ollama.PREFIX):
        return ModelLocation(model, ollama.find(model.removeprefix(ollama.PREFIX)), "gguf", "ollama")
    if model and (found := _on_this_machine(Path(os.path.expanduser(model)))) is not None:
        return found
    if _is_path(model):
        raise UserError(f"{model}: no such file or folder", advice="check the path")
    if (name := GgufName.parse(model)) is not None:
        return _on_the_hub(model, name, backend)
    raise UserError(f"there is no model called {model!r}", advice=EXAMPLES)


def _on_this_machine(path: Path) -> ModelLocation | None:
    """Return the location of a folder or file; None if the path does not exist."""
    try:
        if path.is_dir():
            return ModelLocation(path.resolve().name, path, "huggingface", "folder")
        if path.is_file():
            return _file(path)
        if path.exists():
            raise UserError(f"{path} is not a regular file", advice=EXAMPLES)
        return None
    except OSError as error:
        raise unreadable(path, error) from error


def _is_path(model: str) -> bool:
    """Return whether the name can only be a path; `owner/name:file.gguf` is on the Hub."""
    return model.startswith(("/", "./", "../", "~")) or (
        model.endswith((".gguf", ".safetensors", "/")) and ":" not in model
    )


def _pocket(backend: str) -> ModelLocation:
    name = _preferred_engine() if backend == "auto" else backend
    if name == ENGINE_OF_FORMAT["gguf"]:
        return ModelLocation(POCKET, POCKET_GGUF, "gguf", "embedded")
    return ModelLocation(POCKET, POCKET_FOLDER, "huggingface", "embedded")


def _on_the_hub(model: str, name: GgufName, backend: str) -> ModelLocation:
    """Return the location of a repository; its name, its suffix or the engine decide whether GGUF files are meant."""
    is_gguf = name.selector is not None or name.repository.upper().endswith("GGUF")
    if is_gguf or backend == ENGINE_OF_FORMAT["gguf"]:
        return ModelLocation(model, hub_gguf.cached(name), "gguf", "hub")
    return ModelLocation(model, hub.cached_snapshot(model), "huggingface", "hub")


def _preferred_engine() -> str:
    return next((name for name, engine in ENGINES.items() if not missing_packages(engine)), next(iter(ENGINES)))


def _file(path: Path) -> ModelLocation:
    if path.suffix == ".gguf" or is_gguf(path):
        return ModelLocation(path.stem, path, "gguf", "file")
    raise UserError(f"{path} is not a model", advice="give a .gguf file, or the folder with config.json")


def fetch(location: ModelLocation, progress: Callable[[Progress], None], *, with_code: bool = False) -> ModelLocation:
    """Download the model if it is not on this machine.

    Args:
        location: location of the model.
        progress: receives the number of bytes during the download.
        with_code: also fetch the Python code of the model.

    Raises:
        UserError: the model cannot be downloaded.
    """
    if location.format == "huggingface" and location.origin == "hub" and with_code:
        return replace(location, path=hub.download(location.name, progress, patterns=[*hub.FILES, *hub.CODE]))
    if location.path is not None:
        return location
    name = GgufName.parse(location.name)
    if location.format == "gguf" and name is not None:
        return replace(location, path=hub_gguf.download(name, progress))
    return replace(location, path=hub.download(location.name, progress))


def choose_backend(choice: str, location: ModelLocation) -> str:
    """Return the name of the engine to use.

    Raises:
        UserError: the engine does not exist, is not installed, or does not read this model's format.
    """
    name = ENGINE_OF_FORMAT[location.format] if choice == "auto" else choice
    engine = _entry(name)
    if engine.reads != location.format:
        raise UserError(
            f"the {name} backend does not read {location.name} ({location.format} files)", advice="leave out --backend"
        )
    if missing_packages(engine):
        raise UserError(f"the {name} backend is not installed", advice=f"run `{install_command(engine.extra)}`")
    return name


def _entry(name: str) -> EngineEntry:
    if name in ENGINES:
        return ENGINES[name]
    if name in get_args(BackendChoice):
        raise UserError(f"this version of moe-watch has no {name} engine yet", advice=f"it has: {', '.join(ENGINES)}")
    raise UserError(f"there is no backend called {name!r}", advice=f"choose auto or {' or '.join(ENGINES)}")


def missing_packages(engine: EngineEntry) -> list[str]:
    """Return the engine's packages that are not installed, without importing any."""
    return [package for package in engine.packages if importlib.util.find_spec(package) is None]


def load_engine(
    name: str, location: ModelLocation, *, options: EngineOptions, progress: Callable[[Progress], None]
) -> Engine:
    """Load a model with the engine that `choose_backend` returned. This imports the engine's library.

    Raises:
        UserError: the model cannot be used, or not with these options.
    """
    check_ranges(options)
    check_support(name, options)
    with clamped_limits():
        if name == "mlx" and location.origin == "embedded":
            import_mlx_lm()
        module = importlib.import_module(ENGINES[name].module)
    with engine_log.captured_warnings() as logged:
        engine: Engine = module.load(location, options=options, progress=progress)
    engine.warnings = [*engine.warnings, *engine_log.summarize_by_package(name, logged)]
    if location.origin == "ollama" and not engine.has_chat_template:
        engine.warnings.append(
            f"{location.name} has no chat template in its GGUF file, and Ollama's own is not used: the prompt is sent "
            "as it is"
        )
    return engine
