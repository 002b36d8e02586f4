from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import gguf
import pytest

from moe_watch.backends.engine import Engine
from moe_watch.backends.mlx.engine import load
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions
from tests.backends import tiny

VARIABLES = (
    *("LLAMA_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "OLLAMA_MODELS"),
    "LMSTUDIO_HOME",
)


@pytest.fixture
def home(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """An empty home: no program keeps models anywhere else."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("moe_watch.backends.model_files.ollama.SERVICE", tmp_path / "service")
    # The client reads its variables once, when it is imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / ".cache/huggingface/hub"))
    return home


LoadFolder = Callable[..., Engine]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def mixtral_folder(folders: pathlib.Path) -> pathlib.Path:
    return tiny.write_model(folders / "mixtral")


@pytest.fixture(scope="session")
def chat_folder(folders: pathlib.Path) -> pathlib.Path:
    return tiny.write_model(folders / "chat", chat_template=tiny.CHAT_TEMPLATE)


@pytest.fixture
def changed(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """Copy a model folder with changed entries in its config.json; None removes an entry."""

    def change(folder: pathlib.Path, **entries: Any) -> pathlib.Path:
        copy = tmp_path / "changed"
        shutil.copytree(folder, copy)
        config = json.loads((copy / "config.json").read_text()) | entries
        kept = {name: value for name, value in config.items() if value is not None}
        (copy / "config.json").write_text(json.dumps(kept))
        return copy

    return change


def load_folder(folder: pathlib.Path, threads: int | None = None) -> Engine:
    return load(catalog.locate(str(folder)), options=EngineOptions(threads=threads), progress=lambda _: None)


@pytest.fixture(scope="session")
def mixtral(mixtral_folder: pathlib.Path) -> Engine:
    return load_folder(mixtral_folder)


@pytest.fixture(scope="session")
def chat(chat_folder: pathlib.Path) -> Engine:
    return load_folder(chat_folder)


OpenModel = Callable[[str], Engine]
"""Loads a tiny model with a chat template; an empty one is none."""

ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(bool(catalog.missing_packages(entry)), reason=f"no {name} here"))
    for name, entry in catalog.ENGINES.items()
]


@pytest.fixture(scope="module")
def open_gguf() -> Iterator[Callable[..., Engine]]:
    from tests.backends import llama_files

    with llama_files.opening() as load_path:
        yield load_path


@pytest.fixture(params=ENGINES)
def open_model(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> OpenModel:
    """Load a tiny model with a chat template, on each engine."""
    if request.param == "mlx":
        return lambda template: load_folder(tiny.write_model(tmp_path / "m", chat_template=template or None))
    from tests.backends import llama_files

    opened = request.getfixturevalue("open_gguf")

    def change(template: str) -> Callable[[gguf.GGUFWriter], None]:
        return lambda writer: writer.add_chat_template(template) if template else None

    return lambda template: opened(llama_files.write_gguf(tmp_path / "m.gguf", change=change(template)))
