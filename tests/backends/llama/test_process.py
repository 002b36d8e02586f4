"""llama.cpp as users run it: in the worker process, and from the command line."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator

import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from moe_watch.backends.protocol import EngineOptions, Failed, Load, Ready
from moe_watch.backends.worker.process import WorkerProcess
from moe_watch.commands.app import run
from moe_watch.routing.events import Header, Progress, Token
from moe_watch.sessions.reading.reader import read_session
from tests.backends import llama_files
from tests.backends.worker.test_process import Listener, begin
from tests.processes import is_gone, wait_until


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def worker(listener: Listener) -> Iterator[WorkerProcess]:
    process = WorkerProcess(listener)
    yield process
    process.close()


def test_the_worker_runs_a_gguf_file(worker: WorkerProcess, listener: Listener, tmp_path: pathlib.Path) -> None:
    path = llama_files.write_gguf(tmp_path / "tiny.gguf")
    worker.send(Load(model=str(path), options=EngineOptions(threads=1)))
    worker.send(begin(tokens=50, chunk_size=10))
    listener.wait_for(lambda: listener.state("finished"))
    [ready] = listener.of(Ready)
    assert (ready.backend.name, ready.backend.threads, ready.model.layers) == ("llama.cpp", 1, [0, 1])
    assert ready.capture == ["experts", "weights", "entropy", "margin", "logprob"]
    assert listener.of(Failed) == []
    assert {progress.stage for progress in listener.of(Progress)} == {"starting", "loading", "prefill"}
    tokens = listener.of(Token)
    prompt = [token for token in tokens if token.phase == "prefill"]
    assert len(tokens) == len(prompt) + 50
    for token in prompt[:-1]:
        assert None not in token.experts[:2]
        assert token.experts[2:] == [None, None], "the last layer is not computed for tokens that predict nothing"
        assert (token.entropy[1], token.margin[1]) == (None, None)
    for token in [prompt[-1], *tokens[len(prompt) :]]:
        assert None not in [*token.experts, *token.weights, *token.entropy, *token.margin]


def test_a_model_that_llama_cpp_does_not_know(
    worker: WorkerProcess, listener: Listener, tmp_path: pathlib.Path
) -> None:
    path = llama_files.write_gguf(tmp_path / "m.gguf", architecture="no-such-family")
    worker.send(Load(model=str(path)))
    listener.wait_for(lambda: listener.of(Failed))
    wait_until(lambda: is_gone(worker.pid), "the worker's end")
    [failed] = listener.of(Failed)
    assert "cannot load m (unknown model architecture: 'no-such-family'): try a newer" in failed.message


def test_recording_and_replaying_pocket(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.moe.jsonl"
    options = ["--backend", "llama.cpp", "--tokens", "60", "--seed", "3", "--threads", "1", "--output", str(file)]
    assert run(["record", "pocket", "--json", *options]) == 0
    recorded = capfd.readouterr()
    assert recorded.err.splitlines()[-1] == f"recorded to {file}"
    assert "llama_model_loader" not in recorded.err, "llama.cpp's own messages belong into the worker's log"
    assert run(["replay", str(file), "--headless", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == json.loads(recorded.out)
    events = list(read_session(file))
    [header] = [event for event in events if isinstance(event, Header)]
    assert header.backend.name == "llama.cpp"
    assert header.model.gate == "top_k_softmax"
    assert sum(isinstance(event, Token) and event.phase == "decode" for event in events) == 60


def test_a_truncated_file_is_one_line(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = llama_files.write_gguf(tmp_path / "m.gguf")
    os.truncate(path, path.stat().st_size - 100)
    assert run(["record", str(path)]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert line.startswith(f"moe-watch: {path} is truncated: tensor 'output.weight' ends at")
