"""Option `--importance`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from moe_watch.commands.watching.importance_option import importance_files
from moe_watch.commands.watching.replay import replay
from moe_watch.routing.errors import UserError

GOLDEN = Path(__file__).parents[2] / "golden" / "golden-1.4-fields.moe.jsonl"
COUNTS = {str(layer): [1, 2, 3, 4, 5] for layer in (1, 2, 4)}


def profile(counts, model="made/up model"):
    return {
        "model": model, "calibration_corpus": "c.jsonl", "calibration_examples": 1, "calibration_tokens": 9,
        "num_hidden_layers": 6, "num_experts": len(next(iter(counts.values()))), "num_experts_per_tok": 1,
        "activation_counts": counts,
    }  # fmt: skip


@pytest.fixture
def opened(monkeypatch):
    """Sources and files that would be shown on the screen."""
    found = []
    monkeypatch.setattr("moe_watch.commands.watching.replay.require_terminal", lambda advice: None)
    monkeypatch.setattr(
        "moe_watch.commands.watching.replay.show", lambda source, importance: found.append((source, importance))
    )
    return found


def write(folder, name, content):
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def run(*arguments):
    CliRunner().invoke(replay, [str(each) for each in arguments], catch_exceptions=False)


def test_files_of_the_recorded_model_reach_the_dashboard(opened, tmp_path):
    file = write(tmp_path, "profile.json", profile(COUNTS))
    run(GOLDEN, "--importance", file)
    assert [name for name, _ in opened[0][1]] == ["profile.json"]


def test_a_file_of_another_model_is_refused_before_the_screen_opens(opened, tmp_path):
    file = write(tmp_path, "other.json", profile({"0": [1, 2]}))
    with pytest.raises(UserError, match=r"other\.json is of another model"):
        run(GOLDEN, "--importance", file)
    assert opened == []


def test_a_file_of_another_kind_is_refused(opened, tmp_path):
    with pytest.raises(UserError, match="neither a profile nor an ablation"):
        run(GOLDEN, "--importance", write(tmp_path, "x.json", {}))
    with pytest.raises(UserError, match="cannot be read"):
        run(GOLDEN, "--importance", tmp_path / "absent.json")
    assert opened == []


def test_without_a_dashboard_it_has_no_effect_and_is_refused(tmp_path):
    file = write(tmp_path, "profile.json", profile(COUNTS))
    with pytest.raises(UserError, match="--importance with --headless"):
        run(GOLDEN, "--headless", "--importance", file)


def test_without_the_option_nothing_is_read():
    assert importance_files([]) == []
