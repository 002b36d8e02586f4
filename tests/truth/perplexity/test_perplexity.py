"""Perplexity of pocket against llama.cpp's own tool; tests/truth/perplexity/README.md says how its output was made."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from moe_watch.commands.app import run

ROOT = Path(__file__).resolve().parents[3]
TEXT = ROOT / "models" / "pocket" / "held_out" / "score.txt"
TOOL = Path(__file__).parent
SCORED_PER_WINDOW = 255


def tool(cache):
    """Return the tool's running estimates, its result, and its number of windows."""
    text = (TOOL / f"pocket-{cache}.txt").read_text(encoding="utf-8")
    running = [float(value) for value in re.findall(r"\]([\d.]+),", text)]
    (final,) = re.findall(r"PPL = ([\d.]+) \+/- ([\d.]+)", text)
    (windows,) = re.findall(r"over (\d+) chunks, n_ctx=512", text)
    assert len(running) == int(windows)
    return running, final, int(windows)


def measured(capsys, *options):
    assert run(["perplexity", "pocket", "--text", str(TEXT), "--json", *options]) == 0
    [line] = capsys.readouterr().out.splitlines()
    return json.loads(line)


def test_the_result_and_its_error_are_those_of_the_tool(capsys):
    _, final, windows = tool("f32")
    found = measured(capsys, "--backend", "llama.cpp")
    assert (f"{found['perplexity']:.4f}", f"{found['standard_error']:.5f}") == final
    assert (found["windows"], found["context"], found["tokens"]) == (windows, 512, windows * SCORED_PER_WINDOW)
    low, high = found["interval"]
    assert low < found["perplexity"] < high
    assert high - low > 2 * 1.96 * found["standard_error"]  # successive tokens are not independent


@pytest.mark.parametrize(("cache", "windows"), [("f16", 6), ("f32", 6)])
def test_the_estimate_after_some_windows_is_that_of_the_tool(capsys, cache, windows):
    running, _, _ = tool(cache)
    found = measured(capsys, "--backend", "llama.cpp", "--kv-type", cache, "--windows", str(windows))
    assert f"{found['perplexity']:.4f}" == f"{running[windows - 1]:.4f}"


def test_mlx_scores_the_same_windows(capsys):
    running, _, _ = tool("f32")
    found = measured(capsys, "--backend", "mlx", "--windows", "6")
    assert found["perplexity"] == pytest.approx(running[5], rel=1e-4)
