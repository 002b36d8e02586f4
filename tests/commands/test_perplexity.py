"""`moe-watch perplexity`: the comparison of two models on the screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_watch.commands.app import run

pytestmark = pytest.mark.model
HELD_OUT = Path(__file__).parents[2] / "models" / "pocket" / "held_out" / "score.txt"


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
