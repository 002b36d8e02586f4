"""`moe-watch measure`: the same results if killed and resumed, and one line for bad input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from moe_watch.commands.app import run
from moe_watch.sessions.measuring import figures
from moe_watch.sessions.measuring.plan import read_plan
from tests.processes import LONG, wait_until

ROOT = Path(__file__).parents[2]
MEASURE = ("measure", "pocket", "--chunks", "5", "--chunk-size", "8", "--runs", "2", "--seed", "7")
STILL = {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}
RUNS = [f"{kind}-00{number}.moe.jsonl" for kind in ("run", "late") for number in (1, 2)]


@pytest.fixture(autouse=True, scope="module")
def no_figures():
    """Drawing takes longer than measuring here, and has separate tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "can_draw", lambda: False)
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return `results.json` of a measurement that was not stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run([*MEASURE, "--out", str(folder)]) == 0
    return (folder / "results.json").read_bytes()


# Waits in the middle of its second run until it receives its signal.
STANDING_STILL = """
import os, signal, sys
from moe_watch import main
from moe_watch.routing.events import Token
from moe_watch.sessions.recording.recorder import Recorder
take = Recorder.append
def stand_still(recorder, event):
    if recorder.name == "run-002.moe.jsonl" and isinstance(event, Token) and event.i == 20:
        os.kill(os.getpid(), signal.SIGSTOP)
    return take(recorder, event)
Recorder.append = stand_still
main(sys.argv[1:])
"""


def interrupt(folder, number):
    """Start a measurement as a separate process, and send it a signal in the middle of its second run."""
    process = subprocess.Popen(
        [sys.executable, "-c", STANDING_STILL, *MEASURE, "--out", str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: psutil.Process(process.pid).status() in STILL, "the second run")
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=LONG)
    assert out == ""
    return process.returncode, err


@pytest.mark.model
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_stopped_in_the_middle_it_goes_on_to_the_same_results(undisturbed, tmp_path, capsys, number):
    status, err = interrupt(tmp_path, number)
    assert status == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    if number == signal.SIGINT:
        assert f"stopped with 1 run complete in {tmp_path}; the same command continues from there" in err
    assert not (tmp_path / "results.json").exists()
    first = (tmp_path / "run-001.moe.jsonl").read_bytes()
    assert run([*MEASURE, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "run-001.moe.jsonl").read_bytes() == first
    assert (tmp_path / "results.json").read_bytes() == undisturbed
    assert "run 1 of 2: recorded" not in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == sorted(RUNS)


@pytest.mark.model
def test_json_is_results_json_and_a_drawn_seed_is_kept(tmp_path, capsys):
    small = ["measure", "--chunks", "5", "--chunk-size", "2", "--runs", "2", "--no-control", "--out", str(tmp_path)]
    assert run([*small, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    noise = printed.pop("noise")
    assert list(noise) == ["run-001.moe.jsonl", "run-002.moe.jsonl"]
    assert all(0 <= each["others"] <= 1 for each in noise.values())
    assert printed == json.loads((tmp_path / "results.json").read_bytes())
    seeds = read_plan(tmp_path).seeds
    assert seeds[1] == seeds[0] + 1
    assert run(small) == 0
    shown = capsys.readouterr()
    assert "2 runs of 5 measured chunks of 2 tokens" in shown.out
    assert "recorded" not in shown.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--runs", "0"], "--runs is 0: measure 1 to 10000"),
        (["--chunks", "4"], "--chunks is 4: a fit needs at least 5"),
        (["--chunk-size", "0"], "--chunk-size is 0"),
        (["--seed", "-1"], "--seed is -1"),
        (["--seed", str(2**32 - 3)], f"--seed is {2**32 - 3}: use 0 up to"),
        (["--seeds", "1,x"], "--seeds is '1,x': write numbers separated by commas"),
        (["--seeds", "1,1"], "--seeds has a seed twice"),
        (["--seeds", "1,-2"], "--seeds has -2"),
        (["--seeds", "1,2", "--runs", "3"], "--runs is 3, and --seeds has 2"),
        (["--seeds", "1", "--seed", "1"], "--seed and --seeds both given"),
        (["--prompts", "nowhere.txt"], "cannot read prompts from nowhere.txt: No such file"),
        (["--prompt", "a", "--prompts", "b"], "--prompt and --prompts both given"),
        (["--prompt", " "], "--prompt is empty"),
        (["--perturb", ""], "--perturb is empty: give the text"),
        (["--perturb", "a", "--neutral", ""], "--neutral is empty"),
        (["--perturb", "a", "--every", "0"], "--every is 0"),
        (["--perturb", "a", "--replicates", "0"], "--replicates is 0"),
        (["--every", "5"], "--every without --perturb"),
        (["--neutral", "x"], "--neutral without --perturb"),
        (["--temperature", "nan"], "--temperature is nan"),
        (["--top-p", "0"], "--top-p is 0.0"),
        (["--backend", "torch"], "there is no backend called 'torch'"),
        (["./nowhere"], "./nowhere: no such file or folder"),
        (["pocket", "--model", "other/model"], "two models given"),
    ],
)
def test_what_is_wrong_is_one_line(capsys, tmp_path, arguments, said):
    out = tmp_path / "out"
    assert run(["measure", *arguments, "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert said in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no prompt"),
        (b"\n \n", "has no prompt"),
        (b"[]", "has no prompt"),
        (b'["a", 1]', "has items that are no texts"),
        (b"a\xff", "is not UTF-8 text (byte 1)"),
    ],
)
def test_prompts_that_are_none(capsys, tmp_path, content, said):
    prompts = tmp_path / "prompts"
    prompts.write_bytes(content)
    assert run(["measure", "--prompts", str(prompts), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_place_for_the_results_is_needed(capsys):
    assert run(["measure"]) == 2
    assert "Missing option '-o' / '--output' / '--out'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "prompts"),
    [("one\ntwo\n\nthree", ["one", "two", "three"]), ('["a\\nb", "c"]', ["a\nb", "c"]), ("[x] = y", ["[x] = y"])],
)
def test_prompts_of_a_file(tmp_path, content, prompts):
    from moe_watch.commands.measuring.measure import _prompts

    (tmp_path / "prompts").write_text(content)
    assert _prompts("pocket", None, tmp_path / "prompts") == prompts


@pytest.mark.model
def test_what_was_refused_before_its_first_run_is_put_right(tmp_path, capsys):
    small = ["measure", "--chunk-size", "2", "--runs", "1", "--no-control", "--out", str(tmp_path)]
    assert run([*small, "--chunks", "2000"]) == 2
    assert "the context of pocket holds" in capsys.readouterr().err
    assert run([*small, "--chunks", "5"]) == 0
    assert capsys.readouterr().out.startswith("pocket · mlx · 1 run of 5 measured chunks of 2 tokens · ")
    assert read_plan(tmp_path).chunks == 5
    assert run([*small, "--chunks", "6"]) == 2
    assert "holds a measurement with other settings (chunks): repeat" in capsys.readouterr().err


@pytest.mark.model
def test_text_that_is_not_unicode_is_measured_as_what_can_be_written(tmp_path, capsys):
    small = ["--chunks", "5", "--chunk-size", "2", "--runs", "1", "--no-control", "--out", str(tmp_path)]
    assert run(["measure", "--prompt", "a\udcff", "--perturb", "b\udcff", "--replicates", "1", *small]) == 0
    plan = read_plan(tmp_path)
    assert (plan.prompts, plan.spec.forks.text) == (["a\ufffd"], "b\ufffd")
    assert "external energy" in capsys.readouterr().out


def test_help_explains(capsys):
    assert run(["measure", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "late twin" in shown
    assert "--perturb" in shown
