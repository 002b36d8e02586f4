"""Real failures of a real worker, while it loads a model and while it runs one: each is one line that says why."""

from __future__ import annotations

import json
import os
import pathlib
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

import gguf

from moe_watch.backends.protocol import EngineOptions, Load, Message, Ready
from moe_watch.backends.worker.process import WorkerProcess
from moe_watch.routing.events import Progress, State, StreamItem, Token
from moe_watch.sessions.live.environment import Surroundings
from moe_watch.sessions.live.headless import run_headless
from moe_watch.sessions.live.source import LiveSource
from moe_watch.sessions.reading.reader import read_session
from tests.backends import llama_files, tiny
from tests.backends.worker.test_process import GREEDY, Failed, Listener
from tests.run_specs import run_settings, run_start
from tests.truth.mlx_comparison import MODELS

ROWS = 1 << 19
"""Rows of every expert's matrices in a model that is too large: half a gigabyte in each tensor."""

MEMORY = 400 * 2**20
"""Bytes that a worker may allocate; a tiny model needs a quarter of it."""

limited = pytest.mark.skipif(sys.platform != "linux", reason="memory can be limited like this on Linux only")


def shape_of(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a tensor of the model that is too large."""
    if "_exps" not in name and "switch_mlp" not in name:
        return shape
    return (4, 64, ROWS) if "down" in name else (4, ROWS, 64)


def write_large_gguf(path: pathlib.Path) -> pathlib.Path:
    """A whole file of 3 GB, of which the disk stores only the header: the rest is a hole."""
    writer = gguf.GGUFWriter(path, "llama")
    llama_files.add_architecture(writer, tiny.MIXTRAL | {"intermediate_size": ROWS})
    llama_files.add_tokenizer(writer)
    size = 0
    for name, tensor in llama_files.gguf_tensors(tiny.MIXTRAL, seed=0).items():
        shape = shape_of(name, tensor.shape)
        writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * int(np.prod(shape)))
        size += -(-4 * int(np.prod(shape)) // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    os.truncate(path, -(-path.stat().st_size // 32) * 32 + size)
    return path


def write_large_folder(folder: pathlib.Path) -> pathlib.Path:
    """The same for MLX."""
    tiny.write_model(folder, tiny.MIXTRAL)
    weights, config = folder / "model.safetensors", folder / "config.json"
    data = weights.read_bytes()
    table = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    end = 0
    for name, entry in table.items():
        if name != "__metadata__":
            entry["shape"] = shape_of(name, tuple(entry["shape"]))
            start, end = end, end + 4 * int(np.prod(entry["shape"]))
            entry["data_offsets"] = [start, end]
    header = json.dumps(table).encode()
    weights.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(weights, 8 + len(header) + end)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"intermediate_size": ROWS}))
    return folder


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def worker(listener: Listener) -> Iterator[WorkerProcess]:
    process = WorkerProcess(listener)
    yield process
    process.close()


@pytest.fixture
def refusal(worker: WorkerProcess, listener: Listener) -> Callable[..., str]:
    """Return the message for a model that cannot be loaded."""

    def load(path: pathlib.Path, *, memory: int | None = None, **options: Any) -> str:
        if memory is not None:
            resource.prlimit(worker.pid, resource.RLIMIT_DATA, (memory, memory))
        worker.send(Load(model=str(path), options=EngineOptions(**options)))
        listener.wait_for(lambda: listener.of(Ready) or listener.of(Failed))
        assert listener.of(Ready) == []
        [failed] = listener.of(Failed)
        assert failed.fatal
        assert "\n" not in failed.message
        return str(failed.message)

    return load


# -- memory


@limited
def test_no_memory_for_a_gguf_files_weights(refusal: Callable[..., str], tmp_path: pathlib.Path) -> None:
    message = refusal(write_large_gguf(tmp_path / "large.gguf"), memory=MEMORY, threads=1, mmap=False)
    assert "cannot load large (insufficient memory (attempted to allocate" in message
    assert message.endswith("): free memory, or give a smaller model (`moe-watch memory MODEL` lists what fits)")


@limited
def test_no_memory_for_a_context(refusal: Callable[..., str], tmp_path: pathlib.Path) -> None:
    length = 1 << 22
    path = llama_files.write_gguf(tmp_path / "long.gguf", tiny.MIXTRAL | {"max_position_embeddings": length})
    message = refusal(path, memory=MEMORY, threads=1, context=length)
    assert f"cannot create a context of {length:,} tokens (insufficient memory (attempted to allocate" in message
    assert message.endswith("): free memory, or give a smaller --context (`moe-watch memory MODEL` lists what fits)")


@limited
def test_no_memory_for_mlx(refusal: Callable[..., str], tmp_path: pathlib.Path) -> None:
    message = refusal(write_large_folder(tmp_path / "large"), memory=MEMORY)
    assert "cannot load the weights of large into memory (" in message
    assert message.endswith("): free memory, or give a smaller model (`moe-watch memory MODEL` lists what fits)")


# -- files


def test_an_assertion_of_ggml(refusal: Callable[..., str], tmp_path: pathlib.Path) -> None:
    """A recurrent state without a size: nothing that is checked before, and llama.cpp aborts."""
    key = b"qwen3next.ssm.inner_size"
    data = (MODELS / "qwen3_next" / "model.gguf").read_bytes()
    value = data.index(key) + len(key) + 4
    path = tmp_path / "m.gguf"
    path.write_bytes(data[:value] + bytes(4) + data[value + 4 :])
    message = refusal(path, threads=1)
    assert message.startswith("the model's process crashed (SIGABRT: GGML_ASSERT(")
    assert message.endswith(" failed): try another version of the engine, or another model")


def cut(data: bytes) -> bytes:
    return data[:-100]


def without_magic(data: bytes) -> bytes:
    return b"PK\3\4" + data[4:]


@pytest.mark.parametrize(
    ("damage", "said"), [(cut, "is truncated: tensor 'output.weight' ends at"), (without_magic, "is not a GGUF file")]
)
def test_damaged_files(
    refusal: Callable[..., str], tmp_path: pathlib.Path, damage: Callable[[bytes], bytes], said: str
) -> None:
    path = llama_files.write_gguf(tmp_path / "m.gguf")
    path.write_bytes(damage(path.read_bytes()))
    message = refusal(path)
    assert said in message
    assert message.endswith(": download or convert the model again")


def typed(kind: str) -> Callable[[gguf.GGUFWriter], None]:
    return lambda writer: writer.add_type(kind)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"architecture": "no-such-family"}, "(unknown model architecture: 'no-such-family'): try a newer"),
        ({"change": typed("adapter")}, "is an adapter (LoRA), not a model: give the model's own file"),
        ({"change": typed("mmproj")}, "is the image or sound part of a model: give the model's own file"),
        ({"architecture": "clip"}, "is the image or sound part of a model: give the model's own file"),
    ],
    ids=["unknown", "LoRA", "mmproj", "clip"],
)
def test_other_than_models(
    refusal: Callable[..., str], tmp_path: pathlib.Path, options: dict[str, Any], said: str
) -> None:
    assert said in refusal(llama_files.write_gguf(tmp_path / "m.gguf", **options))


# -- while it runs


@pytest.mark.parametrize("backend", ["llama.cpp", "mlx"])
def test_killed_in_a_prompt(worker: WorkerProcess, listener: Listener, tmp_path: pathlib.Path, backend: str) -> None:
    config = tiny.MIXTRAL | {"max_position_embeddings": 1 << 17}
    write = llama_files.write_gguf if backend == "llama.cpp" else tiny.write_model
    path = write(tmp_path / ("long.gguf" if backend == "llama.cpp" else "long"), config)
    worker.send(Load(model=str(path), options=EngineOptions(context=1 << 16)))
    worker.send(run_start("x" * 60_000, GREEDY))
    listener.wait_for(lambda: any(progress.stage == "prefill" for progress in listener.of(Progress)))
    os.kill(worker.pid, signal.SIGKILL)
    listener.wait_for(lambda: listener.of(Failed))
    [failed] = listener.of(Failed)
    assert failed.message == (
        "the model's process was killed by the system (SIGKILL): out of memory? "
        "Free memory, or give a smaller model or --context (`moe-watch memory MODEL` lists what fits)"
    )


def test_a_run_that_dies_leaves_its_recording_whole(tmp_path: pathlib.Path) -> None:
    workers: list[WorkerProcess] = []

    def start(on_message: Callable[[Message], None]) -> WorkerProcess:
        workers.append(WorkerProcess(on_message))
        return workers[-1]

    def crash(item: StreamItem) -> None:
        if isinstance(item, Token) and item.i == 20:
            os.kill(workers[0].pid, signal.SIGABRT)

    output = tmp_path / "run.moe.jsonl"
    slow = run_settings(backend="llama.cpp", prompt="def", stop="never", rate=100, output=output)
    source = LiveSource(slow, Surroundings(worker=start))
    run_headless(source, crash)
    states = [event for event in read_session(output) if isinstance(event, State)]
    assert (states[-1].state, states[-1].message) == ("error", "the model's process crashed (SIGABRT)")
    assert source.recording.problem == ""
