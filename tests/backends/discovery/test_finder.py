"""Models are found in every place, once, under names that lead back to them."""

from __future__ import annotations

import json
import os
import pathlib
import shutil

import gguf
import pytest

from moe_watch.backends.discovery import candidates
from moe_watch.backends.discovery.candidates import search_tree
from moe_watch.backends.discovery.finder import find_models
from moe_watch.backends.discovery.places import search_places
from moe_watch.backends.discovery.results import ListedModel, ModelList
from moe_watch.backends.model_files.catalog import POCKET, locate
from moe_watch.backends.model_files.preflight import preflight
from moe_watch.sessions.library.cache import LibraryCache
from tests.backends import llama_files, tiny
from tests.backends.discovery import trees

PLENTY = 10**12


def found_in(*given: pathlib.Path, settings: tuple[str, ...] = (), available: int = PLENTY) -> ModelList:
    return find_models(search_places(settings, given), LibraryCache(None), available)


def listed(found: ModelList) -> dict[str, ListedModel]:
    """Models by name, without pocket."""
    return {model.name: model for model in found.models if model.name != POCKET}


def only(found: ModelList) -> ListedModel:
    (model,) = listed(found).values()
    return model


def assert_usable(model: ListedModel) -> None:
    """The name leads to the listed files, and they pass the checks before loading."""
    assert model.problem is None
    location = locate(model.name, "llama.cpp" if model.format == "gguf" else "mlx")
    assert location.path is not None
    assert location.path.resolve() == pathlib.Path(model.path).resolve()
    preflight(location)


def split(folder: pathlib.Path, stem: str, count: int) -> None:
    """Write a model in parts, as `llama-gguf-split` does: metadata in the first, tensors in all."""
    tensors = list(llama_files.gguf_tensors(tiny.MIXTRAL, seed=0).items())
    for number in range(count):
        writer = gguf.GGUFWriter(folder / f"{stem}-{number + 1:05}-of-{count:05}.gguf", "llama")
        if number == 0:
            llama_files.add_architecture(writer, tiny.MIXTRAL)
            llama_files.add_tokenizer(writer)
        writer.add_uint16("split.count", count)
        writer.add_uint16("split.no", number)
        for name, tensor in tensors[number::count]:
            writer.add_tensor(name, tensor)
        llama_files.finish(writer)


# -- places


def test_pocket_is_found_where_nothing_else_is(home: pathlib.Path) -> None:
    found = found_in()
    (pocket,) = found.models
    assert (pocket.name, pocket.place, pocket.layers, pocket.experts, pocket.experts_per_token) == (
        "pocket", "built in", 6, 8, 2,
    )  # fmt: skip
    assert not any(place.exists for place in found.searched)
    assert {place.place for place in found.searched} == {"Hugging Face", "llama.cpp", "Ollama", "LM Studio"}
    assert found.notes == []


def test_the_cache_of_hugging_face(home: pathlib.Path, hf_folder: pathlib.Path, gguf_file: pathlib.Path) -> None:
    cache = home / ".cache/huggingface/hub"
    trees.hub_repository(cache, "tiny/Qwen3-4bit", trees.files_of(hf_folder))
    trees.hub_repository(cache, "tiny/Mixtral-GGUF", {"m-Q4_K_M.gguf": gguf_file})
    models = listed(found_in())
    assert set(models) == {"tiny/Qwen3-4bit", "tiny/Mixtral-GGUF:Q4_K_M"}
    for model in models.values():
        assert model.place == "Hugging Face"
        assert_usable(model)
    folder = models["tiny/Qwen3-4bit"]
    assert (folder.layers, folder.blocks, folder.experts, folder.experts_per_token) == (2, 3, 8, 3)
    assert (folder.architecture, folder.engine, folder.template) == ("qwen3_moe", "mlx", True)
    assert folder.quantization == "4-bit affine, groups of 32; 2 modules 8-bit"
    assert folder.bytes == (hf_folder / "model.safetensors").stat().st_size
    file = models["tiny/Mixtral-GGUF:Q4_K_M"]
    assert (file.layers, file.experts, file.experts_per_token, file.template) == (2, 4, 2, False)
    assert (file.architecture, file.engine, file.quantization) == ("llama", "llama.cpp", "F32 100 %")
    assert file.bytes == gguf_file.stat().st_size


def test_of_a_repository_only_the_version_of_main_is_listed(
    home: pathlib.Path, gguf_file: pathlib.Path, other_gguf: pathlib.Path
) -> None:
    cache = home / ".cache/huggingface/hub"
    trees.hub_repository(cache, "tiny/m-GGUF", {"m-Q8_0.gguf": other_gguf}, commit=trees.OLDER)
    newest = trees.hub_repository(cache, "tiny/m-GGUF", {"m-Q8_0.gguf": gguf_file})
    assert only(found_in()).path == str(newest / "m-Q8_0.gguf")
    (cache / "models--tiny--m-GGUF/refs/main").write_text(trees.OLDER)
    assert only(found_in()).architecture == "qwen3moe"


def test_without_main_the_newest_version_is_listed_by_its_path(
    home: pathlib.Path, gguf_file: pathlib.Path, other_gguf: pathlib.Path
) -> None:
    cache = home / ".cache/huggingface/hub"
    older = trees.hub_repository(cache, "t/m-GGUF", {"a-Q8_0.gguf": other_gguf}, commit=trees.OLDER, main=False)
    newest = trees.hub_repository(cache, "t/m-GGUF", {"a-Q8_0.gguf": gguf_file}, main=False)
    os.utime(older, (1, 1))
    model = only(found_in())
    assert model.name == model.path == str(newest / "a-Q8_0.gguf")
    assert_usable(model)


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "LLAMA_CACHE"])
def test_variables_move_the_cache(
    home: pathlib.Path, gguf_file: pathlib.Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = home / "moved"
    monkeypatch.setenv(variable, str(moved))
    trees.hub_repository(moved / ("hub" if variable == "HF_HOME" else ""), "t/m-GGUF", {"m-Q8_0.gguf": gguf_file})
    model = only(found_in())
    assert model.name == "t/m-GGUF:Q8_0"
    assert_usable(model)


def test_names_of_one_repository_are_told_apart(home: pathlib.Path, gguf_file: pathlib.Path) -> None:
    """Files in folders, files without a quantization in their name, and two files with the same one."""
    names = ["BF16/m-BF16.gguf", "m-UD-Q4_K_XL.gguf", "plain.gguf", "a-Q8_0.gguf", "b-Q8_0.gguf"]
    different = {name: gguf_file.with_name(f"{at}.gguf") for at, name in enumerate(names)}
    for at, path in enumerate(different.values()):
        path.write_bytes(gguf_file.read_bytes() + bytes(at + 1))
    trees.hub_repository(home / ".cache/huggingface/hub", "t/m-GGUF", different)
    models = listed(found_in())
    assert set(models) == {f"t/m-GGUF:{each}" for each in ("BF16", "Q4_K_XL", "plain.gguf", "Q8_0", "b-Q8_0.gguf")}
    for model in models.values():
        assert_usable(model)


def test_the_store_of_ollama(home: pathlib.Path, gguf_file: pathlib.Path) -> None:
    blob = trees.ollama_model(home / ".ollama/models", gguf_file)
    model = only(found_in())
    assert (model.name, model.path, model.place) == ("ollama:tiny:8x7b", str(blob), "Ollama")
    assert (model.layers, model.experts, model.engine) == (2, 4, "llama.cpp")
    assert_usable(model)


def test_lm_studio(home: pathlib.Path, hf_folder: pathlib.Path, gguf_file: pathlib.Path) -> None:
    published = home / ".lmstudio/models/publisher"
    shutil.copytree(hf_folder, published / "Qwen3-mlx")
    (published / "m-GGUF").mkdir()
    shutil.copy(gguf_file, published / "m-GGUF/m-Q4_K_M.gguf")
    models = listed(found_in())
    assert set(models) == {str(published / "Qwen3-mlx"), str(published / "m-GGUF/m-Q4_K_M.gguf")}
    for model in models.values():
        assert model.place == "LM Studio"
        assert_usable(model)


@pytest.mark.parametrize("kind", ["pointer", "variable", "settings", "older"])
def test_lm_studio_elsewhere(
    home: pathlib.Path, gguf_file: pathlib.Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = home / "elsewhere/models"
    if kind == "pointer":
        (home / ".lmstudio-home-pointer").write_text(f"{models.parent}\n")
    elif kind == "variable":
        monkeypatch.setenv("LMSTUDIO_HOME", str(models.parent))
    elif kind == "settings":
        (home / ".lmstudio").mkdir()
        (home / ".lmstudio/settings.json").write_text(json.dumps({"downloadsFolder": str(models)}))
    else:
        models = home / ".cache/lm-studio/models"
    models.mkdir(parents=True)
    shutil.copy(gguf_file, models)
    assert only(found_in()).place == "LM Studio"


def test_the_flat_cache_of_llama_cpp(home: pathlib.Path, gguf_file: pathlib.Path, other_gguf: pathlib.Path) -> None:
    flat = home / ".cache/llama.cpp"
    flat.mkdir(parents=True)
    shutil.copy(gguf_file, flat / "ggml-org_gemma-3-1b-it-GGUF_gemma-3-1b-it-Q4_K_M.gguf")
    (flat / "ggml-org_gemma-3-1b-it-GGUF_gemma-3-1b-it-Q4_K_M.gguf.etag").write_text("x")
    (flat / "manifest=ggml-org=gemma-3-1b-it-GGUF=Q4_K_M.json").write_text("{}")
    shutil.copy(other_gguf, flat / "unnamed.gguf")
    models = listed(found_in())
    assert set(models) == {"ggml-org/gemma-3-1b-it-GGUF:Q4_K_M", str(flat / "unnamed.gguf")}
    for model in models.values():
        assert model.place == "llama.cpp"
        assert_usable(model)


def test_folders_of_the_settings_and_of_the_command_line(
    home: pathlib.Path, tmp_path: pathlib.Path, gguf_file: pathlib.Path, other_gguf: pathlib.Path
) -> None:
    (home / "mine").mkdir()
    shutil.copy(gguf_file, home / "mine/a.gguf")
    (tmp_path / "given/deep/er").mkdir(parents=True)
    shutil.copy(other_gguf, tmp_path / "given/deep/er/b.gguf")
    found = found_in(tmp_path / "given", settings=("~/mine", "~/nowhere"))
    places = {model.name: model.place for model in listed(found).values()}
    assert places == {str(home / "mine/a.gguf"): "settings", str(tmp_path / "given/deep/er/b.gguf"): "given"}
    assert found.notes == [f"{home}/nowhere: no such folder"]


# -- once


def test_a_file_is_listed_once(home: pathlib.Path, tmp_path: pathlib.Path, gguf_file: pathlib.Path) -> None:
    """Links, hard links, a second tag of Ollama, and folders given twice."""
    blob = trees.ollama_model(home / ".ollama/models", gguf_file)
    trees.ollama_model(home / ".ollama/models", gguf_file, "registry.ollama.ai/library/tiny/latest")
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "link.gguf").symlink_to(blob)
    os.link(blob, folder / "hard.gguf")
    (folder / "again").symlink_to(folder)
    (folder / "loop").symlink_to(folder / "loop")
    model = only(found_in(folder, folder, tmp_path))
    assert model.name == "ollama:tiny:8x7b"


def test_a_split_model_is_listed_once(home: pathlib.Path, tmp_path: pathlib.Path, gguf_file: pathlib.Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    split(folder, "m", 3)
    model = only(found_in(folder))
    assert model.path == str(folder / "m-00001-of-00003.gguf")
    assert model.bytes == sum(each.stat().st_size for each in folder.iterdir())
    assert (model.layers, model.experts, model.quantization) == (2, 4, "F32 100 %")
    assert_usable(model)
    (folder / "m-00002-of-00003.gguf").unlink()
    assert "m-00002-of-00003.gguf cannot be read" in (only(found_in(folder)).problem or "")


def test_of_two_repositories_with_one_name_the_second_is_listed_by_its_path(
    home: pathlib.Path, gguf_file: pathlib.Path, other_gguf: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_CACHE", str(home / "llama"))
    trees.hub_repository(home / "llama", "t/m-GGUF", {"m-Q8_0.gguf": gguf_file})
    second = trees.hub_repository(home / ".cache/huggingface/hub", "t/m-GGUF", {"m-Q8_0.gguf": other_gguf})
    models = listed(found_in())
    assert set(models) == {"t/m-GGUF:Q8_0", str(second / "m-Q8_0.gguf")}
    for model in models.values():
        assert_usable(model)


# -- broken files, other files, odd files


def broken(found: ModelList) -> dict[str, str]:
    return {pathlib.Path(model.name).name: model.problem or "" for model in listed(found).values()}


def test_broken_files_have_their_reason(
    home: pathlib.Path, tmp_path: pathlib.Path, gguf_file: pathlib.Path, hf_folder: pathlib.Path
) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    content = gguf_file.read_bytes()
    (folder / "cut.gguf").write_bytes(content[:-1000])
    (folder / "header.gguf").write_bytes(content[:900])
    (folder / "empty.gguf").touch()
    (folder / "pointer.gguf").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (folder / "dangling.gguf").symlink_to(folder / "nowhere")
    (folder / "loop.gguf").symlink_to(folder / "loop.gguf")
    (folder / "part-00002-of-00003.gguf").write_bytes(content)
    (folder / "part-00003-of-00003.gguf").write_bytes(content)
    os.mkfifo(folder / "fifo.gguf")
    (folder / "device.gguf").symlink_to("/dev/zero")
    shutil.copytree(hf_folder, folder / "no-tokenizer")
    (folder / "no-tokenizer/tokenizer.json").unlink()
    shutil.copytree(hf_folder, folder / "no-shard")
    index = {"weight_map": {"a": "model-00002-of-00002.safetensors", "b": "model.safetensors"}}
    (folder / "no-shard/model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copytree(hf_folder, folder / "no-json")
    (folder / "no-json/config.json").write_text("{")
    problems = broken(found_in(folder))
    expected = {
        "cut.gguf": "is truncated: tensor",
        "header.gguf": "is truncated inside its header",
        "empty.gguf": "is not a GGUF file",
        "pointer.gguf": "is a Git LFS pointer",
        "dangling.gguf": "No such file",
        "loop.gguf": "Too many levels of symbolic links",
        "part-00002-of-00003.gguf": "part-00001-of-00003.gguf is missing",
        "fifo.gguf": "a FIFO, not a regular file",
        "device.gguf": "a device, not a regular file",
        "no-tokenizer": "has no tokenizer",
        "no-shard": "lacks model-00002-of-00002.safetensors",
        "no-json": "is not valid JSON",
    }
    assert set(problems) == set(expected)
    for name, words in expected.items():
        assert words in problems[name], problems[name]
        assert str(folder) not in problems[name]


def test_a_dense_model_is_no_problem(home: pathlib.Path, tmp_path: pathlib.Path) -> None:
    model = only(found_in(tiny.write_model(tmp_path / "given/llama", tiny.LLAMA)))
    assert (model.layers, model.experts, model.experts_per_token, model.blocks) == (0, 0, 0, 2)
    assert_usable(model)


def test_an_architecture_without_code_is_a_problem(
    home: pathlib.Path, tmp_path: pathlib.Path, hf_folder: pathlib.Path
) -> None:
    folder = tmp_path / "given/new"
    shutil.copytree(hf_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "of_next_year"}))
    model = only(found_in(folder))
    assert (model.problem, model.engine, model.fits) == ("mlx-lm has no model type 'of_next_year'", None, None)
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mistral"}))  # a key of mlx-lm's remapping
    assert only(found_in(folder)).problem is None


def test_files_that_are_no_model_are_left_out(home: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "given"
    (folder / "lora").mkdir(parents=True)
    (folder / "lora/adapter_config.json").write_text("{}")
    (folder / "lora/adapter_model.safetensors").write_bytes(b"")
    (folder / "web").mkdir()
    (folder / "web/config.json").write_text("{}")
    llama_files.write_gguf(folder / "vocab.gguf", tensors={})
    llama_files.write_gguf(folder / "mmproj.gguf", change=lambda writer: writer.add_type("mmproj"))
    found = found_in(folder)
    assert listed(found) == {}
    assert {pathlib.Path(each.path).name: each.kind for each in found.others} == {
        "lora": "an adapter (LoRA), not a model",
        "vocab.gguf": "a vocabulary without weights",
        "mmproj.gguf": "the image or sound part of a model",
    }


def test_a_repository_without_weights_says_so(home: pathlib.Path, hf_folder: pathlib.Path) -> None:
    files = {name: path for name, path in trees.files_of(hf_folder).items() if name != "model.safetensors"}
    trees.hub_repository(home / ".cache/huggingface/hub", "tiny/half", files)
    model = only(found_in())
    assert model.name == "tiny/half"
    assert model.problem == "tiny/half lacks model.safetensors, listed in model.safetensors.index.json"


def test_a_folder_that_cannot_be_read_is_one_line(
    home: pathlib.Path, tmp_path: pathlib.Path, gguf_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "given"
    (folder / "locked").mkdir(parents=True)
    shutil.copy(gguf_file, folder)
    scan = os.scandir

    def scandir(path: os.PathLike[str]) -> object:
        if pathlib.Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(candidates.os, "scandir", scandir)
    found = found_in(folder)
    assert len(listed(found)) == 1
    assert found.notes == [f"{folder}/locked: Permission denied"]


def test_huge_trees_are_bounded_and_say_so(
    tmp_path: pathlib.Path, gguf_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "MOST_ENTRIES", 50)
    for number in range(100):
        (tmp_path / "many" / str(number)).mkdir(parents=True)
    assert search_tree(tmp_path / "many", "given").notes == [
        f"{tmp_path}/many: only the first 50 files and folders were searched"
    ]
    deep = tmp_path.joinpath("deep", *"abcdefghij")
    deep.mkdir(parents=True)
    shutil.copy(gguf_file, deep)
    found = search_tree(tmp_path / "deep", "given")
    assert found.candidates == []
    assert found.notes == [f"{tmp_path.joinpath('deep', *'abcdefgh')}: folders below level 8 were not searched"]


def test_hidden_folders_are_left_out(tmp_path: pathlib.Path, gguf_file: pathlib.Path) -> None:
    (tmp_path / "given/.git").mkdir(parents=True)
    shutil.copy(gguf_file, tmp_path / "given/.git")
    assert search_tree(tmp_path / "given", "given").candidates == []


# -- whether it fits


def test_an_estimate_is_compared_with_the_available_memory(
    home: pathlib.Path, tmp_path: pathlib.Path, gguf_file: pathlib.Path
) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    shutil.copy(gguf_file, folder)
    needed = only(found_in(folder)).needed_bytes
    assert needed is not None
    assert needed > gguf_file.stat().st_size
    assert only(found_in(folder, available=needed)).fits is True
    assert only(found_in(folder, available=needed - 1)).fits is False


def test_a_lone_surrogate_in_a_name_or_a_config_is_listed(
    home: pathlib.Path, tmp_path: pathlib.Path, hf_folder: pathlib.Path
) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / os.fsdecode(b"\xff.gguf")).write_bytes(b"GGUF")
    model = folder / "model"
    shutil.copytree(hf_folder, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "mix\ud800tral"}))
    found = broken(find_models(search_places((), (folder,)), LibraryCache(tmp_path / "cache.json"), PLENTY))
    assert set(found) == {os.fsdecode(b"\xff.gguf"), "model"}
    assert "is truncated" in found[os.fsdecode(b"\xff.gguf")]
