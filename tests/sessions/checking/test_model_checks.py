"""Checks of models in a real worker: sound ones, templates that fail, files that cannot be read, workers that die."""

from __future__ import annotations

import os
import pathlib
import signal
import threading
from collections.abc import Callable

import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed")

import msgspec

from moe_watch.backends.engine_sizes import BufferSizes, EngineSizes, FailedSizes
from moe_watch.backends.memory.available import AvailableMemory
from moe_watch.backends.memory.report import memory_report
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions, Load, Message
from moe_watch.backends.worker.process import WorkerProcess
from moe_watch.routing.errors import UserError
from moe_watch.sessions.checking import model_files
from moe_watch.sessions.checking.model_files import CheckedModel
from moe_watch.sessions.checking.results import CheckResult
from moe_watch.sessions.checking.sequence import model_checks, silent
from moe_watch.sessions.checking.time_limit import Cancellation, Cancelled
from moe_watch.sessions.checking.trial import Trial
from tests.backends import llama_files, pocket_variants, tiny
from tests.backends.discovery import trees
from tests.backends.pocket_variants import text
from tests.processes import is_gone, wait_until

KEY = "tokenizer.chat_template"
ENGINES = [name for name, entry in catalog.ENGINES.items() if not catalog.missing_packages(entry)]


def find(name: str | pathlib.Path, backend: str = "auto") -> CheckedModel:
    return CheckedModel.find(str(name), backend, EngineOptions())


def checks_of(model: CheckedModel, **options: bool) -> dict[str, CheckResult]:
    return {each.name: each for each in model_checks(model, Cancellation(), silent, **options)}


@pytest.mark.model
@pytest.mark.parametrize("backend", ENGINES)
def test_pocket_is_ready(backend: str) -> None:
    found = checks_of(find("pocket", backend))
    assert [each.status for each in found.values()] == ["ok"] * len(found), found
    assert found["MoE layers"].value == "6 MoE layers of 8 experts, top-2; gate top_k_softmax"
    assert "weights sum to 1.00" in found["routing"].value
    assert found["context"].value == "2,048 tokens"
    assert found["format"].value == "no fault found in the prompt's special tokens and turn markers"
    source = "counters of mlx" if backend == "mlx" else "CPU_Mapped"
    assert source in found["memory in use"].value
    assert float(found["memory in use"].value.split()[0]) > 0
    assert float(found["speed"].value.split()[0]) > 0
    assert found["model engine"].value == backend


def test_quick_does_not_load() -> None:
    assert list(checks_of(find("pocket", "llama.cpp"), quick=True)) == ["model files", "model engine", "model memory"]


@pytest.mark.parametrize(
    ("template", "status", "said"),
    [
        ("{% for m in messages %}<{{ m['content'] }}>{% endfor %}", "ok", "a turn is sent as "),
        ("<|start|>assistant", "fail", "the chat template leaves out or changes the user's text"),
        ("{{ raise_exception('no user turn') }}", "fail", "no user turn"),
    ],
    ids=["sound", "leaves the text out", "raises"],
)
def test_templates(tmp_path: pathlib.Path, template: str, status: str, said: str) -> None:
    found = checks_of(find(pocket_variants.write(tmp_path / "m.gguf", {KEY: text(template)})))
    assert (found["template"].status, said in found["template"].value) == (status, True), found["template"]
    assert found["routing"].status == "ok"
    assert ("--raw" in found["template"].advice) == (status == "fail")


def all_checks_of(model: CheckedModel) -> list[CheckResult]:
    return list(model_checks(model, Cancellation(), silent))


def test_each_fault_of_the_format_is_a_line_with_advice(tmp_path: pathlib.Path) -> None:
    """Two begin-of-text tokens, and an end of turn that does not end a run; the fallback prompt is not blamed."""
    turns = "{{ bos_token }}{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    found = all_checks_of(find(pocket_variants.write(tmp_path / "m.gguf", {KEY: text(turns)})))
    lines = [each for each in found if each.name == "format"]
    assert len(lines) == 2, found
    assert {each.status for each in lines} == {"warning"}
    assert "begins with" in lines[0].value
    assert "answers may run on" in lines[1].value
    assert all("--show-prompt" in each.advice for each in lines)
    assert [each for each in found if each.name == "model warning"] == []


def test_a_prompt_that_replaces_a_failed_turn_is_not_judged(tmp_path: pathlib.Path) -> None:
    refusing = "{% if messages[0].role == 'user' %}{{ raise_exception('no user turn') }}{% endif %}[INST][/INST]"
    found = all_checks_of(find(pocket_variants.write(tmp_path / "m.gguf", {KEY: text(refusing)})))
    assert [each.name for each in found if each.name in ("template", "format", "model warning")] == ["template"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_dense_model_passes_with_a_warning(tmp_path: pathlib.Path, engine: str) -> None:
    path = tmp_path / ("dense" if engine == "mlx" else "dense.gguf")
    (tiny.write_model if engine == "mlx" else llama_files.write_gguf)(path, tiny.DENSE)
    found = checks_of(find(path))
    assert [each for each in found.values() if each.status == "fail"] == []
    assert (found["MoE layers"].status, found["MoE layers"].value[:13]) == ("warning", "no MoE layers")
    assert found["routing"].value == "nothing to capture"
    assert float(found["speed"].value.split()[0].replace(",", "")) > 0


def test_a_model_of_ollama(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "store"))
    blob = trees.ollama_model(tmp_path / "store", llama_files.write_gguf(tmp_path / "m.gguf"))
    found = checks_of(find("ollama:tiny:8x7b"))
    assert [each for each in found.values() if each.status == "fail"] == []
    assert found["model files"].value == str(blob)
    assert found["MoE layers"].status == "ok"


# -- files


def damaged(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def forbidden(path: pathlib.Path) -> None:
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")


@pytest.mark.parametrize(
    ("spoil", "said"), [(damaged, "is truncated"), (forbidden, "cannot be read (Permission denied)")]
)
def test_files_that_cannot_be_read(tmp_path: pathlib.Path, spoil: Callable[[pathlib.Path], None], said: str) -> None:
    path = llama_files.write_gguf(tmp_path / "m.gguf")
    spoil(path)
    found = checks_of(find(path))
    assert list(found) == ["model files"]
    assert (found["model files"].status, said in found["model files"].value) == ("fail", True)
    assert found["model files"].advice


def test_a_file_that_is_replaced_before_it_is_loaded(tmp_path: pathlib.Path) -> None:
    path = llama_files.write_gguf(tmp_path / "m.gguf")
    model = find(path)
    assert model_files.files_check(model).status == "ok"
    path.write_bytes(b"GGUF" + bytes(60))
    found = list(Trial(model, Cancellation(), silent).checks())
    assert [(each.name, each.status) for each in found] == [("loading", "fail")]
    assert str(path) in found[0].value


def test_a_model_of_the_hub_is_not_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    found = checks_of(find("nobody/no-such-model-here"))
    assert list(found) == ["model files"]
    assert (found["model files"].status, found["model files"].value) == ("fail", "not on this machine")


def test_what_does_not_exist_is_bad_input() -> None:
    for name, backend in (("no-such-model", "auto"), ("pocket", "vllm"), ("./none.gguf", "auto")):
        with pytest.raises(UserError):
            find(name, backend)


# -- memory


@pytest.mark.parametrize("backend", ENGINES)
def test_the_numbers_are_those_of_the_memory_command(backend: str) -> None:
    model = find("pocket", backend)
    now = AvailableMemory(8 * 10**9, 10**10, "machine")
    options = EngineOptions()
    report = memory_report("pocket", model.location, backend, options, now)
    found = model_files.memory_check(model, available=lambda: now)
    number, _, rest = found.value.partition(" ")
    # The runtime is measured in each process that is asked: it differs by some pages.
    assert float(number) * 1e6 == pytest.approx(report.total_bytes, rel=0.02)
    assert rest == f"MB needed (context {report.context:,}), 8.0 GB available on this machine"


def sizes(weights: int, kv: int) -> EngineSizes:
    return EngineSizes(
        buffers=[BufferSizes(name="CPU", on_host=True, mapped=weights, kv=kv)],
        runtime=100_000_000,
        context=4096,
        kv_type="f16",
    )


@pytest.mark.parametrize(
    ("free", "status"),
    [(30 * 10**9, "ok"), (5 * 10**9, "warning"), (10**9, "fail")],
    ids=["fits", "starts", "does not"],
)
def test_memory_is_compared(free: int, status: str) -> None:
    found = model_files.memory_check(
        find("pocket", "llama.cpp"),
        ask=lambda *_: [sizes(20 * 10**9, 2 * 10**9)],
        available=lambda: AvailableMemory(free, 32 * 10**9, "machine"),
    )
    assert found.status == status
    assert found.value.startswith("22.2 GB needed (context 4,096)")
    assert ("`moe-watch memory pocket`" in found.advice) == (status != "ok")


def test_a_limit_on_address_space_is_compared_with_the_address_space() -> None:
    """22.0 GB of buffers, and address space of libraries (0.4 GB) and threads (0.2 GB) that takes no memory."""
    found = model_files.memory_check(
        find("pocket", "llama.cpp"),
        ask=lambda *_: [msgspec.structs.replace(sizes(20 * 10**9, 2 * 10**9), address_space=400_000_000)],
        available=lambda: AvailableMemory(22_300_000_000, 22_300_000_000, "ulimit -v", counts_mapped_files=True),
    )
    assert found.status == "fail"
    assert found.value.startswith("22.6 GB of address space needed")


def test_an_engine_that_refuses_is_quoted() -> None:
    refused = FailedSizes(what="unknown model architecture", advice="update it")
    found = model_files.memory_check(find("pocket", "llama.cpp"), ask=lambda *_: [refused])
    assert (found.status, found.value, found.advice) == ("fail", "unknown model architecture", "update it")


# -- workers


class Started:
    """Real workers, of which the test may kill the last one."""

    def __init__(self, before: Callable[[WorkerProcess], None] = lambda worker: None) -> None:
        self.workers: list[WorkerProcess] = []
        self._before = before

    def __call__(self, on_message: Callable[[Message], None]) -> WorkerProcess:
        self.workers.append(WorkerProcess(on_message))
        self._before(self.workers[-1])
        return self.workers[-1]


def test_a_worker_that_dies_while_loading() -> None:
    start = Started(lambda worker: os.kill(worker.pid, signal.SIGKILL))
    [found] = Trial(find("pocket", "llama.cpp"), Cancellation(), silent, worker=start).checks()
    assert (found.name, found.status) == ("loading", "fail")
    assert "SIGKILL" in found.value
    assert found.advice == "`moe-watch memory pocket` lists settings that take less memory"


def test_a_worker_that_hangs_is_given_up() -> None:
    start = Started(lambda worker: os.kill(worker.pid, signal.SIGSTOP))
    [found] = Trial(find("pocket", "llama.cpp"), Cancellation(), silent, worker=start, load_seconds=0.5).checks()
    assert (found.status, found.value.startswith("the model was not loaded within")) == ("fail", True)
    wait_until(lambda: is_gone(start.workers[0].pid), "the end of the worker")


def test_leaving_ends_the_worker() -> None:
    cancellation = Cancellation()
    start = Started(lambda worker: os.kill(worker.pid, signal.SIGSTOP))
    threading.Timer(0.3, cancellation.cancel).start()
    with pytest.raises(Cancelled):
        list(Trial(find("pocket", "llama.cpp"), cancellation, silent, worker=start).checks())
    wait_until(lambda: is_gone(start.workers[0].pid), "the end of the worker")


def test_the_load_command_has_the_options() -> None:
    sent: list[object] = []

    class Deaf:
        pid = 0

        def send(self, command: object) -> None:
            sent.append(command)

        def close(self) -> None:
            sent.append("closed")

    model = CheckedModel.find("pocket", "llama.cpp", EngineOptions(context=64))
    list(Trial(model, Cancellation(), silent, worker=lambda _: Deaf(), load_seconds=0.01).checks())
    assert sent == [Load(model="pocket", backend="llama.cpp", options=EngineOptions(context=64)), "closed"]
