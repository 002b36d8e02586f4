"""`moe-watch bench`: its output, the stored cost, and its errors. Speeds are not tested."""

from __future__ import annotations

import json
import os
import re
import signal

import pytest

from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import Ready
from moe_watch.commands.app import run
from moe_watch.routing.errors import UserError
from moe_watch.routing.stats.ratios import FEWEST_ROUNDS, ratio
from moe_watch.routing.stats.timing_noise import Noise
from moe_watch.sessions.bench import Bench, BenchResult, VariantRates
from moe_watch.sessions.live.cost import known_cost
from tests.run_specs import run_settings

ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(bool(catalog.missing_packages(entry)), reason=f"no {name} here"))
    for name, entry in catalog.ENGINES.items()
]
TINY = ("--rounds", "6", "--tokens", "20")
DECODE = ["bare", "tap off", "tap on", "tap + recording", "tap + recording + dashboard"]
PREFILL = ["bare", "tap off", "tap on"]
ROWS = [*(("decode", name) for name in DECODE), *(("prefill", name) for name in PREFILL)]


@pytest.fixture(autouse=True)
def kept(monkeypatch, tmp_path):
    """Folder of stored costs in these tests."""
    folder = tmp_path / "cost"
    monkeypatch.setattr("moe_watch.sessions.live.cost.cost_directory", lambda: folder)
    return folder


QUIET = Noise(cores=2, load=1.0, others=0.02, steal=0.0)


def made(speed, noise=QUIET, rounds=10):
    """Return the result of a bench in which the tap runs at this ratio of the baseline, ± 1 %."""
    bare = [100.0] * rounds
    tap = [100.0 * speed * (1 + 0.01 * (-1) ** i) for i in range(rounds)]
    rates = {"bare": bare, "tap on": tap}
    phases = ("decode", "prefill")
    return BenchResult(
        [VariantRates(phase, name, rates[name], ratio(rates[name], bare)) for phase in phases for name in rates], noise
    )


@pytest.fixture
def finds(monkeypatch):
    """Have `bench` find a result without a model."""
    from tests.sessions.live.test_cost import BACKEND, MODEL

    class Made:
        ready = Ready(model=MODEL, backend=BACKEND, template=None, capture=[])

        def __init__(self, *arguments, **options):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def measurements(self, rounds):
            return rounds

        def run(self, rounds, on_measured):
            return self.result

    def find(result):
        Made.result = result
        monkeypatch.setattr("moe_watch.sessions.bench.Bench", Made)
        return Made.ready

    return find


def test_a_quiet_measurement_is_kept(finds, capsys, kept):
    ready = finds(made(0.98))
    assert run(["bench", "pocket"]) == 0
    assert known_cost(ready.model, ready.backend).ratio == pytest.approx(0.98)
    captured = capsys.readouterr()
    assert "too noisy" not in captured.out + captured.err
    assert "while measuring: load 1.00 on 2 cores, other processes used 2 % of the processors" in captured.out


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (made(1.59), "observing cannot make a model faster, and the ratio is 1.590 [1.574, 1.606]"),
        (made(0.98, rounds=3), "no 95 % interval"),
        (made(0.98, Noise(cores=2, load=4.0, others=0.5, steal=0.0)), "other processes took 50 % of the processors"),
    ],
    ids=["faster-with-the-tap", "three-values", "busy-machine"],
)
def test_what_noise_made_is_neither_believed_nor_kept(finds, capsys, kept, result, said):
    finds(result)
    assert run(["bench", "pocket", "--json"]) == 1
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("moe-watch: too noisy, the cost of the tap is not stored: ")
    assert said in line
    printed = json.loads(captured.out)
    assert printed["cost"] is None
    assert said in printed["cost_unavailable"]
    assert not kept.exists()


@pytest.mark.model
@pytest.mark.parametrize("engine", ENGINES)
def test_json(capsys, kept, engine):
    status = run(["bench", "pocket", "--backend", engine, *TINY, "--json"])
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert list(result) == [
        "model", "backend", "device", "rounds", "tokens", "rows", "cost", "cost_unavailable", "noise"
    ]  # fmt: skip
    assert [result[key] for key in ("model", "backend", "rounds", "tokens")] == ["pocket", engine, 6, 20]
    assert 0 <= result["noise"]["others"] <= 1
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
    if cost is None:  # this machine was too noisy, and the command reports it
        assert status == 1
        assert result["cost_unavailable"] in captured.err
        assert not kept.exists()
        return
    assert (status, captured.err, result["cost_unavailable"]) == (0, "", None)
    assert (cost["tap_off"], cost["tap_on"]) == (bare["tokens_per_second"], tap["tokens_per_second"])
    assert (cost["ratio"], cost["interval"]) == (tap["ratio"], tap["interval"])
    (file,) = kept.iterdir()
    assert json.loads(file.read_bytes())["cost"].items() >= cost.items()


@pytest.mark.model
@pytest.mark.parametrize("engine", ENGINES[-1:])
def test_tables(capsys, engine):
    assert run(["bench", "--backend", engine, *TINY]) in (0, 1)  # because of this machine's noise
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].startswith(f"pocket on {engine} (")
    number, interval = r"[\d,.]+", r"[\d.]+ \[[\d.]+, [\d.]+\]"
    for phase, (_, *names) in (("decode", DECODE), ("prefill", PREFILL)):
        lines = [f"| {phase} | tokens/s, median | ratio to bare, 95 % interval |", "|---|---|---|"]
        rows = [rf"\| bare \| {number} \| 1 \|", *(rf"\| {re.escape(n)} \| {number} \| {interval} \|" for n in names)]
        assert re.search("\n".join([*map(re.escape, lines), *rows]), shown), shown
    assert re.search(r"^while measuring: load .* other processes used \d+ % of the processors, steal ", shown, re.M)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rounds", "3"], "--rounds is 3: a 95 % interval needs at least 6"),
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
    assert run(["bench", "--rounds", "6", "--tokens", "100000"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"the context of pocket holds [\d,]+: measure fewer tokens", line)
    assert not kept.exists()


@pytest.mark.model
def test_a_crash_is_one_line():
    settings = run_settings(prompt="def parse", tokens=5)
    with Bench(settings, lambda _: None) as bench:

        def crash() -> None:
            os.kill(bench._worker.pid, signal.SIGSEGV)

        with pytest.raises(UserError, match=r"^the model's process crashed \(SIGSEGV\)$"):
            bench.run(2, crash)


@pytest.mark.model
def test_progress_is_told_and_two_rounds_are_no_cost():
    stages, measured = [], []
    with Bench(run_settings(prompt="def parse", tokens=5), lambda progress: stages.append(progress.stage)) as bench:
        result = bench.run(2, lambda: measured.append(1))
        assert len(measured) == bench.measurements(2)
        ready = bench.ready
    assert set(stages) >= {"starting", "loading"}
    assert (result.cost, result.doubt) == (None, f"no 95 % interval: that needs at least {FEWEST_ROUNDS} rounds")
    assert known_cost(ready.model, ready.backend) is None


def test_a_cost_that_cannot_be_kept_is_said(capsys, kept):
    from moe_watch.commands.measuring.bench import _keep
    from tests.sessions.live.test_cost import BACKEND, MODEL

    kept.write_text("a file where the folder would be")
    _keep(Ready(model=MODEL, backend=BACKEND, template=None, capture=[]), made(0.98).cost, QUIET)
    (line,) = capsys.readouterr().err.splitlines()
    assert "the dashboard will not show this cost: it cannot be stored" in line


def test_help_explains(capsys):
    assert run(["bench", "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Usage: moe-watch bench")
    assert "--rounds" in shown
    assert "--backend" in shown
