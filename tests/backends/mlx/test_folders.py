"""Model folders with any name, and configs with impossible values."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from moe_watch.backends.model_files import catalog
from moe_watch.backends.model_files.config import context_length, impossible_length
from moe_watch.backends.model_files.preflight import preflight
from moe_watch.routing.errors import UserError
from tests.backends import tiny
from tests.backends.conftest import load_folder


@pytest.mark.parametrize("name", ["my model [4bit]", "a*b", "what?", "[!x]", "ü {a,b}"])
def test_a_folder_of_any_name_is_read(name: str, tmp_path: pathlib.Path) -> None:
    folder = tiny.write_model(tmp_path / name)
    preflight(catalog.locate(str(folder)))
    engine = load_folder(folder)
    assert engine.model.name == name
    assert engine.warnings == []
    list(engine.prefill([2, 3, 4], lambda _: None))
    assert 0 <= engine.draw(last=True).id < 258


def test_only_the_files_of_the_folder_that_was_named_are_read(tmp_path: pathlib.Path) -> None:
    """`m[12]` matches `m1` and `m2` if the brackets are read as a glob pattern."""
    other = tiny.write_model(tmp_path / "m1", seed=1)
    named = tiny.write_model(tmp_path / "m[12]", seed=2)
    assert load_folder(named)._loaded.info.fingerprint == load_folder(other)._loaded.info.fingerprint
    first, second = (load_folder(folder)._loaded.model.model.embed_tokens.weight for folder in (named, other))
    assert (first != second).any().item()


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"num_experts_per_tok": 0}, "has num_experts_per_tok 0, of 4 experts"),
        ({"num_experts_per_tok": 5}, "has num_experts_per_tok 5, of 4 experts"),
        ({"num_experts_per_tok": -1}, "has num_experts_per_tok -1, of 4 experts"),
        ({"moe_topk": [2, 9]}, "has moe_topk 9, of 4 experts"),
        ({"text_config": {"num_experts_per_tok": 7}}, "has num_experts_per_tok 7, of 4 experts"),
    ],
)
def test_an_impossible_number_of_selected_experts_is_refused(
    entries: dict[str, Any], said: str, tmp_path: pathlib.Path
) -> None:
    folder = tiny.write_model(tmp_path / "m")
    (folder / "config.json").write_text(json.dumps(tiny.MIXTRAL | entries))
    with pytest.raises(UserError) as caught:
        preflight(catalog.locate(str(folder)))
    assert str(caught.value) == f"the config.json of m {said}: download or convert the model again"


@pytest.mark.parametrize("dropped", [["num_experts_per_tok"], ["moe_intermediate_size", "num_experts_per_tok"]])
def test_entries_that_no_version_could_guess_are_named(dropped: list[str], tmp_path: pathlib.Path) -> None:
    folder = tiny.write_model(tmp_path / "m", tiny.QWEN3)
    config = {key: value for key, value in tiny.QWEN3.items() if key not in dropped}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as caught:
        load_folder(folder)
    assert str(caught.value).startswith("the config.json of m lacks ")
    assert all(repr(key) in str(caught.value) for key in dropped)
    assert str(caught.value).endswith(": download or convert the model again")


@pytest.mark.parametrize("length", [10**30, 2**64, int(1e30)])
def test_a_length_that_is_none_is_no_limit(length: int, tmp_path: pathlib.Path) -> None:
    assert context_length({"max_position_embeddings": length}) is None
    folder = tiny.write_model(tmp_path / "m", tiny.MIXTRAL | {"max_position_embeddings": length})
    engine = load_folder(folder)
    assert engine.model.context_length is None
    assert engine.warnings == [
        f"config.json has an impossible context length, max_position_embeddings {length}:"
        " give --context, or a run ends only when it is stopped"
    ]


@pytest.mark.parametrize(
    ("length", "shown"), [(0, "0"), (-1, "-1"), (1e30, "1e+30"), ("4096", '"4096"'), (True, "true")]
)
def test_an_impossible_length_is_named(length: object, shown: str) -> None:
    assert impossible_length({"text_config": {"n_positions": length}}) == f"n_positions {shown}"


def test_an_absent_or_plausible_length_is_not_impossible() -> None:
    assert impossible_length({}) is None
    assert impossible_length({"max_position_embeddings": None, "n_positions": 4096}) is None
