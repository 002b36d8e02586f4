"""Another number of experts per token on MLX: a changed config, checked before and after loading."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest

from moe_watch.backends.engine import Engine
from moe_watch.backends.mlx import open_model
from moe_watch.backends.mlx.engine import load
from moe_watch.backends.mlx.memory_sizes import engine_sizes
from moe_watch.backends.model_files import catalog
from moe_watch.backends.model_files.selected_experts import own_experts_per_token, with_experts_per_token
from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.errors import UserError
from tests.backends import tiny
from tests.backends.mlx.test_engine import PROMPT, begin, sets
from tests.backends.reference import reference


def load_with(folder: pathlib.Path, k: int | None) -> Engine:
    return load(catalog.locate(str(folder)), options=EngineOptions(experts_per_token=k), progress=lambda _: None)


def test_another_number_is_selected(mixtral_folder: pathlib.Path, changed: Callable[..., pathlib.Path]) -> None:
    engine = load_with(mixtral_folder, 3)
    found = sets(begin(engine))
    assert found.shape == (len(PROMPT), 2, 3)
    written = changed(mixtral_folder, num_experts_per_tok=3)
    assert (found == reference(written, PROMPT, 3).sets).all()
    assert (engine.model.experts_per_token, engine.model.own_experts_per_token) == (3, 2)
    assert engine.backend.settings["experts_per_token"] == 3


def test_the_own_number_is_no_change(mixtral_folder: pathlib.Path) -> None:
    own, asked = load_with(mixtral_folder, None), load_with(mixtral_folder, 2)
    assert asked.model == own.model
    assert "experts_per_token" not in own.backend.settings
    assert asked.backend.settings["experts_per_token"] == 2


@pytest.mark.parametrize("k", [0, 5, 10**9])
def test_an_impossible_number_is_refused_before_loading(
    mixtral_folder: pathlib.Path, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_model, "load_model", lambda *_, **__: pytest.fail("mlx-lm loads the model"))
    with pytest.raises(UserError, match=rf"^--experts-per-token is {k}, and mixtral has 4 experts per layer"):
        load_with(mixtral_folder, k)


def test_groups_bound_the_number(tmp_path: pathlib.Path) -> None:
    folder = tiny.write_model(tmp_path / "m", tiny.GLM4)
    assert load_with(folder, 4).model.experts_per_token == 4
    with pytest.raises(UserError, match="is 5, and a token's 1 groups of m hold 4 experts"):
        load_with(folder, 5)


def test_a_family_that_ignores_the_number_is_refused(
    mixtral_folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = open_model.load_model
    monkeypatch.setattr(
        open_model, "load_model", lambda *args, **options: loads(*args, **options | {"model_config": {}})
    )
    with pytest.raises(UserError, match="is 3, and mlx-lm selects 2 experts in layer 0 of mixtral all the same"):
        load_with(mixtral_folder, 3)


def test_models_without_such_a_number_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="is 2, and m is a dense model"):
        load_with(tiny.write_model(tmp_path / "m", tiny.DENSE), 2)
    with pytest.raises(UserError, match=r"config.json of m has no number of experts per token"):
        with_experts_per_token({"num_experts": 8}, 2, "m")


def test_all_keys_of_a_config_are_changed() -> None:
    config = {
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_topk": [2, 3, 2],
        "text_config": {"top_k_experts": 2, "hidden_size": 64},
        "vision_config": {"num_experts_per_tok": 2},
        "ffn_config": {"moe_top_k": 2},
    }
    assert with_experts_per_token(config, 4, "m") == {
        "num_experts_per_tok": 4,
        "moe_topk": [4, 4, 4],
        "text_config": {"top_k_experts": 4, "hidden_size": 64},
        "ffn_config": {"moe_top_k": 4},
    }
    assert with_experts_per_token({"num_experts": 8, "zero_expert_num": 4, "moe_topk": 3}, 12, "m") == {"moe_topk": 12}


def test_the_own_number_may_differ_by_layer() -> None:
    assert own_experts_per_token({"num_experts_per_tok": 3}, [1, 2]) == 3
    assert own_experts_per_token({"moe_topk": [1, 2, 3]}, [1, 2]) == [2, 3]
    assert own_experts_per_token({"moe_topk": [1, 2, 2]}, [1, 2]) == 2
    assert own_experts_per_token({"hidden_size": 3}, [1, 2]) is None


def test_more_experts_take_more_memory(mixtral_folder: pathlib.Path) -> None:
    location = catalog.locate(str(mixtral_folder))

    def compute(k: int | None) -> int:
        return engine_sizes(location, EngineOptions(experts_per_token=k), lambda: 0).buffers[0].compute

    assert compute(1) < compute(2) == compute(None) < compute(4)
