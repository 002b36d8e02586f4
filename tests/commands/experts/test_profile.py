"""`moe-watch profile`: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.cells import cell_len

from moe_watch.commands.app import run
from moe_watch.commands.experts.profile_text import profile_lines
from moe_watch.sessions.experts.profile_file import LoadedProfile, loaded, read_profile, write_profile
from moe_watch.sessions.experts.profile_maker import make_profile
from moe_watch.sessions.paths import importance_directory
from moe_watch.sessions.results.profile import ExpertProfile
from moe_watch.tui.text.format import duration
from tests.sessions.experts.observed import block, usage
from tests.sessions.made_sessions import write_session

Captured = pytest.CaptureFixture[str]


def complaint(capsys: Captured, *arguments: object) -> str:
    """Return the one line on stderr of a command that is refused."""
    assert run(["profile", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert len(line) < 700
    return line


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"def f{at}(x):\n    return x + {at}\n" * 4}) + "\n" for at in range(9))
    )
    return path


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write_session(tmp_path / "a.moe.jsonl", 40)


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "PROFILE.json"
    write_profile(make_profile(usage([block()] * 8, [block()] * 8)), path)
    return path


@pytest.fixture
def no_other_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.model
def test_a_model_and_a_corpus(capsys: Captured, corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "made" / "PROFILE.json"
    arguments = ["pocket", "--corpus", str(corpus), "--saliency", "--window", "32", "-o", str(output)]
    assert run(["profile", *arguments, "--json"]) == 0
    shown = capsys.readouterr()
    [line] = shown.out.splitlines()
    found = msgspec.json.decode(line, type=ExpertProfile)
    assert found == read_profile(output).profile
    assert list(json.loads(line))[:9] == [
        "model", "calibration_corpus", "calibration_examples", "calibration_tokens", "num_hidden_layers", "num_experts",
        "num_experts_per_tok", "activation_counts", "metric_version",
    ]  # fmt: skip
    assert (found.model, found.calibration_corpus, found.calibration_examples) == ("pocket", str(corpus), 9)
    assert found.window == 32
    assert found.unavailable == {}
    estimate, last = shown.err.splitlines()
    assert f"{found.calibration_tokens:,} tokens in " in estimate
    assert ": about " in estimate
    assert last == f"the profile is {output}; the dashboard shows it from now on"
    assert stored_profile(found).profile == found

    assert run(["profile", str(output), "--by", "weight"]) == 0
    assert "by router weight mass" in capsys.readouterr().out
    assert run(["profile", str(output), "--by", "saliency"]) == 0
    shown = capsys.readouterr()
    assert "by saliency" in shown.out
    assert "pocket: 6 layers × 8 experts, top-2" in shown.out


def stored_profile(found: ExpertProfile) -> LoadedProfile:
    assert found.fingerprint is not None
    return read_profile(importance_directory(found.fingerprint) / "profile.json")


@pytest.mark.model
def test_only_what_the_dashboard_can_show_is_stored(capsys: Captured, corpus: Path, tmp_path: Path) -> None:
    def last_line(*options: str) -> str:
        assert run(["profile", "pocket", "--corpus", str(corpus), "--window", "32", *options]) == 0
        return capsys.readouterr().err.splitlines()[-1]

    assert ": about " in last_line()
    assert ": about " in last_line("--saliency", "--experts-per-token", "1")
    assert not list((tmp_path / "data").rglob("*.json"))
    assert last_line("--saliency") == "the dashboard shows this profile from now on"
    [stored] = (tmp_path / "data").rglob("*.json")
    stored.unlink()
    stored.parent.rmdir()
    stored.parent.write_text("a file in the folder's place")
    assert last_line("--saliency").startswith(
        "moe-watch: the dashboard will not show this profile: it cannot be stored ("
    )


@pytest.mark.model
def test_the_window_fits_a_model_with_a_short_context(capsys: Captured, corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")
    from tests.backends import llama_files, tiny

    path = llama_files.write_gguf(tmp_path / "short.gguf", tiny.MIXTRAL | {"max_position_embeddings": 64})
    assert run(["profile", str(path), "--corpus", str(corpus), "--json"]) == 0
    found = msgspec.json.decode(capsys.readouterr().out, type=ExpertProfile)
    assert (found.window, found.num_hidden_layers, found.num_experts) == (64, 2, 4)
    assert found.unavailable == dict.fromkeys(("saliency", "saliency_mass"), "not measured: give --saliency")
    assert "use at most 64 tokens" in complaint(capsys, path, "--corpus", corpus, "--window", "65")


def test_a_recording(capsys: Captured, recording: Path) -> None:
    assert run(["profile", str(recording)]) == 0
    shown = capsys.readouterr()
    assert "made/up model: 3 layers × 5 experts, top-2" in shown.out
    assert "1 example, 40 tokens" in " ".join(shown.out.split())
    assert "stability: n/a (1 block cannot be resampled: 8 are needed)" in shown.out
    assert run(["profile", str(recording), "--by", "saliency"]) == 0
    assert "no saliency: a recording has no norms" in capsys.readouterr().out


def test_a_profile_is_shown(capsys: Captured, profile: Path) -> None:
    assert run(["profile", str(profile)]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "NEVER: 2 experts of 8 not selected once in 80 tokens." in shown.out
    assert "KEPT 3" in shown.out
    assert "Keeping 3 of 4 experts" in shown.out
    assert "GROUPS: mean over 1 pair" in shown.out
    assert run(["profile", str(profile), "--keep", "2"]) == 0
    assert "KEPT 2" in capsys.readouterr().out


def test_a_file_of_the_reference_tool_is_shown(capsys: Captured, tmp_path: Path) -> None:
    path = tmp_path / "PROFILE.json"
    facts = {"model": "org/moe", "calibration_corpus": "c", "calibration_examples": 1, "calibration_tokens": 4}
    shape = {"num_hidden_layers": 1, "num_experts": 2, "num_experts_per_tok": 1}
    path.write_text(json.dumps(facts | shape | {"activation_counts": {"0": [3, 2]}}))
    assert run(["profile", str(path), "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["activation_counts"] == {"0": [3, 2]}
    [warning] = shown.err.splitlines()
    assert "counts of layer 0 sum to 5, not to tokens × experts per token (4 × 1)" in warning
    assert run(["profile", str(path), "--by", "weight", "--keep", "1"]) == 0
    assert "no weight mass: the file does not have it" in capsys.readouterr().out


def test_keep_that_the_profile_does_not_have(capsys: Captured, recording: Path, tmp_path: Path) -> None:
    path = tmp_path / "PROFILE.json"
    write_profile(make_profile(usage(), [2]), path)
    assert run(["profile", str(path), "--keep", "3"]) == 0
    assert "the profile does not have it for --keep 3, only for 2" in capsys.readouterr().out


@pytest.mark.parametrize("by", ["count", "weight_mass", "saliency", "saliency_mass"])
@pytest.mark.parametrize("keep", [None, 1])
def test_lines_fit_80_columns(by: Any, keep: int | None) -> None:
    large = msgspec.structs.replace
    made = make_profile(usage([block(2000)] * 8, [block(1)] * 8))
    named = large(made, model="an organisation/a model with a long name " * 4, calibration_corpus="a path/" * 40)
    for line in profile_lines(loaded(named, "made"), by, keep):
        assert cell_len(line) <= 80


def test_names_cannot_act_on_the_terminal(capsys: Captured, tmp_path: Path) -> None:
    path = tmp_path / "PROFILE.json"
    made = make_profile(usage([block()] * 8))
    write_profile(msgspec.structs.replace(made, model="\x1b[2Jevil\u202e", warnings=["\x1b]0;title\x07"]), path)
    assert run(["profile", str(path)]) == 0
    shown = capsys.readouterr()
    assert not set("\x1b\u202e\x07") & set(shown.out + shown.err)


@pytest.mark.usefixtures("no_other_path")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "neither --corpus nor a file given"),
        (["nothing.moe.jsonl"], "and no such file here: to profile a model, give texts with --corpus"),
        (["./nothing"], "nothing: no such"),
        (["pocket"], "--corpus FILE.jsonl"),
        (["pocket", "--corpus", "nothing.jsonl"], "nothing.jsonl: cannot be read (No such file or directory)"),
        (["pocket", "--corpus", "empty.jsonl"], "empty.jsonl: the corpus has no text"),
        (["pocket", "--corpus", "prose.jsonl"], "prose.jsonl, line 1: not JSON"),
        (["pocket", "other", "--corpus", "prose.jsonl"], "--corpus and 2 models given"),
        (["no model", "--corpus", "good.jsonl"], "there is no model called 'no model'"),
        (["pocket", "--corpus", "good.jsonl", "--window", "1"], "--window is 1: use at least 2 tokens"),
        (["pocket", "--corpus", "good.jsonl", "--window", "2049"], "--window is 2049: use at most 2,048 tokens"),
        (["pocket", "--corpus", "good.jsonl", "--threads", "0"], "--threads is 0"),
        (["pocket", "--corpus", "good.jsonl", "--keep", "0"], "--keep is 0"),
        (["pocket", "--corpus", "good.jsonl", "--experts", "8"], "--experts and --corpus given"),
        (["a.moe.jsonl", "--keep", "6"], "--keep is 6: use 1 to 5"),
        (["a.moe.jsonl", "--saliency"], "--saliency without --corpus"),
        (["a.moe.jsonl", "--window", "5", "--threads", "2"], "--window and --threads without --corpus"),
        (["a.moe.jsonl", "-ot", "x=CPU"], "--override-tensor without --corpus"),
        (["a.moe.jsonl", "--experts", "0"], "--experts is 0"),
        (["a.moe.jsonl", "--experts-per-token", "0"], "--experts-per-token is 0"),
        (["a.moe.jsonl", "--experts", "8"], "a.moe.jsonl is a recording, which states its number of experts"),
        (["a.moe.jsonl", "--experts-per-token", "1"], "a.moe.jsonl is a recording, which states its number of experts"),
        (["a.moe.jsonl", "--force"], "--force without --output"),
        (["a.moe.jsonl", "-o", "good.jsonl"], "good.jsonl: exists already"),
        (["a.moe.jsonl", "-o", "good.jsonl/PROFILE.json"], "cannot be written"),
        (["a.moe.jsonl", "-o", "."], "--output names no file"),
        (["a.moe.jsonl", "--by", "luck"], "'luck'"),
        (["good.jsonl"], "JSON of unknown format"),
        (["broken.json"], "not a profile"),
        (["counts.json"], "counts do not state the experts per token: use --experts-per-token N"),
        (["ids.npy"], "name the format: `moe-watch import FILE --from sglang`"),
        (["runs.json", "--experts", "8"], "--run 0 up to 1 with `moe-watch import`, and give the session"),
        (["nested.json"], "not a profile"),
        (["nan.json"], "not a profile"),
        (["PROFILE.json", "a.moe.jsonl"], "PROFILE.json is a profile, and 2 files are given"),
    ],
)
def test_bad_input_is_one_line(
    capsys: Captured, recording: Path, profile: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "prose.jsonl").write_text("Once upon a time\n")
    (tmp_path / "good.jsonl").write_text('{"text": "def f(x):"}\n')
    (tmp_path / "broken.json").write_text('{"calibration_corpus": "a", "activation_counts": {"0": [1]}}')
    (tmp_path / "nested.json").write_text('{"calibration_corpus": "a", "activation_counts": ' + "[" * 100_000)
    (tmp_path / "counts.json").write_text('{"model": "m", "num_experts": 4, "activation_counts": {"0": [1, 2, 0, 1]}}')
    np.save(tmp_path / "ids.npy", np.ones((2, 1, 2), np.int64))
    (tmp_path / "runs.json").write_text('[{"routed_experts": [[[1, 2]]]}, {"routed_experts": [[[1, 2]]]}]')
    nan = profile.read_text().replace('"saliency_mass": {', '"saliency_mass": {"9": [NaN],')
    (tmp_path / "nan.json").write_text(nan)
    before = sorted(tmp_path.iterdir())
    assert said in complaint(capsys, *arguments)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.usefixtures("no_other_path")
def test_an_output_that_is_taken_is_noticed_before_anything_is_evaluated(
    capsys: Captured, corpus: Path, profile: Path
) -> None:
    content = profile.read_bytes()
    assert "exists already" in complaint(capsys, "pocket", "--corpus", corpus, "-o", profile)
    assert profile.read_bytes() == content


def test_an_existing_file_is_replaced_by_force(capsys: Captured, recording: Path, profile: Path) -> None:
    assert run(["profile", str(recording), "-o", str(profile), "--force"]) == 0
    assert read_profile(profile).profile.model == "made/up model"


def test_a_dense_model_is_refused(capsys: Captured, corpus: Path) -> None:
    """By its files, before it is loaded."""
    model = Path(__file__).parents[2] / "truth" / "dense" / "llama" / "model.gguf"
    said = complaint(capsys, model, "--corpus", corpus)
    assert f"{model}: a dense model has no experts to rank" in said


@pytest.mark.model
def test_ctrl_c_writes_nothing(tmp_path: Path) -> None:
    path, output = tmp_path / "long.jsonl", tmp_path / "PROFILE.json"
    path.write_text("".join(json.dumps({"text": f"def f{at}(x):\n    return x\n" * 200}) + "\n" for at in range(300)))
    command = [sys.executable, "-m", "moe_watch", "profile", "pocket", "--corpus", str(path), "-o", str(output)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    estimate = process.stderr.readline()
    assert ": about " in estimate
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    line, *rest = err.splitlines()
    assert rest == [""]  # click ends the line in which a terminal shows ^C
    assert "stopped after " in line
    assert line.endswith("nothing is written")
    assert not output.exists()
    assert list(tmp_path.iterdir()) == [path]


def test_durations() -> None:
    found = [duration(each) for each in (0.1, 8.4, 99, 100, 5940, 9000)]
    assert found == ["1 s", "8 s", "99 s", "2 min", "99 min", "2.5 h"]


def test_counts_of_another_profiler_need_no_further_keys(capsys: Captured, tmp_path: Path) -> None:
    """A file with `activation_counts` alone, as `moe-watch import` reads it too."""
    path = tmp_path / "counts.json"
    path.write_text('{"model": "m", "num_experts": 4, "activation_counts": {"0": [1, 2, 0, 1], "2": [0, 0, 2, 2]}}')
    assert run(["profile", str(path), "--experts-per-token", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["activation_counts"] == {"0": [1, 2, 0, 1], "2": [0, 0, 2, 2]}
