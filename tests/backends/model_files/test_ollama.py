"""`ollama:NAME` is the GGUF file of a manifest in Ollama's store."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from moe_watch.backends.model_files import ollama
from moe_watch.backends.model_files.catalog import ModelLocation, load_engine, locate
from moe_watch.backends.model_files.ollama import OllamaName
from moe_watch.backends.model_files.preflight import preflight
from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.errors import UserError
from tests.backends import llama_files
from tests.backends.discovery import trees


@pytest.fixture
def store(home: pathlib.Path) -> pathlib.Path:
    return home / ".ollama/models"


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    return llama_files.write_gguf(tmp_path / "tiny.gguf")


def refusal(name: str) -> str:
    with pytest.raises(UserError) as caught:
        preflight(locate(name))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- names


@pytest.mark.parametrize(
    ("text", "parts", "short"),
    [
        ("mixtral", ("registry.ollama.ai", "library", "mixtral", "latest"), "mixtral:latest"),
        ("mixtral:8x7b", ("registry.ollama.ai", "library", "mixtral", "8x7b"), "mixtral:8x7b"),
        ("user/m:t", ("registry.ollama.ai", "user", "m", "t"), "user/m:t"),
        ("hf.co/owner/m-GGUF:Q4_K_M", ("hf.co", "owner", "m-GGUF", "Q4_K_M"), "hf.co/owner/m-GGUF:Q4_K_M"),
        ("host:5000/library/m", ("host:5000", "library", "m", "latest"), "host:5000/library/m:latest"),
    ],
)
def test_a_name_has_defaults(text: str, parts: tuple[str, ...], short: str) -> None:
    name = OllamaName.parse(text)
    assert name is not None
    assert (name.parts, name.short) == (parts, short)
    assert OllamaName.parse(name.short) == name


@pytest.mark.parametrize("text", ["", ":", "a:", "../m", "a/../b", "a/b/c/d", "a b", "m:..", "/etc/passwd", "m\n"])
def test_other_texts_are_no_names(text: str) -> None:
    assert OllamaName.parse(text) is None
    assert "is not a name of Ollama" in refusal(f"ollama:{text}")


# -- the store


@pytest.mark.parametrize("name", ["ollama:tiny:8x7b", "ollama:library/tiny:8x7b"])
def test_a_name_is_a_model(store: pathlib.Path, model: pathlib.Path, name: str) -> None:
    blob = trees.ollama_model(store, model)
    assert locate(name) == ModelLocation(name, blob, "gguf", "ollama")
    preflight(locate(name))


def test_the_default_tag_is_latest(store: pathlib.Path, model: pathlib.Path) -> None:
    blob = trees.ollama_model(store, model, "registry.ollama.ai/user/tiny/latest")
    assert locate("ollama:user/tiny").path == blob


def test_a_variable_moves_the_store(
    home: pathlib.Path,
    model: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blob = trees.ollama_model(home / "moved", model)
    monkeypatch.setenv("OLLAMA_MODELS", str(home / "moved"))
    assert locate("ollama:tiny:8x7b").path == blob


def test_the_store_of_the_service_is_searched_last(
    store: pathlib.Path, model: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    service = trees.ollama_model(tmp_path / "service", model)
    assert locate("ollama:tiny:8x7b").path == service
    own = trees.ollama_model(store, model)
    assert locate("ollama:tiny:8x7b").path == own


def test_a_missing_model_names_those_that_are_there(store: pathlib.Path, model: pathlib.Path) -> None:
    assert "run `ollama pull tiny:latest`; there are no models in" in refusal("ollama:tiny")
    trees.ollama_model(store, model)
    trees.ollama_model(store, model, "registry.ollama.ai/user/other/latest")
    assert refusal("ollama:tiny").endswith("Ollama has no model tiny:latest on this machine: it has tiny:8x7b")
    assert refusal("ollama:none").endswith("it has tiny:8x7b, user/other:latest")


def test_a_missing_blob_is_named(store: pathlib.Path, model: pathlib.Path) -> None:
    trees.ollama_model(store, model).unlink()
    assert "is missing: run `ollama pull tiny:8x7b`" in refusal("ollama:tiny:8x7b")


def test_a_damaged_blob_is_pulled_again(store: pathlib.Path, model: pathlib.Path) -> None:
    blob = trees.ollama_model(store, model)
    blob.write_bytes(blob.read_bytes()[:-100])
    assert "truncated" in (message := refusal("ollama:tiny:8x7b"))
    assert message.endswith("run `ollama pull tiny:8x7b`")


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        (b"{", "is not valid JSON"),
        (b"[]", "names no GGUF file"),
        (b'{"layers": 3}', "names no GGUF file"),
        (b'{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../x"}]}', "no GGUF"),
        (
            b'{"layers": [{"mediaType": "application/vnd.ollama.image.tensor", "digest": "sha256:1"}]}',
            "is stored as single tensors for Ollama's MLX runner",
        ),
    ],
)
def test_manifests_without_a_file(store: pathlib.Path, manifest: bytes, says: str) -> None:
    path = store / "manifests/registry.ollama.ai/library/m/latest"
    path.parent.mkdir(parents=True)
    path.write_bytes(manifest)
    assert says in refusal("ollama:m")


def test_the_newer_layout(store: pathlib.Path, model: pathlib.Path) -> None:
    """A link below `manifests-v2` to a blob with a list of manifests, the GGUF one by its digest."""
    digest = trees.blob_of(store, model.read_bytes())
    child = trees.blob_of(store, json.dumps(trees.ollama_manifest(digest)).encode())
    tensors: dict[str, Any] = {
        "runner": "mlx",
        "layers": [{"mediaType": ollama.TENSOR_LAYER, "digest": f"sha256:{'0' * 64}"}],
    }
    manifests = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.ollama.manifest.list.v2+json",
        "manifests": [tensors, {"digest": child, "runner": "llamacpp", "format": "gguf"}],
    }
    blob = trees.blob_of(store, json.dumps(manifests).encode())
    link = store / "manifests-v2/registry.ollama.ai/library/m/latest"
    link.parent.mkdir(parents=True)
    link.symlink_to(store / "blobs" / blob.replace(":", "-"))
    assert locate("ollama:m").path == store / "blobs" / digest.replace(":", "-")
    (found,) = ollama.stored_models(store)
    assert found.name.short == "m:latest"


def test_odd_entries_of_a_store_are_skipped(store: pathlib.Path, model: pathlib.Path) -> None:
    trees.ollama_model(store, model)
    manifests = store / "manifests"
    (manifests / "file").touch()
    (manifests / "registry.ollama.ai/library/tiny/.hidden").touch()
    (manifests / "registry.ollama.ai/library/tiny/a b").touch()
    assert [each.name.short for each in ollama.stored_models(store)] == ["tiny:8x7b"]


def test_a_model_without_a_template_says_so(store: pathlib.Path, model: pathlib.Path) -> None:
    trees.ollama_model(store, model)
    location = locate("ollama:tiny:8x7b")
    engine = load_engine("llama.cpp", location, options=EngineOptions(threads=1), progress=lambda _: None)
    engine.close()
    assert any(each.startswith("ollama:tiny:8x7b has no chat template") for each in engine.warnings)
