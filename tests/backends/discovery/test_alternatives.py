"""Other quantizations: beside a model, in its repository, and in the places of other programs."""

from __future__ import annotations

import pathlib
import shlex
import shutil
import threading
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("gguf", reason="gguf writes the files")

import gguf

from moe_watch.backends.discovery import alternatives
from moe_watch.backends.discovery.alternatives import other_quantizations
from moe_watch.backends.discovery.candidates import ModelCandidate
from moe_watch.backends.discovery.places import SearchPlace, search_places
from moe_watch.backends.memory.report import OtherQuantization
from moe_watch.backends.model_files.catalog import locate
from moe_watch.commands.app import run
from tests.backends import llama_files, tiny
from tests.backends.discovery import trees

Q8 = gguf.GGMLQuantizationType.Q8_0


def write(
    path: pathlib.Path, name: str | None = "Tiny", finetune: str = "", *, small: bool = False, of=tiny.MIXTRAL
) -> pathlib.Path:
    """Write a model with a name; `small` has other tensors in fewer bytes."""

    def change(writer: gguf.GGUFWriter) -> None:
        if name is not None:
            writer.add_basename(name)
        if finetune:
            writer.add_finetune(finetune)

    path.parent.mkdir(parents=True, exist_ok=True)
    return llama_files.write_gguf(path, of, experts_as=Q8 if small else None, change=change)


def found(path: pathlib.Path, *places: SearchPlace) -> list[OtherQuantization]:
    others, in_time = other_quantizations(locate(str(path)), places)
    assert in_time
    return others


def names(path: pathlib.Path, *places: SearchPlace) -> list[str]:
    return [each.name for each in found(path, *places)]


def test_files_beside_it(tmp_path: pathlib.Path) -> None:
    """A shape without a name is enough in one folder."""
    path = llama_files.write_gguf(tmp_path / "model-F32.gguf")
    shutil.copy(path, tmp_path / "model-copy.gguf")
    llama_files.write_gguf(tmp_path / "other.gguf", llama_files.QWEN3)
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    assert names(path) == [str(tmp_path / "model-copy.gguf")]


def test_every_place_is_searched(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "own" / "tiny-F32.gguf")
    small = write(tmp_path / "other" / "tiny-Q8_0.gguf", small=True)
    blob = trees.ollama_model(tmp_path / "ollama", small)
    trees.hub_repository(tmp_path / "hub", "owner/tiny-GGUF", {"tiny-Q8_0.gguf": small})
    places = [
        SearchPlace("Hugging Face", tmp_path / "hub"),
        SearchPlace("Ollama", tmp_path / "ollama"),
        SearchPlace("LM Studio", tmp_path / "other"),
        SearchPlace("settings", tmp_path / "own"),
    ]
    others = found(path, *places)
    assert {each.name for each in others} == {"owner/tiny-GGUF:Q8_0", "ollama:tiny:8x7b", str(small)}
    assert blob in [each.path for each in others]


def test_the_model_itself_and_other_models_are_not_offered(tmp_path: pathlib.Path) -> None:
    """Same file by a link, same shape by another name, base and instruct, no name at all, another shape."""
    path = write(tmp_path / "own" / "tiny.gguf", finetune="Instruct")
    place = tmp_path / "models"
    place.mkdir()
    (place / "link.gguf").symlink_to(path)
    write(place / "other.gguf", "Another", "Instruct", small=True)
    write(place / "base.gguf", small=True)
    write(place / "anonymous.gguf", None, small=True)
    write(place / "shape.gguf", finetune="Instruct", of=llama_files.QWEN3)
    (place / "broken.gguf").write_bytes(b"GGUF")
    assert names(path, SearchPlace("settings", place)) == []
    right = write(place / "right.gguf", finetune="Instruct", small=True)
    assert names(path, SearchPlace("settings", place)) == [str(right)]


def test_the_largest_is_first_and_a_file_is_offered_once(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "tiny-F32.gguf")
    small, large = write(tmp_path / "a.gguf", small=True), write(tmp_path / "b.gguf")
    assert names(path, SearchPlace("settings", tmp_path)) == [str(large), str(small)]


def test_folders_and_the_embedded_model_have_none(tmp_path: pathlib.Path) -> None:
    place = SearchPlace("settings", tmp_path)
    assert other_quantizations(locate("pocket", "llama.cpp"), [place]) == ([], True)
    assert other_quantizations(locate(str(tiny.write_model(tmp_path / "m"))), [place]) == ([], True)


def test_a_search_that_hangs_returns_what_it_has(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = write(tmp_path / "own" / "m.gguf"), write(tmp_path / "own" / "n.gguf")
    release = threading.Event()

    def hang(_places: object) -> Iterator[ModelCandidate]:
        release.wait(60)
        yield from ()

    monkeypatch.setattr(alternatives, "candidates_in", hang)
    began = time.monotonic()
    others, in_time = other_quantizations(locate(str(path)), seconds=0.5)
    release.set()
    assert ([each.path for each in others], in_time) == ([other], False)
    assert time.monotonic() - began < 20


def test_the_command_recommends_what_ollama_has(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed")
    for name in ("HF_HUB_CACHE", "LLAMA_CACHE", "LMSTUDIO_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "store"))
    path = write(tmp_path / "m.gguf")
    trees.ollama_model(tmp_path / "store", write(tmp_path / "other" / "m.gguf", small=True))
    run(["memory", str(path)])
    shown = capsys.readouterr().out
    assert "another quantization: ollama:tiny:8x7b" in " ".join(shown.split())
    assert any(place.kind == "Ollama" for place in search_places())
    assert shlex.split(shown.splitlines()[-1])[-2:] == ["watch", str(path)]  # it fits as it is
