"""Names of models, and refusals of damaged files, before any engine is imported."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest

from moe_watch.backends.model_files import catalog
from moe_watch.backends.model_files.catalog import choose_backend, locate
from moe_watch.backends.model_files.preflight import preflight
from moe_watch.backends.model_files.safetensors import read_tensors
from moe_watch.routing.errors import UserError

Changed = Callable[..., pathlib.Path]


@pytest.fixture
def folder(mixtral_folder: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return shutil.copytree(mixtral_folder, tmp_path / "model")


def refusal(folder: pathlib.Path) -> str:
    with pytest.raises(UserError) as caught:
        preflight(locate(str(folder)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- names


def test_pocket_is_in_the_package() -> None:
    location = locate("pocket")
    assert (location.name, location.format, location.origin) == ("pocket", "huggingface", "embedded")
    preflight(location)
    assert locate("pocket", "llama.cpp").path == catalog.POCKET_GGUF
    preflight(locate("pocket", "llama.cpp"))


def test_a_folder_and_a_file(folder: pathlib.Path) -> None:
    assert locate(str(folder)) == catalog.ModelLocation("model", folder, "huggingface", "folder")
    file = folder / "m.gguf"
    file.write_bytes(b"GGUF" + bytes(20))
    assert locate(str(file)) == catalog.ModelLocation("m", file, "gguf", "file")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("./nowhere", "./nowhere: no such file or folder"),
        ("~/nowhere-at-all", "no such file or folder"),
        ("nowhere.gguf", "no such file or folder"),
        ("mixtral", "there is no model called 'mixtral': give pocket, a folder"),
        ("a/b/c", "there is no model called"),
        ("", "there is no model called ''"),
    ],
)
def test_names_that_stand_for_nothing(name: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        locate(name)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "https://huggingface.co/tiny/mixtral",
        "https://huggingface.co/tiny/mixtral/tree/main",
        "huggingface.co/tiny/mixtral",
        "hf.co/tiny/mixtral/",
    ],
)
def test_the_address_of_a_page_stands_for_its_model(address: str) -> None:
    assert locate(address) == locate("tiny/mixtral")
    assert locate("hf.co/tiny/mixtral:Q4_K_M").name == "tiny/mixtral:Q4_K_M"


def test_a_gguf_file_without_a_suffix(folder: pathlib.Path) -> None:
    """As Ollama keeps them."""
    file = folder / "sha256-0123"
    file.write_bytes(b"GGUF" + bytes(20))
    assert locate(str(file)) == catalog.ModelLocation("sha256-0123", file, "gguf", "file")


def test_a_name_that_the_system_does_not_take() -> None:
    with pytest.raises(UserError, match=r"cannot be read \(File name too long\): check the path"):
        locate("a" * 300)


def test_a_file_that_is_no_model(folder: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"give a \.gguf file, or the folder with config.json"):
        locate(str(folder / "config.json"))


# -- backends


def test_auto_takes_the_engine_that_reads_the_files(folder: pathlib.Path) -> None:
    assert choose_backend("auto", locate(str(folder))) == "mlx"
    assert choose_backend("mlx", locate("pocket")) == "mlx"


def test_backends_that_cannot_be_used(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location = locate(str(folder))
    with pytest.raises(UserError, match="there is no backend called 'vllm': choose auto or mlx"):
        choose_backend("vllm", location)
    absent = catalog.EngineEntry("moe_watch.backends.mlx.engine", "huggingface", ("no_such_package",), "mlx")
    monkeypatch.setitem(catalog.ENGINES, "mlx", absent)
    with pytest.raises(UserError, match=r'the mlx backend is not installed: run `.+ "moe-watch\[mlx\]"`'):
        choose_backend("auto", location)


def test_a_backend_that_this_version_lacks(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(catalog.ENGINES, "llama.cpp", raising=False)
    with pytest.raises(UserError, match=r"this version of moe-watch has no llama\.cpp engine yet: it has: mlx"):
        choose_backend("llama.cpp", locate(str(folder)))
    with pytest.raises(UserError, match=r"no llama\.cpp engine yet"):
        choose_backend("auto", locate("pocket", "llama.cpp"))


def test_mlx_reads_no_gguf() -> None:
    with pytest.raises(UserError, match="the mlx backend does not read pocket"):
        choose_backend("mlx", locate("pocket", "llama.cpp"))


# -- files


def test_a_whole_model_passes(folder: pathlib.Path) -> None:
    preflight(locate(str(folder)))


def test_a_folder_without_a_config(folder: pathlib.Path) -> None:
    (folder / "config.json").unlink()
    assert "has no config.json: give a folder in Hugging Face layout" in refusal(folder)
    (folder / "m.gguf").write_bytes(b"GGUF")
    assert f"to use its GGUF file, give {folder / 'm.gguf'}" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "says"), [("{", "is not valid JSON: "), ("[]", "is not a JSON object: "), ("\xff", "not valid JSON: ")]
)
def test_a_config_that_is_none(folder: pathlib.Path, content: str, says: str) -> None:
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    assert f"{says}download or convert the model again" in refusal(folder)


@pytest.mark.parametrize(
    "entries",
    [{"n_routed_experts": 8}, {"text_config": {"num_experts": 8}}, {"ffn_config": {"moe_num_experts": 8}}],
    ids=["deepseek", "nested", "dbrx"],
)
def test_experts_under_other_names(mixtral_folder: pathlib.Path, changed: Changed, entries: dict[str, object]) -> None:
    preflight(locate(str(changed(mixtral_folder, num_local_experts=None, **entries))))


def test_a_folder_without_weights(folder: pathlib.Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    assert "has no weights" in refusal(folder)


def test_a_folder_without_a_tokenizer(folder: pathlib.Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "has no tokenizer (tokenizer.json, *.model, " in refusal(folder)
    (folder / "tekken.json").write_text("{}")
    preflight(locate(str(folder)))


def test_a_missing_shard(folder: pathlib.Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors", "c": "model-00003.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks model-00002.safetensors and 1 more" in refusal(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    assert "is not a valid index" in refusal(folder)


def header_of(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: b"", "is truncated: 0 bytes"),
        (lambda data: data[:5], "is truncated: 5 bytes"),
        (lambda data: data[:100], "is truncated inside its header"),
        (lambda data: data[: header_of(data)], "is truncated: its tensors need"),
        (lambda data: data[:-1], "is truncated: its tensors need"),
        (lambda data: data + b"\0", "is corrupt: 1 bytes belong to no tensor"),
        (lambda data: b"\xff" * 8 + data[8:], "is not a safetensors file: it claims a header of"),
        (lambda data: data[:8] + b"!" * 50 + data[58:], "is corrupt: its header is not JSON"),
        (lambda data: data.replace(b'"F32"', b'"F16"', 1), "does not fit its shape"),
        (lambda data: data.replace(b'"data_offsets"', b'"data_offsetz"', 1), "is corrupt: bad entry for tensor"),
        (lambda data: data.replace(b"[64,64]", b"[1e999]", 1), "is corrupt"),
        (lambda data: (2).to_bytes(8, "little") + b"[]", "its header is not a table of tensors"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
    ],
    ids=[
        "empty", "five bytes", "in the header", "no data", "one byte short", "one byte over", "absurd length",
        "no JSON", "wrong type", "no offsets", "infinite", "a list", "LFS pointer",
    ],
)  # fmt: skip
def test_damaged_weights(folder: pathlib.Path, damage: Callable[[bytes], bytes], says: str) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    message = refusal(folder)
    assert says in message
    assert str(path) in message


def with_tensors(path: pathlib.Path, places: dict[str, tuple[int, int]], size: int) -> None:
    """A safetensors file of bytes whose table puts tensors at these places."""
    table = {
        name: {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}
        for name, (start, stop) in places.items()
    }
    header = json.dumps(table).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))


@pytest.mark.parametrize(
    ("places", "says"),
    [
        ({"a": (0, 10), "b": (0, 10)}, "tensors 'a' and 'b' overlap"),
        ({"a": (0, 6), "b": (4, 10)}, "tensors 'a' and 'b' overlap"),
        ({"b": (2, 4), "a": (0, 10)}, "tensors 'a' and 'b' overlap"),
        ({"a": (0, 4), "b": (6, 10)}, "2 bytes before 'b' belong to no tensor"),
        ({"a": (1, 10)}, "1 bytes before 'a' belong to no tensor"),
    ],
    ids=["same place", "partly", "inside", "gap", "gap in front"],
)
def test_tensors_do_not_share_their_bytes(folder: pathlib.Path, places: dict[str, tuple[int, int]], says: str) -> None:
    with_tensors(folder / "model.safetensors", places, 10)
    assert says in refusal(folder)


def test_empty_tensors_and_any_order_are_fine(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.safetensors"
    with_tensors(path, {"b": (4, 10), "nothing": (4, 4), "a": (0, 4), "none": (10, 10)}, 10)
    assert {tensor.name: tensor.bytes for tensor in read_tensors(path)} == {"a": 4, "b": 6, "nothing": 0, "none": 0}


def test_every_shard_is_checked(folder: pathlib.Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model-2.safetensors").write_bytes(whole[:-10])
    assert "model-2.safetensors is truncated" in refusal(folder)


def test_damage_to_the_embedded_model_says_reinstall(folder: pathlib.Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"the embedded model is damaged .*: reinstall moe-watch"):
        preflight(catalog.ModelLocation("pocket", folder, "huggingface", "embedded"))


def test_a_gguf_file_that_is_none(tmp_path: pathlib.Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"nope")
    assert "is not a GGUF file" in refusal(tmp_path / "m.gguf")


# -- weight


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, moe_watch.backends.worker.process\n"
        "from moe_watch.backends.model_files import catalog, preflight\n"
        "preflight.preflight(catalog.locate('pocket'))\n"
        "catalog.choose_backend('auto', catalog.locate('pocket'))\n"
        "print([name for name in ('numpy', 'mlx', 'mlx_lm', 'transformers', 'huggingface_hub') if name in sys.modules])"
    )
    root = pathlib.Path(__file__).parents[3]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
