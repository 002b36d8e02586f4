"""Files of `profile` and `ablate`, read for the dashboard, and the stored ones."""

from __future__ import annotations

import json
import os
import stat

import numpy as np
import pytest
from msgspec import structs

from moe_watch.routing.errors import UserError
from moe_watch.routing.header import ModelInfo
from moe_watch.sessions.experts import ablation_file
from moe_watch.sessions.experts.importance import importance_of, read_importance
from moe_watch.sessions.experts.profile_file import read_profile
from moe_watch.sessions.experts.stored_importance import keep_importance, stored_importance
from moe_watch.sessions.paths import importance_directory
from tests.sessions.experts.reports import ablation_report

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
ABLATION = ablation_report({(3, 1): 0.25}, layers=[1, 3], experts=3, fingerprint="ab12")
FEWER = {
    "num_experts": 2, "activation_counts": {"1": [10, 10], "3": [8, 12]}, "weight_mass": None, "saliency": None,
}  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


def load(*paths):
    return importance_of([(path.name, read_importance(path)) for path in paths], MODEL)


def test_a_profile_and_an_ablation_are_joined(write):
    found = load(write("profile.json", PROFILE), write("ablation.json", ablation_file.to_bytes(ABLATION)))
    assert np.array_equal(found.saliency, [[0.5, 0.25, np.nan], [1.0, 2.0, 4.0]], equal_nan=True)
    assert found.damage[1, 1] == 0.25
    assert np.isnan(found.damage).sum() == 5
    assert found.source("saliency") == "profile.json"
    assert found.source("damage") == "ablation.json"


def test_a_quantity_of_several_files_is_that_of_the_last(write):
    other = PROFILE | {"saliency": {"1": [1, 1, None], "3": [1, 1, 1]}}
    without = PROFILE | {"saliency": None}
    found = load(write("a.json", PROFILE), write("b.json", other), write("c.json", without))
    assert found.source("saliency") == "b.json"
    assert np.nansum(found.saliency) == 5


def test_a_profile_of_the_reference_has_no_saliency(write):
    reference = {key: PROFILE[key] for key in PROFILE if key not in ("weight_mass", "saliency", "fingerprint")}
    found = load(write("reference.json", reference))
    assert found.known == []
    assert found.saliency is None


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"fingerprint": "cd34", "model": "other"}, "x.json is of another model (other)"),
        (
            {"activation_counts": {"1": [10, 10, 0]}, "weight_mass": None, "saliency": None},
            "x.json is of another model (1 layer × 3 experts)",
        ),
        (FEWER, "x.json is of another model (2 layers × 2 experts)"),
    ],
    ids=["fingerprint", "layers", "experts"],
)
def test_a_file_of_another_model_is_refused_in_one_line(write, changed, why):
    with pytest.raises(UserError) as refused:
        load(write("x.json", PROFILE | changed))
    assert refused.value.what == why
    assert "\n" not in str(refused.value)


def test_an_ablation_of_other_layers_is_of_another_model(write):
    other = ablation_report({(2, 1): 0.25}, layers=[1, 2], experts=3)
    with pytest.raises(UserError, match="another model"):
        load(write("x.json", ablation_file.to_bytes(other)))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"{", b'{"experts": [1]}', b'{"activation_counts": {"0": [1]}}']
)
def test_other_files_are_refused(write, content):
    with pytest.raises(UserError, match="neither a profile nor an ablation"):
        read_importance(write("x.json", content))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"calibration_corpus": "", "activation_counts": {"a": []}}', "not a profile"),
        (b'{"calibration_corpus": 1, "activation_counts": {"0": [1]}}', "not a profile"),
        (b'{"experts": [{"delta_surprisal": 1}]}', "not an ablation"),
    ],
)
def test_damaged_files_are_refused(write, content, why):
    with pytest.raises(UserError, match=why):
        read_importance(write("x.json", content))


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_importance(path)


@pytest.fixture
def data_directory(tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_data_path", lambda *_, **__: tmp_path / "data")
    return importance_directory("ab12")


def test_stored_files_are_those_of_the_models_fingerprint(data_directory):
    assert stored_importance(MODEL).known == []
    data_directory.mkdir(parents=True)
    (data_directory / "profile.json").write_text(json.dumps(PROFILE))
    (data_directory / "broken.json").write_text("{")
    (data_directory / "other.json").write_text(json.dumps({**PROFILE, "fingerprint": "cd34"}))
    newer = data_directory / "again.json"
    newer.write_text(json.dumps({**PROFILE, "saliency": {"1": [1, 1, None], "3": [1, 1, 1]}}))
    os.utime(data_directory / "profile.json", (1, 1))
    found = stored_importance(MODEL)
    assert found.known == ["saliency"]
    assert found.source("saliency") == "again.json"


def test_the_last_result_of_each_kind_is_stored(data_directory, write):
    profile = read_profile(write("x.json", PROFILE)).profile
    newer = structs.replace(profile, saliency={"1": [1, 2, None], "3": [3, 4, 5]})
    for each in (profile, ABLATION, newer):
        assert keep_importance(each)
    assert sorted(path.name for path in data_directory.iterdir()) == ["ablation.json", "profile.json"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in data_directory.iterdir()] == [0o600] * 2
    assert stat.S_IMODE(data_directory.stat().st_mode) == 0o700
    found = stored_importance(MODEL)
    assert found.saliency[1].tolist() == [3, 4, 5]
    assert found.damage[1, 1] == 0.25


def test_results_that_cannot_be_shown_are_not_stored(data_directory, write):
    profile = read_profile(write("x.json", PROFILE)).profile
    assert keep_importance(profile)
    assert not keep_importance(structs.replace(profile, saliency=None))
    assert not keep_importance(structs.replace(profile, fingerprint=None))
    assert not keep_importance(structs.replace(ABLATION, fingerprint=None))
    assert [path.name for path in data_directory.parent.rglob("*.json")] == ["profile.json"]
    assert stored_importance(MODEL).saliency[1].tolist() == [1, 2, 4]
