"""`--ablate` and `--experts-per-token` on the real pocket model, and the files that they give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import moe_watch
from moe_watch.commands.app import run
from moe_watch.routing.events import Change, Token
from moe_watch.routing.router.masks import ExpertMask
from moe_watch.sessions.reading.reader import read_session
from moe_watch.sessions.verifying.file import verify

pytestmark = pytest.mark.model
pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

OFF = ExpertMask.of([(0, 3), (5, 1), (5, 2)])
RUN = ["record", "pocket", "--backend", "llama.cpp", "--threads", "1", "--seed", "1"]


def record(path: Path, *more: str) -> Path:
    assert run([*RUN, "--output", str(path), *more]) == 0
    return path


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("runs") / "masked.moe.jsonl", "--ablate", str(OFF), "--tokens", "60")


def test_no_token_selects_them(masked: Path) -> None:
    events = list(read_session(masked))
    assert [(each.i, each.mask) for each in events if isinstance(each, Change)] == [(0, OFF.rows)]
    tokens = [event for event in events if isinstance(event, Token)]
    assert len(tokens) > 60
    for token in tokens:
        assert not OFF.masked(0).intersection(token.experts[:2])
        assert not OFF.masked(5).intersection(token.experts[10:])
    assert verify(masked).findings == []


def test_live_and_replayed_summaries_are_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path / "a.moe.jsonl", "--ablate", "0:3", "--tokens", "45", "--json")
    live = json.loads(capsys.readouterr().out)
    assert run(["replay", str(path), "--headless", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == live
    assert live["masks"] == [{"i": 0, "mask": [[0, [3]]]}]
    assert (live["usage"]["decode"]["switched_off"][0], live["usage"]["decode"]["dead"][0]) == (1, 0)
    assert live["usage"]["decode"]["counts"][0][3] == 0


def test_they_are_named(masked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = "0:3, 5:1, 5:2 from token 0"
    assert run(["replay", str(masked), "--headless"]) == 0
    shown = capsys.readouterr().out
    assert f"experts off: {named}" in shown
    assert "of 8, 2 off" in shown
    assert run(["sessions", "--folder", str(masked.parent), "show", "masked"]) == 0
    assert f"off        {named}" in capsys.readouterr().out
    assert moe_watch.open(masked).masks == {0: OFF}
    assert moe_watch.open(masked).expert_ids.tolist() == [list(range(8))] * 6


def test_the_whole_model_is_forced_to_the_same_tokens(
    masked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A teacher's mask is not taken over: the comparison is of the masked and the whole model."""
    whole = record(tmp_path / "whole.moe.jsonl", "--teacher", str(masked))
    assert not [event for event in read_session(whole) if isinstance(event, Change)]
    capsys.readouterr()
    assert run(["compare", str(whole), str(masked), "--json"]) == 0
    printed = capsys.readouterr()
    assert "other experts were switched off: A has none, B has 0:3, 5:1, 5:2 from token 0" in printed.err
    agreement = json.loads(printed.out)["pairs"][0]["agreement"]
    assert agreement["tokens"] == len([event for event in read_session(whole) if isinstance(event, Token)])
    assert 0.3 < agreement["routing"]["sets"] < 1
    assert agreement["surprisal"]["first"] != agreement["surprisal"]["second"]
    again = record(tmp_path / "again.moe.jsonl", "--teacher", str(whole), "--ablate", str(OFF))
    pairs = zip(read_session(again), read_session(masked), strict=False)
    both = [(a, b) for a, b in pairs if isinstance(a, Token) and isinstance(b, Token)]
    assert len(both) > 60
    assert all(a.experts == b.experts for a, b in both)


@pytest.mark.parametrize(
    ("ablate", "reason"),
    [
        ("0:9", "layer 0 of pocket has no expert 9"),
        ("9:0", "pocket has no MoE layer 9"),
        ("0:x", "--ablate is '0:x'"),
        ("", "--ablate is ''"),
        ("0:0,0:1,0:2,0:3,0:4,0:5,0:6", "layer 0 would keep 1 expert, and selects 2 per token"),
    ],
)
@pytest.mark.parametrize("command", ["record", "measure"])
def test_an_impossible_mask_records_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, ablate: str, reason: str
) -> None:
    measured = ["--runs", "1", "--chunks", "5", "--no-control"] if command == "measure" else ["--tokens", "5"]
    output = tmp_path / "out.moe.jsonl"
    words = [command, "pocket", "--backend", "llama.cpp", "--threads", "1", *measured, "--output", str(output)]
    assert run([*words, "--ablate", ablate]) == 2
    assert reason in capsys.readouterr().err
    assert command == "measure" or not output.exists()
    assert not list(tmp_path.rglob("run-*"))


def test_another_number_of_experts_per_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path / "three.moe.jsonl", "--experts-per-token", "3", "--tokens", "25")
    events = list(read_session(path))
    assert [(each.i, each.experts_per_token) for each in events if isinstance(each, Change)] == [(0, 3)]
    assert {len(event.experts) for event in events if isinstance(event, Token)} == {18}
    assert "top-3 in place of the model's own top-2" in capsys.readouterr().out
    assert verify(path).findings == []


def test_a_measurement_keeps_its_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "measured"
    words = ["measure", "pocket", "--backend", "llama.cpp", "--threads", "1", "--runs", "1", "--seed", "3"]
    words += ["--chunks", "5", "--chunk-size", "2", "--no-control", "--out", str(folder)]
    assert run([*words, "--ablate", "0:3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["mask"] == [[0, [3]]]
    assert "- experts off: 0:3" in (folder / "report.md").read_text()
    assert run([*words, "--ablate", "0:4"]) == 2
    assert "holds a measurement with other settings (mask)" in capsys.readouterr().err
    assert run([*words, "--ablate", "0:3", "--experts-per-token", "3"]) == 2
    assert "other settings (options)" in capsys.readouterr().err
    assert run([*words, "--ablate", "0:3"]) == 0
