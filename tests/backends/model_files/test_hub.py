"""Downloads, from a Hub that runs here, with the Hub's real client."""

from __future__ import annotations

import errno
import hashlib
import json
import pathlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from moe_watch.backends.model_files.hub import download
from moe_watch.backends.protocol import EngineOptions, Load, Ready
from moe_watch.backends.worker.process import WorkerProcess
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Progress
from tests.backends.worker.test_process import Failed, Listener

MODEL = "tiny/mixtral"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """HTTP handler that serves one model folder under `MODEL`, and nothing else."""

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.files["modeling.py"] = b"raise SystemExit('a model brought its own code')"
        self.served: list[str] = []


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        if path == f"/api/models/{MODEL}/revision/main":
            self.reply(json.dumps({"id": MODEL, "sha": COMMIT, "siblings": []}).encode())
        elif path == f"/api/models/{MODEL}/tree/{COMMIT}":
            self.reply(json.dumps([self.entry(name) for name in self.server.files]).encode())
        elif path.startswith(f"/{MODEL}/resolve/{COMMIT}/") and path.rpartition("/")[2] in self.server.files:
            name = path.rpartition("/")[2]
            self.server.served.append(name)
            self.reply(self.server.files[name], with_body=with_body, etag=self.entry(name)["oid"])
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def entry(self, name: str) -> dict[str, object]:
        content = self.server.files[name]
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def reply(self, body: bytes, *, with_body: bool = True, etag: str = "x") -> None:
        self.send_response(200)
        for name, value in (("Content-Length", len(body)), ("ETag", f'"{etag}"'), ("X-Repo-Commit", COMMIT)):
            self.send_header(name, str(value))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(mixtral_folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub(mixtral_folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.shutdown()
    server.server_close()


def load(model: str, **options: bool) -> Listener:
    listener = Listener()
    worker = WorkerProcess(listener)
    worker.send(Load(model=model, options=EngineOptions(**options)))
    listener.wait_for(lambda: listener.of(Ready) or listener.of(Failed))
    worker.close()
    return listener


def test_a_model_is_downloaded_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(MODEL)
    [ready] = first.of(Ready)
    assert ready.model.name == MODEL
    reading = [progress for progress in first.of(Progress) if progress.stage == "reading"]
    assert {progress.note for progress in reading} == {f"downloading {MODEL}"}
    wanted = sum(len(content) for name, content in hub.files.items() if name != "modeling.py")
    assert (reading[-1].done, reading[-1].total) == (wanted, wanted)
    assert "modeling.py" not in hub.served

    hub.served.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    second = load(MODEL)
    assert second.of(Ready) == [ready]
    assert "reading" not in {progress.stage for progress in second.of(Progress)}
    assert hub.served == []


def test_code_that_is_trusted_is_downloaded_too(hub: Hub) -> None:
    """Also where the rest of the model is in the cache already. This model needs none, so nothing runs."""
    [without] = load(MODEL).of(Ready)
    assert "modeling.py" not in hub.served
    [ready] = load(MODEL, trust_remote_code=True).of(Ready)
    assert "modeling.py" in hub.served
    assert ready.backend.settings["trust_remote_code"] is True
    assert ready.model == without.model


def test_a_model_that_nobody_has(hub: Hub) -> None:
    [failed] = load("tiny/nothing").of(Failed)
    assert failed.message.startswith("tiny/nothing is neither a local folder nor a model on the Hugging Face Hub")


def test_offline_and_not_cached(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    [failed] = load(MODEL).of(Failed)
    assert failed.message == (
        f"{MODEL} is neither a local folder nor complete in the local cache, and the Hub cannot be reached: "
        "go online, or give a local folder"
    )


def test_a_hub_that_cannot_be_reached(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    [failed] = load(MODEL).of(Failed)
    assert "the Hub cannot be reached" in failed.message


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "does not fit on the disk: free space, or set HF_HOME"),
        (RuntimeError("Data processing error: CAS\nmore"), "(RuntimeError: Data processing error: CAS): try again"),
    ],
    ids=["full disk", "transfer"],
)
def test_a_download_that_breaks_off(monkeypatch: pytest.MonkeyPatch, error: Exception, says: str) -> None:
    def break_off(*_arguments: object, **_options: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", break_off)
    with pytest.raises(UserError) as caught:
        download(MODEL, lambda progress: None)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
