"""Failures of a run that people meet: each ends in one line with a next step, and leaves the recording whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed")

import gguf

from moe_watch.backends.model_files.catalog import POCKET_GGUF
from moe_watch.routing.events import Event, RunWarning, State, Token, Vitals
from moe_watch.sessions.live.environment import Surroundings
from moe_watch.sessions.live.headless import run_headless
from moe_watch.sessions.live.source import LiveSource
from moe_watch.sessions.reading.reader import read_session
from moe_watch.vitals.heat.temperature import Temperatures
from tests.backends import llama_files, pocket_variants
from tests.backends.pocket_variants import text
from tests.e2e.terminal import Terminal
from tests.processes import LONG, wait_until, worker_of
from tests.run_specs import run_settings

pytestmark = pytest.mark.model

ROOT = Path(__file__).parents[2]


def moe_watch(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "moe_watch", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LONG,
    )


def events_of(path: Path) -> list[Event]:
    """All events of a recording that is whole."""
    reader = read_session(path)
    events = list(reader)
    assert not reader.torn
    return events


# -- a sensor that vanishes


class Chip:
    """A hwmon file as the kernel shows it, which is removed after some readings."""

    def __init__(self, file: Path, readings: int) -> None:
        self._file, self._left = file, readings
        file.write_text("54321\n")

    def __call__(self) -> Mapping[str, list[SimpleNamespace]]:
        if not self._left:
            self._file.unlink(missing_ok=True)
        self._left -= 1
        return {
            "k10temp": [
                SimpleNamespace(label="Tctl", current=int(self._file.read_text()) / 1000, high=None, critical=None)
            ]
        }


def test_a_sensor_that_vanishes_during_a_run_is_unavailable_and_the_run_continues(tmp_path: Path) -> None:
    output = tmp_path / "run.moe.jsonl"
    settings = run_settings(backend="llama.cpp", prompt="def", stop="never", rate=20, tokens=50, output=output)
    sensors = [Temperatures(Chip(tmp_path / "temp1_input", 2))]
    run_headless(LiveSource(settings, Surroundings(providers=sensors)), lambda _: None)
    events = events_of(output)
    vitals = [event for event in events if isinstance(event, Vitals)]
    assert vitals[0].temperatures[0].celsius == pytest.approx(54.321)
    assert vitals[-1].temperatures == []
    assert "No such file or directory" in vitals[-1].unavailable["temperatures"]
    assert [event for event in events if isinstance(event, State)][-1].state == "finished"
    assert sum(isinstance(event, Token) and event.source == "generated" for event in events) == 50


# -- a model's file that changes


def recording_of(model: Path, output: Path) -> subprocess.Popen[bytes]:
    endless = ("--tokens", "1000000", "--on-full-context", "restart")
    process = subprocess.Popen(
        [sys.executable, "-m", "moe_watch", "record", str(model), "--output", str(output), *endless],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_until(
        lambda: process.poll() is not None or (output.exists() and output.read_bytes().count(b'"token"') > 20),
        "tokens in the file",
    )
    return process


def test_a_file_that_is_cut_short_while_it_is_mapped(tmp_path: Path) -> None:
    model, output = tmp_path / "m.gguf", tmp_path / "run.moe.jsonl"
    shutil.copy(POCKET_GGUF, model)
    process = recording_of(model, output)
    try:
        os.truncate(model, 4096)
        _, errors = process.communicate(timeout=LONG)
    finally:
        process.kill()
    assert process.returncode == 1
    assert b"crashed (SIGBUS): the model's file was cut short while it was mapped" in errors
    assert b"restore the file and start again" in errors
    state = [event for event in events_of(output) if isinstance(event, State)][-1]
    assert state.state == "error"


def test_a_file_that_is_replaced_by_another_changes_nothing(tmp_path: Path) -> None:
    """A run has the old file open, as `mv` leaves it."""
    model, output = tmp_path / "m.gguf", tmp_path / "run.moe.jsonl"
    shutil.copy(POCKET_GGUF, model)
    process = recording_of(model, output)
    try:
        (tmp_path / "new").write_bytes(b"not a model")
        os.replace(tmp_path / "new", model)
        size = output.stat().st_size
        wait_until(lambda: process.poll() is not None or output.stat().st_size > 2 * size, "more tokens")
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LONG)
    finally:
        process.kill()
    assert [event for event in events_of(output) if isinstance(event, State)][-1].why == "user"


# -- templates


def test_a_template_that_leaves_the_text_out_is_a_warning_of_the_run(tmp_path: Path) -> None:
    model = pocket_variants.write(tmp_path / "m.gguf", {"tokenizer.chat_template": text("<|start|>assistant")})
    output = tmp_path / "run.moe.jsonl"
    done = moe_watch("record", model, "--prompt", "Name a colour", "--tokens", "5", "--output", output)
    assert done.returncode == 0, done.stderr
    assert "the chat template leaves out or changes the user's text" in done.stderr
    assert "--raw" in done.stderr
    assert any(isinstance(event, RunWarning) for event in events_of(output))


# -- a worker that is killed, on the screen


def test_the_screen_says_what_was_saved_and_what_to_press(tmp_path: Path) -> None:
    with Terminal("watch", "pocket", env={"XDG_DATA_HOME": str(tmp_path)}) as terminal:
        terminal.wait_for("streaming")
        wait_until(lambda: next(tmp_path.rglob("*.moe.jsonl"), None), "a recording")
        [output] = tmp_path.rglob("*.moe.jsonl")
        wait_until(lambda: output.read_bytes().count(b'"token"') > 20, "tokens")
        worker_of(terminal.process.pid).send_signal(signal.SIGKILL)
        shown = terminal.wait_for("saved: ")
        assert "was killed by the system (SIGKILL)" in shown
        assert "moe-watch memory MODEL" in shown
        assert "R restart" in shown
        assert output.name in shown
        assert [event for event in events_of(output) if isinstance(event, State)][-1].state == "error"
        terminal.press("R")
        terminal.wait_for("streaming")
        terminal.press("q")
        assert terminal.wait_for_exit() == 0


# -- quantization


def test_two_quantizations_are_compared_token_by_token(tmp_path: Path) -> None:
    models = {
        "exact": llama_files.write_gguf(tmp_path / "exact.gguf"),
        "coarse": llama_files.write_gguf(tmp_path / "coarse.gguf", experts_as=gguf.GGMLQuantizationType.Q4_0),
    }
    first, second = (tmp_path / f"{name}.moe.jsonl" for name in models)
    assert moe_watch("record", models["exact"], "--tokens", "40", "--output", first).returncode == 0
    done = moe_watch("record", models["coarse"], "--teacher", first, "--output", second)
    assert done.returncode == 0, done.stderr
    compared = moe_watch("compare", first, second, "--json")
    assert compared.returncode == 0, compared.stderr
    [pair] = json.loads(compared.stdout)["pairs"]
    agreement = pair["agreement"]
    assert agreement["tokens"] == sum(isinstance(event, Token) for event in events_of(first))
    assert len(agreement["routing"]["per_layer"]) == 2
    assert agreement["routing"]["sets"] < 1  # a coarse model selects other experts for some tokens
    checked = json.loads(moe_watch("check", models["coarse"], "--json").stdout)
    advice = {each["name"]: each["advice"] for each in checked["checks"]}["quantization"]
    assert "--teacher" in advice
    assert "moe-watch compare" in advice
