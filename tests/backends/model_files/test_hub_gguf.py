"""GGUF files by their names on the Hub: from local caches, and from a Hub that runs here, with its real client."""

from __future__ import annotations

import json
import pathlib
import sys
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from moe_watch.backends.model_files.catalog import ModelLocation, choose_backend, locate
from moe_watch.backends.model_files.hub_gguf import GgufName, cached, parts
from moe_watch.backends.model_files.preflight import preflight
from moe_watch.backends.protocol import Load, Ready
from moe_watch.backends.worker.process import WorkerProcess
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Progress
from tests.backends import llama_files
from tests.backends.llama.test_files import written
from tests.backends.model_files.test_hub import COMMIT, Hub, HubHandler
from tests.backends.worker.test_process import Failed, Listener

REPOSITORY = "tiny/mixtral"
"""The one that `Hub` serves."""

FILES = [
    "README.md",
    "BF16/m-BF16-00001-of-00002.gguf",
    "BF16/m-BF16-00002-of-00002.gguf",
    "m-IQ4_K_M.gguf",
    "m-Q2_K.gguf",
    "m-Q4_K_M.gguf",
    "m-Q8_0.gguf",
    "m.F16.gguf",
    "mmproj-m-Q4_K_M.gguf",
    "m-Q4_K_M.imatrix.gguf",
]


def named(what: str | None) -> GgufName:
    return GgufName(REPOSITORY, what)


# -- which file is meant


@pytest.mark.parametrize(
    ("what", "files", "chosen"),
    [
        (None, FILES, "m-Q4_K_M.gguf"),
        ("q4_k_m", FILES, "m-Q4_K_M.gguf"),
        ("F16", FILES, "m.F16.gguf"),
        ("BF16", FILES, "BF16/m-BF16-00001-of-00002.gguf"),
        ("Q4_K", FILES, None),
        ("Q6_K", FILES, None),
        ("m-Q2_K.gguf", FILES, "m-Q2_K.gguf"),
        ("BF16/m-BF16-00001-of-00002.gguf", FILES, "BF16/m-BF16-00001-of-00002.gguf"),
        ("m-Q3_K.gguf", FILES, None),
        (None, ["m-Q2_K.gguf", "m-Q8_0.gguf"], "m-Q8_0.gguf"),
        (None, ["b.gguf", "a.gguf", "mmproj-a.gguf"], "a.gguf"),
        (None, ["mmproj-a.gguf", "README.md"], None),
        (None, ["m-Q4_K_M-00002-of-00002.gguf"], None),
    ],
)
def test_the_file_that_is_meant(what: str | None, files: Sequence[str], chosen: str | None) -> None:
    assert named(what).choose(files) == chosen


def test_parts_are_named_from_the_first() -> None:
    assert parts("a/m-00001-of-00003.gguf") == [f"a/m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert parts("m.gguf") == ["m.gguf"]


@pytest.mark.parametrize(
    ("name", "backend", "form"),
    [
        ("owner/name:Q4_K_M", "auto", "gguf"),
        ("owner/name:m.gguf", "auto", "gguf"),
        ("owner/name-GGUF", "auto", "gguf"),
        ("owner/name", "llama.cpp", "gguf"),
        ("owner/name", "auto", "huggingface"),
        ("owner/name", "mlx", "huggingface"),
    ],
)
def test_names_that_stand_for_gguf_files(
    name: str, backend: str, form: str, tmp_path: pathlib.Path, caches: pathlib.Path
) -> None:
    assert locate(name, backend) == ModelLocation(name, None, form, "hub")


def test_mlx_does_not_read_them(caches: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"the mlx backend does not read owner/name:Q4_0 \(gguf files\)"):
        choose_backend("mlx", locate("owner/name:Q4_0"))


@pytest.mark.parametrize("name", ["owner/name:", "owner/name:a b", ":Q4_K_M", "a/b/c:Q4_K_M"])
def test_names_that_stand_for_nothing(name: str) -> None:
    with pytest.raises(UserError, match="there is no model called"):
        locate(name)


# -- local caches


@pytest.fixture
def caches(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """An empty home: no cache is anywhere else."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("LLAMA_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return home


def keep(folder: pathlib.Path, *files: str) -> pathlib.Path:
    """A cached repository as the Hub's client lays it out: links to blobs; returns the snapshot's folder."""
    repository = folder / "models--tiny--mixtral"
    snapshot = repository / "snapshots" / COMMIT
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for number, file in enumerate(files):
        (repository / "blobs" / str(number)).write_bytes(b"GGUF")
        path = snapshot / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(repository / "blobs" / str(number))
    return snapshot


@pytest.mark.parametrize(
    ("variable", "value", "folder"),
    [
        (None, "", "home/.cache/huggingface/hub"),
        ("HF_HOME", "hf", "hf/hub"),
        ("HF_HUB_CACHE", "hub", "hub"),
        ("HUGGINGFACE_HUB_CACHE", "hub", "hub"),
        ("LLAMA_CACHE", "llama", "llama"),
        ("XDG_CACHE_HOME", "xdg", "xdg/huggingface/hub"),
    ],
)
def test_the_hubs_cache_is_found_wherever_it_is(
    variable: str | None, value: str, folder: str, tmp_path: pathlib.Path,
    caches: pathlib.Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    snapshot = keep(tmp_path / folder, "m-Q2_K.gguf", "m-Q4_K_M.gguf")
    if variable is not None:
        assert cached(named(None)) is None
        monkeypatch.setenv(variable, str(tmp_path / value))
    assert cached(named(None)) == snapshot / "m-Q4_K_M.gguf"
    assert cached(named("Q2_K")) == snapshot / "m-Q2_K.gguf"
    assert cached(named("Q6_K")) is None
    assert locate(f"{REPOSITORY}:Q2_K").path == snapshot / "m-Q2_K.gguf"


@pytest.mark.skipif(sys.platform == "darwin", reason="the folder has another place on macOS")
def test_llama_cpps_older_cache(caches: pathlib.Path) -> None:
    folder = caches / ".cache" / "llama.cpp"
    folder.mkdir(parents=True)
    for name in ("tiny_mixtral_m-Q8_0.gguf", "tiny_other_m-Q4_K_M.gguf"):
        (folder / name).write_bytes(b"GGUF")
    assert cached(named(None)) == folder / "tiny_mixtral_m-Q8_0.gguf"
    assert cached(named("Q4_K_M")) is None
    assert cached(named("m-Q8_0.gguf")) == folder / "tiny_mixtral_m-Q8_0.gguf"


def test_what_is_not_wholly_there_is_not_there(caches: pathlib.Path) -> None:
    hub = caches / ".cache" / "huggingface" / "hub"
    snapshot = keep(hub, "m-Q8_0-00001-of-00002.gguf", "m-Q4_0.gguf")
    assert cached(named("Q8_0")) is None
    (hub / "models--tiny--mixtral" / "blobs" / "1").unlink()
    assert cached(named("Q4_0")) is None, "a link to a blob that is gone"
    (snapshot / "m-Q8_0-00002-of-00002.gguf").write_bytes(b"GGUF")
    assert cached(named("Q8_0")) == snapshot / "m-Q8_0-00001-of-00002.gguf"


def test_a_damaged_cache_says_how_to_repair_it(caches: pathlib.Path) -> None:
    keep(caches / ".cache" / "huggingface" / "hub", "m-Q4_K_M.gguf")
    with pytest.raises(UserError) as caught:
        preflight(locate(f"{REPOSITORY}:Q4_K_M"))
    assert str(caught.value).endswith(
        ' is truncated: 4 bytes are too few for a header: run `hf download tiny/mixtral --include "*m-Q4_K_M.gguf" '
        "--force-download`"
    )


# -- downloads


class GgufHubHandler(HubHandler):
    def do_GET(self) -> None:  # noqa: N802 - as its base calls it
        if self.path.partition("?")[0] == f"/api/models/{REPOSITORY}":
            siblings = [{"rfilename": name} for name in self.server.files]
            self.reply(json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode())
        else:
            super().do_GET()


@pytest.fixture
def hub(tmp_path: pathlib.Path, caches: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = tmp_path / "served"
    folder.mkdir()
    llama_files.write_gguf(folder / "m-Q2_K.gguf", seed=1)
    llama_files.write_gguf(folder / "m-Q4_K_M.gguf")
    for number in (1, 2):
        tensors = {f"x{number}": np.zeros((4, 32), np.float32)}
        path = folder / f"s-Q8_0-0000{number}-of-00002.gguf"
        written(
            path,
            "llama",
            tensors,
            llama__expert_count=8,
            llama__expert_used_count=2,
            split__count=2,
            split__no=number - 1,
        )
    server = Hub(folder)
    server.RequestHandlerClass = GgufHubHandler
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.shutdown()
    server.server_close()


def load(model: str, backend: str = "auto") -> Listener:
    listener = Listener()
    worker = WorkerProcess(listener)
    worker.send(Load(model=model, backend=backend))
    listener.wait_for(lambda: listener.of(Ready) or listener.of(Failed))
    worker.close()
    return listener


def test_the_usual_quantisation_is_downloaded_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")
    first = load(REPOSITORY, "llama.cpp")
    [ready] = first.of(Ready)
    assert (ready.model.name, ready.backend.name) == (REPOSITORY, "llama.cpp")
    assert set(hub.served) == {"m-Q4_K_M.gguf"}
    reading = [progress for progress in first.of(Progress) if progress.stage == "reading"]
    size = len(hub.files["m-Q4_K_M.gguf"])
    assert (reading[-1].done, reading[-1].total) == (size, size)

    hub.served.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    second = load(f"{REPOSITORY}:Q4_K_M")
    [again] = second.of(Ready)
    assert again.model.fingerprint == ready.model.fingerprint
    assert "reading" not in {progress.stage for progress in second.of(Progress)}
    assert hub.served == []


def refusal(model: str, backend: str = "auto") -> str:
    [failed] = load(model, backend).of(Failed)
    assert "\n" not in failed.message
    return str(failed.message)


def test_all_parts_are_downloaded(hub: Hub) -> None:
    model = f"{REPOSITORY}:Q8_0"
    assert locate(model).path is None
    assert "cannot load tiny/mixtral:Q8_0" in refusal(model), "the parts are whole, and no model"
    assert set(hub.served) == {"s-Q8_0-00001-of-00002.gguf", "s-Q8_0-00002-of-00002.gguf"}
    location = locate(model)
    assert location.path is not None
    assert location.path.name == "s-Q8_0-00001-of-00002.gguf"
    preflight(location)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (f"{REPOSITORY}:Q6_K", "tiny/mixtral has no Q6_K: choose one of Q2_K, Q4_K_M, Q8_0"),
        (f"{REPOSITORY}:x.gguf", "tiny/mixtral has no x.gguf: choose one of Q2_K, Q4_K_M, Q8_0"),
        ("tiny/nothing:Q4_K_M", "tiny/nothing is neither a local folder nor a model on the Hugging Face Hub"),
    ],
)
def test_what_the_hub_does_not_have(hub: Hub, name: str, said: str) -> None:
    assert refusal(name).startswith(said)


def test_a_repository_that_lacks_a_part(hub: Hub) -> None:
    del hub.files["s-Q8_0-00002-of-00002.gguf"]
    assert refusal(f"{REPOSITORY}:Q8_0").startswith("tiny/mixtral lacks s-Q8_0-00002-of-00002.gguf, a part of s-Q8_0-")


def test_a_repository_without_gguf_files(hub: Hub) -> None:
    hub.files = {"config.json": b"{}"}
    assert refusal(REPOSITORY, "llama.cpp").startswith("tiny/mixtral has no GGUF file: ")


@pytest.mark.parametrize(("name", "value"), [("HF_HUB_OFFLINE", "1"), ("HF_ENDPOINT", "http://127.0.0.1:9")])
def test_a_hub_that_cannot_be_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    [failed] = load(f"{REPOSITORY}:Q4_K_M").of(Failed)
    assert failed.message == (
        "tiny/mixtral is neither a local folder nor complete in the local cache, and the Hub cannot be reached: "
        "go online, or give a local folder"
    )
