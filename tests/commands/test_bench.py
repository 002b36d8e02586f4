"""`moe-watch bench`: what it prints and keeps, and what it says when it cannot. How fast anything is, is not asked."""

from __future__ import annotations

import json
import os
import re
import signal

import pytest

from backends import catalog
from commands.app import run
from routing.errors import UserError
from routing.events import Cost
from sessions.bench import Bench, cost_of
from sessions.cost import known_cost
from sessions.run_settings import RunSettings

ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(bool(catalog.missing_packages(entry)), reason=f"no {name} here"))
    for name, entry in catalog.ENGINES.items()
]
TINY = ("--rounds", "2", "--tokens", "20")
DECODE = ["bare", "tap off", "tap on", "tap + recording", "tap + recording + dashboard"]
PREFILL = ["bare", "tap off", "tap on"]
ROWS = [*(("decode", name) for name in DECODE), *(("prefill", name) for name in PREFILL)]


@pytest.fixture(autouse=True)
def kept(monkeypatch, tmp_path):
    """Where costs are kept in these tests."""
    folder = tmp_path / "cost"
    monkeypatch.setattr("sessions.cost.cost_directory", lambda: folder)
    return folder


@pytest.mark.model
@pytest.mark.parametrize("engine", ENGINES)
def test_json(capsys, kept, engine):
    assert run(["bench", "pocket", "--backend", engine, *TINY, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    result = json.loads(captured.out)
    assert list(result) == ["model", "backend", "device", "rounds", "tokens", "rows", "cost"]
    assert [result[key] for key in ("model", "backend", "rounds", "tokens")] == ["pocket", engine, 2, 20]
    assert result["device"]
    assert [(row["phase"], row["name"]) for row in result["rows"]] == ROWS
    for row in result["rows"]:
        low, high = row["interval"]
        assert 0 < low <= row["ratio"] <= high
        assert row["tokens_per_second"] > 0
        if row["name"] == "bare":
            assert (low, row["ratio"], high) == (1, 1, 1)
    bare, _, tap = result["rows"][:3]
    cost = result["cost"]
    assert (cost["tap_off"], cost["tap_on"]) == (bare["tokens_per_second"], tap["tokens_per_second"])
    assert (cost["ratio"], cost["interval"]) == (tap["ratio"], tap["interval"])
    (file,) = kept.iterdir()
    assert json.loads(file.read_bytes())["cost"].items() >= cost.items()


@pytest.mark.model
@pytest.mark.parametrize("engine", ENGINES[-1:])
def test_tables(capsys, engine):
    assert run(["bench", "--backend", engine, *TINY]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].startswith(f"pocket on {engine} (")
    number, interval = r"[\d,.]+", r"[\d.]+ \[[\d.]+, [\d.]+\]"
    for phase, (_, *names) in (("decode", DECODE), ("prefill", PREFILL)):
        lines = [f"| {phase} | tokens/s, median | ratio to bare, 95 % interval |", "|---|---|---|"]
        rows = [rf"\| bare \| {number} \| 1 \|", *(rf"\| {re.escape(n)} \| {number} \| {interval} \|" for n in names)]
        assert re.search("\n".join([*map(re.escape, lines), *rows]), shown), shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rounds", "1"], "--rounds is 1: an interval needs at least 2"),
        (["--tokens", "19"], "--tokens is 19: a rate needs at least 20"),
        (["--threads", "0"], "--threads is 0: use at least 1"),
        (["--backend", "torch"], "there is no backend called 'torch'"),
        (["./nowhere"], "./nowhere: no such file or folder"),
        (["pocket", "--model", "other/model"], "two models given"),
        (["--prompt", "x"], "No such option"),
    ],
)
def test_what_is_wrong_is_one_line(capsys, kept, arguments, said):
    assert run(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert said in line
    assert not kept.exists()


@pytest.mark.model
def test_more_tokens_than_the_context_holds(capsys, kept):
    assert run(["bench", "--rounds", "2", "--tokens", "100000"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"the context of pocket holds [\d,]+: measure fewer tokens", line)
    assert not kept.exists()


@pytest.mark.model
def test_a_crash_is_one_line():
    settings = RunSettings(prompt="def parse", tokens=5)
    with Bench(settings, lambda _: None) as bench:

        def crash() -> None:
            os.kill(bench._worker.pid, signal.SIGSEGV)

        with pytest.raises(UserError, match=r"^the model's process crashed \(SIGSEGV\)$"):
            bench.run(2, crash)


@pytest.mark.model
def test_progress_is_told_and_the_cost_is_that_of_the_rows():
    stages, measured = [], []
    with Bench(RunSettings(prompt="def parse", tokens=5), lambda progress: stages.append(progress.stage)) as bench:
        rows = bench.run(2, lambda: measured.append(1))
        assert len(measured) == bench.measurements(2)
        ready = bench.ready
    assert set(stages) >= {"starting", "loading"}
    assert isinstance(cost_of(rows), Cost)
    assert known_cost(ready.model, ready.backend) is None


def test_a_cost_that_cannot_be_kept_is_said(capsys, kept):
    from backends.protocol import Ready
    from commands.bench import _keep
    from tests.sessions.test_cost import BACKEND, COST, MODEL

    kept.write_text("a file where the folder would be")
    _keep(Ready(model=MODEL, backend=BACKEND, template=None, capture=[]), COST)
    (line,) = capsys.readouterr().err.splitlines()
    assert "the dashboard will not show this cost: it cannot be kept" in line


def test_help_explains(capsys):
    assert run(["bench", "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Usage: moe-watch bench")
    assert "--rounds" in shown
    assert "--backend" in shown
