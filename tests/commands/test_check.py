"""`moe-watch check`: its lines, its result, and its exit status."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from moe_watch.commands.app import BAD_INPUT, FINE, INTERRUPTED, NOT_FINE, run
from moe_watch.commands.models import check as command
from moe_watch.sessions.checking.results import CheckResult, failure, fine, warning
from tests.e2e.terminal import Terminal
from tests.processes import is_gone, wait_until, worker_of

ROOT = Path(__file__).parents[2]


def made(*checks: CheckResult):
    def check(*_: object, **__: object):
        yield from checks

    return check


@pytest.fixture
def three(monkeypatch):
    monkeypatch.setattr(
        command, "_checks", made(fine("a", "1"), warning("b", "2", "do it"), failure("c", "3", "undo it"))
    )


def test_the_result(three, capsys):
    assert run(["check", "--json"]) == NOT_FINE
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {
        "ok": False,
        "model": None,
        "checks": [
            {"name": "a", "status": "ok", "value": "1", "advice": ""},
            {"name": "b", "status": "warning", "value": "2", "advice": "do it"},
            {"name": "c", "status": "fail", "value": "3", "advice": "undo it"},
        ],
    }


def test_the_lines_have_words_for_the_colours(three, capsys):
    assert run(["check"]) == NOT_FINE
    assert capsys.readouterr().out.splitlines() == [
        "ok    a                1",
        "warn  b                2",
        "                       → do it",
        "FAIL  c                3",
        "                       → undo it",
        "",
        "1 check failed, 1 warning: do what the lines with FAIL say",
    ]


def test_warnings_are_fine(monkeypatch, capsys):
    monkeypatch.setattr(command, "_checks", made(warning("b", "2", "do it")))
    assert run(["check"]) == FINE
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "ready, 1 warning; next: moe-watch check MODEL (`moe-watch models` lists them)"


def test_untrusted_text_is_made_harmless(monkeypatch, capsys):
    monkeypatch.setattr(command, "_checks", made(fine("a", "\x1b[2Jclear")))
    run(["check"])
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [["no-such-model"], ["./none.gguf"], ["pocket", "--backend", "vllm"], ["--quick"], ["pocket", "--model", "b"]],
)
def test_bad_input(arguments, capsys):
    assert run(["check", *arguments]) == BAD_INPUT
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1


@pytest.mark.model
def test_this_machine_and_pocket(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "moe_watch", "check", "pocket", "--json"],
        cwd=ROOT,
        env=os.environ | {"XDG_DATA_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert (report["ok"], report["model"]) == (True, "pocket")
    by_name = {each["name"]: each for each in report["checks"]}
    assert {"disk", "memory", "temperatures", "routing", "MoE layers", "template", "speed"} <= set(by_name)
    assert all(each["value"] for each in report["checks"])
    assert all(each["advice"] for each in report["checks"] if each["status"] == "fail")
    assert list(tmp_path.rglob("*.jsonl")) == []


@pytest.mark.model
def test_ctrl_c_ends_the_worker(tmp_path):
    """A worker that is stopped would load for ever."""
    process = subprocess.Popen(
        [sys.executable, "-m", "moe_watch", "check", "pocket"],
        cwd=ROOT,
        env=os.environ | {"XDG_DATA_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    found = []

    def started() -> bool:
        try:
            found.append(worker_of(process.pid))
        except ValueError:
            return False
        return True

    try:
        wait_until(started, "a worker")
        found[0].send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == INTERRUPTED
    assert "Traceback" not in output + errors
    wait_until(lambda: is_gone(found[0].pid), "the end of the worker")


@pytest.mark.model
@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
def test_on_a_terminal(size, tmp_path):
    with Terminal("check", size=size, env={"XDG_DATA_HOME": str(tmp_path)}) as terminal:
        assert terminal.wait_for_exit() == 0
        assert re.search(r"ready, \d+ warning", terminal.text)
        assert all(len(line) <= size[0] for line in terminal.text.splitlines())
