"""The worker as a process: its messages, its exit, and the report of a crash."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import psutil
import pytest

from moe_watch.backends.protocol import (
    Batch,
    Command,
    Failed,
    Load,
    Message,
    Pause,
    Perturb,
    Ready,
    Resume,
    Shutdown,
    Start,
    Stop,
)
from moe_watch.backends.worker.process import WorkerProcess, exit_cause
from moe_watch.routing.events import Perturbation, Progress, Sampling, State, Token
from tests.processes import LONG, is_gone, wait_until
from tests.run_specs import run_start

ROOT = pathlib.Path(__file__).parents[3]
GREEDY = Sampling(temperature=0.0, seed=0, stop="never")


class Listener:
    """All messages of a worker."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._changed = threading.Condition()

    def __call__(self, message: Message) -> None:
        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()

    def wait_for(self, predicate: Callable[[], object]) -> None:
        with self._changed:
            assert self._changed.wait_for(predicate, LONG), self.messages[-3:]

    def of(self, kind: type) -> list:
        items = [
            item for message in self.messages for item in (message.items if isinstance(message, Batch) else [message])
        ]
        return [item for item in items if isinstance(item, kind)]

    def state(self, name: str) -> State | None:
        return next((state for state in self.of(State) if state.state == name), None)


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def worker(listener: Listener) -> Iterator[WorkerProcess]:
    process = WorkerProcess(listener)
    yield process
    process.close()


def begin(**options: object) -> Start:
    return run_start("def f(x):", GREEDY, **options)


def test_a_whole_conversation(worker: WorkerProcess, listener: Listener, mixtral_folder: pathlib.Path) -> None:
    worker.send(Load(model=str(mixtral_folder)))
    worker.send(begin(tokens=100, chunk_size=10, on_full_context="restart"))
    listener.wait_for(lambda: listener.state("finished"))
    assert [type(message) for message in listener.messages if not isinstance(message, Batch)] == [Ready]
    [ready] = listener.of(Ready)
    assert ready.capture == ["experts", "weights", "entropy", "margin", "logprob"]
    assert (ready.template, ready.model.name, ready.model.layers) == (None, "mixtral", [0, 1])
    assert {progress.stage for progress in listener.of(Progress)} == {"starting", "loading", "prefill"}
    first = listener.of(Token)
    assert [token.i for token in first] == list(range(110))

    worker.send(Perturb(text="go"))
    listener.wait_for(lambda: listener.state("resumed") and len(listener.of(Token)) > 130)
    worker.send(Pause())
    listener.wait_for(lambda: listener.state("paused"))
    assert listener.of(Perturbation)[0].i == 110
    listener.messages.clear()
    worker.send(Resume())
    worker.send(Stop(why="enough"))
    listener.wait_for(lambda: listener.state("finished"))
    assert listener.state("finished").why == "enough"

    listener.messages.clear()
    worker.send(Perturb(text="go"))
    worker.send(begin(tokens=100, chunk_size=10))
    listener.wait_for(lambda: listener.state("finished"))
    assert listener.of(Failed) == [
        Failed(message="nothing was injected: no run is in progress", fatal=False, command="inject")
    ]
    again = listener.of(Token)
    assert [(token.i, token.id, token.experts) for token in again] == [
        (token.i, token.id, token.experts) for token in first
    ]

    os.kill(worker.pid, signal.SIGINT)
    listener.messages.clear()
    worker.send(begin(tokens=1))
    listener.wait_for(lambda: listener.state("finished"))
    worker.close()
    worker.close()
    assert is_gone(worker.pid)
    assert not psutil.pid_exists(worker.pid)
    assert listener.of(Failed) == []


def test_a_killed_worker_is_reported(worker: WorkerProcess, listener: Listener, mixtral_folder: pathlib.Path) -> None:
    worker.send(Load(model=str(mixtral_folder)))
    worker.send(begin())
    listener.wait_for(lambda: listener.of(Token))
    os.kill(worker.pid, signal.SIGKILL)
    listener.wait_for(lambda: listener.of(Failed))
    [failed] = listener.of(Failed)
    assert failed.fatal
    assert failed.message == (
        "the model's process was killed by the system (SIGKILL): out of memory? "
        "Free memory, or give a smaller model or --context (`moe-watch memory MODEL` lists what fits)"
    )
    assert listener.messages[-1] is failed
    assert not psutil.pid_exists(worker.pid)
    worker.send(Stop())


def test_a_crash_shows_the_end_of_the_log(listener: Listener, tmp_path: pathlib.Path) -> None:
    log = tmp_path / "worker.log"
    worker = WorkerProcess(listener, log=log)
    worker.send(Load(model="pocket"))
    listener.wait_for(lambda: listener.of(Ready))
    os.kill(worker.pid, signal.SIGABRT)
    listener.wait_for(lambda: listener.of(Failed))
    [failed] = listener.of(Failed)
    assert failed.message == "the model's process crashed (SIGABRT)"
    assert any("Fatal Python error: Aborted" in line for line in failed.log)
    assert log.stat().st_mode & 0o777 == 0o600
    assert "Fatal Python error" in log.read_text()
    worker.close()


def test_a_model_that_cannot_be_used_is_one_line(
    worker: WorkerProcess, listener: Listener, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "config.json").write_text('{"num_local_experts": 8}')
    worker.send(Load(model=str(tmp_path)))
    listener.wait_for(lambda: listener.of(Failed))
    wait_until(lambda: is_gone(worker.pid), "the worker's end")
    assert listener.of(Failed) == [
        Failed(message=f"{tmp_path} has no weights (model*.safetensors): download or convert the model again")
    ]


def test_a_model_that_mlx_lm_does_not_know(
    worker: WorkerProcess, listener: Listener, mixtral_folder: pathlib.Path, changed: Callable[..., pathlib.Path]
) -> None:
    worker.send(Load(model=str(changed(mixtral_folder, model_type="no_such_family"))))
    listener.wait_for(lambda: listener.of(Failed))
    [failed] = listener.of(Failed)
    assert "cannot load changed (Model type no_such_family not supported.)" in failed.message


def test_closing_while_it_starts(listener: Listener) -> None:
    worker = WorkerProcess(listener)
    worker.send(Load(model="pocket"))
    listener.wait_for(lambda: listener.of(Progress))
    worker.close()
    assert not psutil.pid_exists(worker.pid)
    assert listener.of(Failed) == []


def test_a_worker_that_does_not_listen_is_ended_by_force(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_watch.backends.worker.process.PATIENCE", 0.1)
    monkeypatch.setattr(WorkerProcess, "_wake", lambda self: None)
    worker = WorkerProcess(listener)
    os.kill(worker.pid, signal.SIGSTOP)
    worker.close()
    assert not psutil.pid_exists(worker.pid)
    assert listener.of(Failed) == []


@pytest.mark.parametrize("command", [Shutdown(), Stop()], ids=["leave", "stop"])
def test_a_suspended_worker_goes_on_when_it_is_to_end(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    """It leaves by itself, at once, and not by the force that comes when time is up."""
    monkeypatch.setattr("moe_watch.backends.worker.process.PATIENCE", LONG)
    worker = WorkerProcess(listener)
    suspended = psutil.Process(worker.pid)
    os.kill(worker.pid, signal.SIGSTOP)
    wait_until(lambda: suspended.status() == psutil.STATUS_STOPPED, "the worker to be suspended")
    worker.send(command)
    wait_until(lambda: is_gone(worker.pid) or suspended.status() != psutil.STATUS_STOPPED, "the worker to go on")
    worker.close()
    assert worker._process.returncode in (0, 2), "2: it read the stop first, which is no first command"


BUSY = """
import re, sys
from moe_watch.backends.system.parent_pipe import hold
hold(int(sys.argv[1]))
print("busy", flush=True)
re.match("(a+)+$", "a" * 64 + "b")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sends a signal at a pipe's end")
@pytest.mark.parametrize("suspended", [False, True], ids=["holds the interpreter", "suspended"])
def test_a_lifeline_ends_what_no_thread_can(suspended: bool) -> None:
    """The expression is searched for years without letting another thread run."""
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", BUSY, str(reading)], cwd=ROOT, stdout=subprocess.PIPE, pass_fds=(reading,)
    ) as process:
        try:
            os.close(reading)
            assert process.stdout.readline() == b"busy\n"
            if suspended:
                os.kill(process.pid, signal.SIGSTOP)
            os.close(writing)
            wait_until(lambda: is_gone(process.pid), "its end")
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sends a signal at a pipe's end")
def test_a_lifeline_that_is_cut_already() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    process = subprocess.run([sys.executable, "-c", BUSY, str(reading)], cwd=ROOT, pass_fds=(reading,), timeout=LONG)
    os.close(reading)
    assert process.returncode == 0


PARENT = """
import sys, threading
from moe_watch.backends.worker.process import WorkerProcess
from moe_watch.backends.protocol import Batch, Load, Start
from moe_watch.backends.run_spec import RunSpec, SamplerOptions
moment = sys.argv[2]
def listen(message):
    kinds = {type(item).__name__ for item in message.items} if isinstance(message, Batch) else {type(message).__name__}
    if moment in kinds:
        print(worker.pid, flush=True)
worker = WorkerProcess(listen)
worker.send(Load(model=sys.argv[1]))
prompt, sampler = "x" * int(sys.argv[3]), SamplerOptions(stop="never")
worker.send(Start(spec=RunSpec(prompt=prompt, sampler=sampler, on_full_context="restart"), seed=0))
threading.Event().wait()
"""


@pytest.mark.parametrize(
    ("moment", "prompt"), [("Progress", 10), ("Ready", 2000), ("Token", 10)], ids=["loading", "prefill", "generating"]
)
def test_a_worker_leaves_when_its_parent_dies(mixtral_folder: pathlib.Path, moment: str, prompt: int) -> None:
    command = [sys.executable, "-c", PARENT, str(mixtral_folder), moment, str(prompt)]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        pid = int(parent.stdout.readline())
        assert not is_gone(pid)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    wait_until(lambda: is_gone(pid), "the worker's end")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (
            -signal.SIGKILL,
            "was killed by the system (SIGKILL): out of memory? Free memory, or give a smaller model or --context"
            " (`moe-watch memory MODEL` lists what fits)",
        ),
        (-signal.SIGSEGV, "crashed (SIGSEGV)"),
        (-signal.SIGTERM, "was ended by SIGTERM"),
        (-40, "was ended by signal 40"),
        (3, "exited with status 3"),
    ],
)
def test_causes_of_death(status: int, words: str) -> None:
    assert exit_cause(status) == words


ADVICE = "try another version of the engine, or another model"


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (
            "loading\n/src/llama-context.cpp:1785: GGML_ASSERT(n <= m) failed\nFatal Python error: Aborted\n",
            f"crashed (SIGABRT: GGML_ASSERT(n <= m) failed): {ADVICE}",
        ),
        ("/src/ggml.c:9: fatal error\n", f"crashed (SIGABRT: fatal error): {ADVICE}"),
        (
            "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n",
            "crashed (SIGABRT: std::bad_alloc): free memory, or give a smaller model or --context"
            " (`moe-watch memory MODEL` lists what fits)",
        ),
        (
            "terminate called after throwing an instance of 'std::runtime_error'\n  what():  no such thing\n",
            f"crashed (SIGABRT: no such thing): {ADVICE}",
        ),
        ("/lib/x.py:12: UserWarning: old\nFatal Python error: Aborted\n", "crashed (SIGABRT)"),
        ("", "crashed (SIGABRT)"),
    ],
    ids=["assertion", "fatal error", "no memory", "uncaught", "nothing said", "no log"],
)
def test_last_words_of_the_dead(log: str, words: str) -> None:
    assert exit_cause(-signal.SIGABRT, log) == words
