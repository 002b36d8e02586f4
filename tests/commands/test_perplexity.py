"""`moe-watch perplexity` as a user runs it, on each engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_watch.commands.app import run

HELD_OUT = Path(__file__).parents[2] / "models" / "pocket" / "held_out" / "score.txt"


@pytest.mark.model
@pytest.mark.parametrize("backend", ["mlx", "llama.cpp"])
def test_a_masked_model_is_compared_with_the_whole_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], backend: str
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(HELD_OUT.read_text(encoding="utf-8")[:4000], encoding="utf-8")
    words = ["pocket", "--text", str(text), "--context", "128", "--ablate", "0:1,1:3", "--against", "pocket"]
    assert run(["perplexity", *words, "--backend", backend]) == 0
    masked, whole, ratio, difference, tokens = capsys.readouterr().out.splitlines()
    assert " without 0:1,1:3: perplexity " in masked
    assert " without " not in whole
    first, second = (float(line.partition(": perplexity ")[2].split()[0]) for line in (masked, whole))
    assert first > second
    assert float(ratio.removeprefix("ratio to pocket: ").split()[0]) == pytest.approx(first / second, abs=1e-4)
    assert difference.startswith("difference, paired by token: +")
    assert tokens.endswith("windows of 128")
    assert max(map(len, (whole, ratio, difference, tokens))) <= 80


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Text with special tokens written in it, which both engines read as plain text."""
    path = tmp_path / "text.txt"
    path.write_text("<s></s>" + HELD_OUT.read_text(encoding="utf-8")[:600] + "</s>")
    return path


@pytest.mark.model
def test_both_engines_have_the_same_result(capsys: pytest.CaptureFixture[str], text: Path) -> None:
    found = []
    for backend in ("llama.cpp", "mlx"):
        assert (
            run(["perplexity", "pocket", "--backend", backend, "--text", str(text), "--context", "32", "--json"]) == 0
        )
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["text_tokens"] == found[1]["text_tokens"]
    assert found[0]["perplexity"] == pytest.approx(found[1]["perplexity"], rel=1e-3)


def test_the_second_model_is_looked_for_before_the_first_is_scored(
    capsys: pytest.CaptureFixture[str], text: Path
) -> None:
    assert run(["perplexity", "pocket", "--text", str(text), "--context", "32", "--against", "no model"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    [line] = said.err.splitlines()
    assert "there is no model called 'no model'" in line
