"""Weights larger than this machine's memory: reported while they are loaded, and kept as a warning."""

from __future__ import annotations

import importlib
import pathlib

import pytest

from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions
from moe_watch.backends.system import out_of_memory
from moe_watch.routing.events import Progress
from tests.backends import llama_files

SAID = "0.0 GB of weights, more than this machine's memory of 0.0 GB"


def load(path: pathlib.Path, module: str) -> tuple[list[str], set[str | None]]:
    """The warnings of a model, and the notes beside its progress."""
    steps: list[Progress] = []
    engine = importlib.import_module(module).load(
        catalog.locate(str(path)), options=EngineOptions(), progress=steps.append
    )
    return engine.warnings, {step.note for step in steps}


def test_mlx_says_it(mixtral_folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlx_lm", reason="the MLX engine is not installed")
    monkeypatch.setattr(out_of_memory, "total_memory", lambda: 1000)
    warnings, notes = load(mixtral_folder, "moe_watch.backends.mlx.engine")
    assert warnings == [SAID]
    assert SAID in notes


def test_llama_says_it(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed")
    monkeypatch.setattr(out_of_memory, "total_memory", lambda: 1000)
    assert load(llama_files.write_gguf(tmp_path / "m.gguf"), "moe_watch.backends.llama.engine") == ([SAID], {SAID})


def test_what_fits_is_not_spoken_of() -> None:
    total = out_of_memory.total_memory()
    assert total is not None
    assert total > 10**8
    assert out_of_memory.beyond_memory(total) is None
    assert out_of_memory.beyond_memory(3 * total) is not None


def test_a_system_that_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr("os.sysconf", unknown)
    assert out_of_memory.beyond_memory(10**15) is None
