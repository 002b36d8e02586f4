"""From the name a person gives to a model's files and the engine that reads them. Imports nothing heavy."""

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
from moe_watch.backends.extras import install_command
from moe_watch.backends.model_files import hub, hub_gguf
from moe_watch.backends.model_files.gguf import is_gguf
from moe_watch.backends.model_files.hub_gguf import Wanted
from moe_watch.backends.model_files.safetensors import unreadable
from moe_watch.backends.protocol import BackendChoice, EngineOptions
from moe_watch.backends.system.open_files import tolerated
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Progress

if TYPE_CHECKING:
    from moe_watch.backends.engine import Engine

Format = Literal["huggingface", "gguf"]
Origin = Literal["embedded", "folder", "file", "hub"]

POCKET = "pocket"
POCKET_FOLDER = Path(__file__).parents[1] / "pocket"
POCKET_GGUF = POCKET_FOLDER / "pocket.gguf"


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """Where a model is."""

    name: str
    path: Path | None
    """Its folder or file; None while it is still to be downloaded."""
    format: Format
    origin: Origin


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """How to get an engine that this version has."""

    module: str
    """Its `load(location, *, options, progress)` gives the `Engine`."""
    reads: Format
    packages: tuple[str, ...]
    """What must be installed."""
    extra: str
    """The extra of moe-watch that installs it."""


ENGINES: dict[str, EngineEntry] = {
    "mlx": EngineEntry("moe_watch.backends.mlx.engine", "huggingface", ("mlx", "mlx_lm"), "mlx"),
    "llama.cpp": EngineEntry("moe_watch.backends.llama.engine", "gguf", ("llama_cpp",), "llama"),
}
"""The engines there are, in the order in which `auto` prefers them."""

ENGINE_OF_FORMAT: dict[Format, str] = {"huggingface": "mlx", "gguf": "llama.cpp"}

ADDRESS = re.compile(r"(?:https?://)?(?:huggingface\.co|hf\.co)/(?P<id>[^/]+/[^/]+)/?(?:tree/main/?)?")
"""Of a model's page, as it is copied from a browser."""

EXAMPLES = (
    "give pocket, a folder in Hugging Face layout, a .gguf file, or a Hugging Face id "
    "(owner/name, for GGUF files owner/name:Q4_K_M)"
)


def locate(model: str, backend: str = "auto") -> ModelLocation:
    """Find a model on this machine; asks no network.

    Args:
        model: `pocket`, a folder, a GGUF file, or a Hugging Face id or address; an id that ends in GGUF, or goes on
            with a quantisation or a file (`owner/name:Q4_K_M`), stands for GGUF files.
        backend: which engine is asked for; the embedded model comes in the form that it reads.

    Raises:
        UserError: the name stands for nothing.
    """
    if address := ADDRESS.fullmatch(model):
        model = address["id"]
    if model == POCKET:
        return _pocket(backend)
    if model and (found := _on_this_machine(Path(os.path.expanduser(model)))) is not None:
        return found
    if _is_path(model):
        raise UserError(f"{model}: no such file or folder", advice="check the path")
    if (wanted := Wanted.of(model)) is not None:
        return _on_the_hub(model, wanted, backend)
    raise UserError(f"there is no model called {model!r}", advice=EXAMPLES)


def _on_this_machine(path: Path) -> ModelLocation | None:
    """A folder or a file; None if there is none of this name."""
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
    """It can only be meant as one; `owner/name:file.gguf` is on the Hub."""
    return model.startswith(("/", "./", "../", "~")) or (
        model.endswith((".gguf", ".safetensors", "/")) and ":" not in model
    )


def _pocket(backend: str) -> ModelLocation:
    name = _preferred_engine() if backend == "auto" else backend
    if name == ENGINE_OF_FORMAT["gguf"]:
        return ModelLocation(POCKET, POCKET_GGUF, "gguf", "embedded")
    return ModelLocation(POCKET, POCKET_FOLDER, "huggingface", "embedded")


def _on_the_hub(model: str, wanted: Wanted, backend: str) -> ModelLocation:
    """A repository whose GGUF files are meant says so by its name, by what is asked of it, or by the engine."""
    is_gguf = wanted.what is not None or wanted.repository.upper().endswith("GGUF")
    if is_gguf or backend == ENGINE_OF_FORMAT["gguf"]:
        return ModelLocation(model, hub_gguf.cached(wanted), "gguf", "hub")
    return ModelLocation(model, hub.cached_snapshot(model), "huggingface", "hub")


def _preferred_engine() -> str:
    return next((name for name, engine in ENGINES.items() if not missing_packages(engine)), next(iter(ENGINES)))


def _file(path: Path) -> ModelLocation:
    if path.suffix == ".gguf" or is_gguf(path):
        return ModelLocation(path.stem, path, "gguf", "file")
    raise UserError(f"{path} is no model", advice="give a .gguf file, or the folder that holds config.json")


def fetch(location: ModelLocation, progress: Callable[[Progress], None], *, with_code: bool = False) -> ModelLocation:
    """Download the model if it is not on this machine.

    Args:
        location: of the model.
        progress: told of bytes, while they come.
        with_code: fetch the Python code that the model brings, too.

    Raises:
        UserError: it cannot be had.
    """
    if location.format == "huggingface" and location.origin == "hub" and with_code:
        return replace(location, path=hub.download(location.name, progress, patterns=[*hub.FILES, *hub.CODE]))
    if location.path is not None:
        return location
    wanted = Wanted.of(location.name)
    if location.format == "gguf" and wanted is not None:
        return replace(location, path=hub_gguf.download(wanted, progress))
    return replace(location, path=hub.download(location.name, progress))


def choose_backend(choice: str, location: ModelLocation) -> str:
    """The name of the engine to use.

    Raises:
        UserError: it does not exist, is not installed, or does not read this model.
    """
    name = ENGINE_OF_FORMAT[location.format] if choice == "auto" else choice
    engine = _entry(name)
    if engine.reads != location.format:
        raise UserError(
            f"the {name} backend does not read {location.name} ({location.format} files)", advice="leave --backend out"
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
    """Which of the engine's packages are not installed. Imports none of them."""
    return [package for package in engine.packages if importlib.util.find_spec(package) is None]


def load_engine(
    name: str, location: ModelLocation, *, options: EngineOptions, progress: Callable[[Progress], None]
) -> Engine:
    """Load a model with the engine that `choose_backend` named. This imports the engine's library.

    Raises:
        UserError: the model cannot be used, or not like this.
    """
    check_ranges(options)
    check_support(name, options)
    with tolerated():
        module = importlib.import_module(ENGINES[name].module)
    with engine_log.listening() as said:
        engine: Engine = module.load(location, options=options, progress=progress)
    engine.warnings = [*engine.warnings, *engine_log.by_package(name, said)]
    return engine
