"""Range of --threads for llama.cpp."""

from __future__ import annotations

import pathlib

import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from moe_watch.backends.llama import loading as llama_loading
from moe_watch.backends.llama.loading import load_model
from moe_watch.backends.model_files.catalog import ModelLocation
from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Progress


@pytest.fixture
def location(tmp_path: pathlib.Path) -> ModelLocation:
    """A file without a model; a refusal before it is opened has another message."""
    path = tmp_path / "no.gguf"
    path.write_bytes(b"GGUF")
    return ModelLocation(name="no", format="gguf", origin="file", path=path)


def _load(location: ModelLocation, threads: int) -> None:
    def never(progress: Progress) -> None:
        raise AssertionError(progress)

    load_model(location, options=EngineOptions(threads=threads), progress=never)


@pytest.mark.parametrize(
    ("cores", "threads", "most"),
    [(1, 17, 16), (2, 9999, 16), (8, 33, 32), (8, 0, 32), (8, -1, 32), (300, 513, 512), (300, 99999, 512)],
)
def test_numbers_that_llama_cpp_hangs_or_dies_of(
    location: ModelLocation, monkeypatch: pytest.MonkeyPatch, cores: int, threads: int, most: int
) -> None:
    monkeypatch.setattr(llama_loading.os, "cpu_count", lambda: cores)
    with pytest.raises(UserError, match=f"^--threads is {threads}: give 1 to {most}$"):
        _load(location, threads)


@pytest.mark.parametrize(("cores", "threads"), [(1, 16), (8, 32), (300, 512)])
def test_the_most_there_may_be(
    location: ModelLocation, monkeypatch: pytest.MonkeyPatch, cores: int, threads: int
) -> None:
    monkeypatch.setattr(llama_loading.os, "cpu_count", lambda: cores)
    with pytest.raises(UserError, match=r"no\.gguf"):
        _load(location, threads)
