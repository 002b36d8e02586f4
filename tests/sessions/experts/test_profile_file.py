"""Profiles as files: the reference's keys first, exact to the last digit, and every damaged file refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from moe_watch.routing.errors import UserError
from moe_watch.routing.experts.rankings import RANKINGS
from moe_watch.routing.experts.sums import total
from moe_watch.sessions.experts.profile_file import (
    read_profile,
    to_bytes,
    write_profile,
)
from moe_watch.sessions.experts.profile_maker import make_profile
from tests.sessions.experts.observed import COUNTS, EXPERTS, LAYERS, K, block, usage

REFERENCE: dict[str, Any] = {
    "model": "org/moe",
    "calibration_corpus": "code.jsonl",
    "calibration_examples": 3,
    "calibration_tokens": 5,
    "num_hidden_layers": 2,
    "num_experts": EXPERTS,
    "num_experts_per_tok": K,
    "activation_counts": {"0": COUNTS[0].tolist(), "1": COUNTS[1].tolist()},
    "metric_version": "v1.activation_count",
    "tool": "expert_activation_profile.py",
}
"""A file as the reference tool writes it: `json.dump` with an indent of 2."""
TYPES = (str, str, int, int, int, int, int, dict, str, str)
Change = Callable[[dict[str, Any]], object]


def written(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps(REFERENCE | changes, indent=2))
    return path


def changed(path: Path, change: Change) -> Path:
    """Write a whole profile of moe-watch with one change."""
    found = msgspec.to_builtins(make_profile(usage([block()] * 8, [block()] * 8)))
    change(found)
    path.write_text(json.dumps(found))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    profile = make_profile(usage([block()] * 8, [block()] * 8))
    path = tmp_path / "new folder" / "profile.json"
    write_profile(profile, path)
    found = read_profile(path)
    assert found.profile == profile
    assert (found.layers, found.warnings) == (LAYERS, [])
    expected = total([block()] * 16)
    np.testing.assert_array_equal(found.sums.rows, expected.rows)
    for by in RANKINGS:
        np.testing.assert_array_equal(found.sums.ranking(by), expected.ranking(by))
    np.testing.assert_allclose(found.sums.mean_entropy, expected.mean_entropy)
    assert list(path.parent.iterdir()) == [path]


def test_the_keys_of_the_reference_come_first() -> None:
    content = to_bytes(make_profile(usage()))
    assert list(json.loads(content))[: len(REFERENCE)] == list(REFERENCE)
    assert tuple(type(value) for value in list(json.loads(content).values())[: len(REFERENCE)]) == TYPES
    assert b'\n  "activation_counts": {\n    "1": [50, 30, 20, 0],\n    "3": [0, 40, 40, 20]\n  },\n' in content


def test_a_file_of_the_reference_tool(tmp_path: Path) -> None:
    found = read_profile(written(tmp_path / "profile.json"))
    assert (found.layers, found.warnings) == ([0, 1], [])
    assert found.sums.rows.tolist() == [5, 5]
    assert found.sums.counts.tolist() == COUNTS.tolist()
    assert [by for by in RANKINGS if found.sums.ranking(by) is not None] == ["count"]


def test_a_layer_without_a_router_in_a_file_of_the_reference_tool(tmp_path: Path) -> None:
    counts = {"0": [0] * EXPERTS, "1": COUNTS[0].tolist(), "10": COUNTS[1].tolist()}
    found = read_profile(written(tmp_path / "profile.json", activation_counts=counts, num_hidden_layers=11))
    assert found.layers == [1, 10]
    assert [each.partition(": ")[2] for each in found.warnings] == ["no selection in layer 0: taken as dense"]


def test_layers_in_any_order(tmp_path: Path) -> None:
    counts = {"10": COUNTS[1].tolist(), "9": COUNTS[0].tolist()}
    found = read_profile(written(tmp_path / "profile.json", activation_counts=counts, num_hidden_layers=11))
    assert found.layers == [9, 10]
    assert found.sums.counts.tolist() == COUNTS.tolist()


def test_counts_that_do_not_sum_are_a_warning_with_the_layer(tmp_path: Path) -> None:
    found = read_profile(written(tmp_path / "profile.json", calibration_tokens=6))
    assert len(found.warnings) == 2
    assert "counts of layer 0 sum to 10, not to tokens × experts per token (6 × 2)" in found.warnings[0]

    def lose_one(profile: dict[str, Any]) -> None:
        profile["activation_counts"]["3"][1] -= 1

    [warning] = read_profile(changed(tmp_path / "own.json", lose_one)).warnings
    assert "counts of layer 3 sum to 159, not to rows × experts per token (80 × 2)" in warning


def test_saliency_without_its_mass_is_enough(tmp_path: Path) -> None:
    found = read_profile(changed(tmp_path / "profile.json", lambda each: each.update(saliency_mass=None)))
    np.testing.assert_allclose(found.sums.saliency, [[0.5, 1.0, 1.5, np.nan], [np.nan, 1.0, 1.5, 2.0]])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"activation_counts": {}}, "activation_counts is empty"),
        ({"activation_counts": {"0": [1, 1, 2]}}, "layer 0 has 3 counts, but num_experts is 4"),
        ({"activation_counts": {"0": [1, 1, 2, 2, 0]}}, "layer 0 has 5 counts"),
        ({"activation_counts": {"0": [0, 0, 0, 0]}}, "no expert is selected"),
        ({"activation_counts": {"0": [-1, 3, 0, 0]}}, "layer 0 has an impossible count"),
        ({"activation_counts": {"0": [2**60, 3, 0, 0]}}, "layer 0 has an impossible count"),
        ({"activation_counts": {"0": [2**80, 3, 0, 0]}}, "not a profile"),
        ({"activation_counts": {"0": [1.5, 3, 0, 0]}}, "Expected `int`"),
        ({"activation_counts": {"0": [None, 3, 0, 0]}}, "Expected `int`"),
        ({"activation_counts": {"0": [float("nan"), 3, 0, 0]}}, "JSON is malformed"),
        ({"activation_counts": {"first": [1, 1, 1, 1]}}, "a layer called 'first'"),
        ({"activation_counts": {"01": [1, 1, 1, 1]}}, "a layer called '01'"),
        ({"activation_counts": {"-1": [1, 1, 1, 1]}}, "a layer called '-1'"),
        ({"activation_counts": {"9" * 5000: [1, 1, 1, 1]}}, "a layer called '999"),
        ({"activation_counts": [[1, 1]]}, "Expected `object`"),
        ({"num_experts": 0}, "Expected `int` >= 1"),
        ({"num_experts": 10**9}, "num_experts is 1000000000"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok does not fit"),
        ({"num_experts_per_tok": [2]}, "num_experts_per_tok does not fit"),
        ({"num_experts_per_tok": [0, 2]}, "num_experts_per_tok does not fit"),
        ({"metric_version": "v9"}, "metric_version is 'v9'"),
        ({"calibration_tokens": -5}, "Expected `int` >= 0"),
        ({"model": None}, "Expected `str`"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = written(tmp_path / "profile.json", **changes)
    with pytest.raises(UserError) as caught:
        read_profile(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda each: each["weight_mass"].pop("3"), "weight_mass has other layers"),
        (lambda each: each["weight_mass"]["1"].pop(), "weight_mass of layer 1 has 3 numbers"),
        (lambda each: each["weight_mass"]["1"].__setitem__(0, -1.0), "weight_mass of layer 1 has an impossible number"),
        (
            lambda each: each["weight_mass"]["1"].__setitem__(0, 1.7e308),
            "weight_mass of layer 1 has an impossible number",
        ),
        (lambda each: each["saliency"]["1"].append(0.0), "saliency of layer 1 has 5 numbers"),
        (lambda each: each["saliency"]["1"].__setitem__(0, None), "saliency of layer 1 is null for a selected expert"),
        (lambda each: each["saliency"]["1"].__setitem__(3, 0.5), "saliency of layer 1 is null for a selected expert"),
        (lambda each: each["saliency_mass"].update({"7": [0.0] * 4}), "saliency_mass has other layers"),
        (lambda each: each["rows"].pop("1"), "rows has other layers"),
        (lambda each: each["rows"].update({"1": -1}), "rows has an impossible number"),
        (lambda each: each.update(expert_ids={"1": [0]}), "expert_ids does not fit"),
        (lambda each: each.update(stability=[1]), "Expected `object | null`"),
    ],
)
def test_a_damaged_file_of_moe_watch_is_refused(tmp_path: Path, change: Change, said: str) -> None:
    with pytest.raises(UserError) as caught:
        read_profile(changed(tmp_path / "profile.json", change))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b"\xff\xfe{}", b'{"activation_counts": ' + b"[" * 100_000, b'{"a": 1e999}', b"\0" * 64],
    ids=["empty", "open", "a list", "no keys", "UTF-16", "nested", "infinite", "zeros"],
)
def test_other_content_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a profile"):
        read_profile(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "fifo", Path("/dev/zero"), Path("a\0b")):
        with pytest.raises(UserError, match="cannot be read"):
            read_profile(path)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="cannot be written"):
        write_profile(make_profile(usage()), tmp_path / "file" / "profile.json")
    assert (tmp_path / "file").read_text() == "kept"
