"""Files of `profile` and `ablate`, read for the dashboard."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from moe_watch.routing.errors import UserError
from moe_watch.routing.header import ModelInfo
from moe_watch.sessions.experts.importance import load_importance, read_importance, stored_importance
from moe_watch.sessions.paths import importance_directory

MODEL = ModelInfo(
    name="pocket", architecture="mixtral", layers=[1, 3], experts=3, experts_per_token=2,
    gate="softmax_top_k_renormalised", fingerprint="ab12",
)  # fmt: skip
PROFILE = {
    "model": "pocket", "calibration_corpus": "c.jsonl", "calibration_examples": 2, "calibration_tokens": 10,
    "num_hidden_layers": 4, "num_experts": 3, "num_experts_per_tok": 2, "metric_version": "v1.activation_count",
    "activation_counts": {"1": [10, 10, 0], "3": [5, 6, 9]}, "weight_mass": {"1": [6.5, 3.5, 0.0], "3": [1, 2, 7]},
    "saliency": {"1": [0.5, 0.25, None], "3": [1.0, 2.0, 4.0]}, "fingerprint": "ab12",
}  # fmt: skip
ABLATION = {
    "tokens": 100, "fingerprint": "ab12", "model": "pocket",
    "experts": [
        {"layer": 3, "expert": 1, "tokens": 6, "delta_surprisal": 0.25, "interval": [0.1, 0.4], "kl": 0.2,
         "p_corrected": 0.01},
    ],
}  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_a_profile_and_an_ablation_are_joined(write):
    found = load_importance([write("profile.json", PROFILE), write("ablation.json", ABLATION)], MODEL)
    assert found.count.tolist() == [[10, 10, 0], [5, 6, 9]]
    assert found.weight_mass.tolist() == [[6.5, 3.5, 0.0], [1.0, 2.0, 7.0]]
    assert np.array_equal(found.saliency, [[0.5, 0.25, np.nan], [1.0, 2.0, 4.0]], equal_nan=True)
    assert found.damage[1, 1] == 0.25
    assert np.isnan(found.damage).sum() == 5
    assert found.source("saliency") == "profile.json"
    assert found.source("damage") == "ablation.json"


def test_a_quantity_of_several_files_is_that_of_the_last(write):
    other = {**PROFILE, "saliency": None, "weight_mass": {"1": [1, 1, 1], "3": [1, 1, 1]}}
    found = load_importance([write("a.json", PROFILE), write("b.json", other)], MODEL)
    assert found.source("saliency") == "a.json"
    assert found.source("weight_mass") == "b.json"
    assert found.weight_mass.sum() == 6


def test_a_profile_of_the_reference_has_only_counts(write):
    reference = {key: PROFILE[key] for key in PROFILE if key not in ("weight_mass", "saliency", "fingerprint")}
    found = load_importance([write("reference.json", reference)], MODEL)
    assert found.known == ["count"]
    assert found.saliency is None


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"fingerprint": "cd34", "model": "other"}, "x.json is of another model (other)"),
        ({"activation_counts": {"1": [1, 2, 3]}}, "x.json is of another model (1 layer × 3 experts)"),
        ({"saliency": {"1": [1, 2], "3": [1, 2]}}, "x.json is of another model (2 layers × 2 experts)"),
    ],
    ids=["fingerprint", "layers", "experts"],
)
def test_a_file_of_another_model_is_refused_in_one_line(write, changed, why):
    with pytest.raises(UserError) as refused:
        load_importance([write("x.json", {**PROFILE, **changed})], MODEL)
    assert refused.value.what == why
    assert "\n" not in str(refused.value)


def test_an_ablation_of_an_absent_expert_is_of_another_model(write):
    measured = [{**ABLATION["experts"][0], "layer": 2}]
    with pytest.raises(UserError, match="another model"):
        load_importance([write("x.json", {**ABLATION, "experts": measured})], MODEL)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "{",
        '{"activation_counts": {"a": []}}',
        '{"activation_counts": {"0": [-1]}}',
        '{"experts": [1]}',
        '{"activation_counts": {"1": [1]}, "saliency": {"1": [-1]}}',
    ],
)
def test_other_files_are_refused(write, content):
    with pytest.raises(UserError, match="neither a profile nor an ablation"):
        read_importance(write("x.json", content))


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_importance(path)


def test_stored_files_are_those_of_the_models_fingerprint(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert stored_importance(MODEL).known == []
    folder = importance_directory("ab12")
    folder.mkdir(parents=True)
    (folder / "profile.json").write_text(json.dumps(PROFILE))
    (folder / "broken.json").write_text("{")
    (folder / "other.json").write_text(json.dumps({**PROFILE, "fingerprint": "cd34"}))
    newer = folder / "again.json"
    newer.write_text(json.dumps({**PROFILE, "saliency": {"1": [1, 1, 1], "3": [1, 1, 1]}}))
    os.utime(folder / "profile.json", (1, 1))
    found = stored_importance(MODEL)
    assert found.source("saliency") == "again.json"
    assert found.source("count") == "again.json"
