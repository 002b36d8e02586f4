"""Tokens that a model has no row for, and routers that give no number: the run is refused or stopped, and says why."""

from __future__ import annotations

import pathlib
import re

import mlx.core as mx
import numpy as np
import pytest

from moe_watch.backends.engine import Engine
from moe_watch.backends.generation.injections import prepare
from moe_watch.backends.mlx.engine import MlxEngine
from moe_watch.backends.protocol import Perturb
from moe_watch.backends.run_spec import TeacherTokens
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import State
from tests.backends import tiny
from tests.backends.conftest import load_folder
from tests.backends.scripted import Session, start

BEYOND = 258
NAME = "<extra>"


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Its tokenizer has one token more than the model has rows, as a fine-tune's may have."""
    folder = tiny.write_model(tmp_path_factory.mktemp("m") / "wide", chat_template=tiny.CHAT_TEMPLATE)
    tokenizer = tiny.byte_tokenizer()
    tokenizer.add_special_tokens([NAME])
    assert tokenizer.token_to_id(NAME) == BEYOND
    tokenizer.save(str(folder / "tokenizer.json"))
    return load_folder(folder)


REFUSED = (
    r"token 258 \('<extra>'\) is not in the embedding of wide, which has 258 rows: use the tokenizer that the model was"
)


@pytest.mark.parametrize("turn", [False, True])
def test_a_prompt_with_a_token_beyond_the_embedding_is_refused(wide: Engine, turn: bool) -> None:
    with pytest.raises(UserError, match=REFUSED):
        wide.encode(f"a{NAME}b", turn=turn, first=True)


def test_a_text_with_a_token_beyond_the_embedding_is_not_injected(wide: Engine) -> None:
    with pytest.raises(UserError, match=REFUSED):
        prepare(Perturb(text=f"a{NAME}", form="raw"), wide, fresh_room=0)


@pytest.mark.parametrize("token", [BEYOND, 5_000_000, -1])
def test_given_tokens_beyond_the_embedding_are_not_evaluated(wide: Engine, token: int) -> None:
    wide.reset()
    with pytest.raises(UserError, match=rf"token {token} .* is not in the embedding of wide"):
        list(wide.prefill([2, token, 3], lambda _: None))
    list(wide.prefill([2, 3], lambda _: None))
    with pytest.raises(UserError, match=rf"token {token} .* is not in the embedding of wide"):
        wide.force([5, token])


def test_anothers_tokens_beyond_the_vocabulary_are_refused(wide: Engine) -> None:
    session = Session(wide).run(start(teacher=[TeacherTokens("prompt", [2, BEYOND], "!")]))
    (state,) = [item for item in session.items if isinstance(item, State)]
    assert state.message is not None
    assert f"has token {BEYOND}, the vocabulary of wide ends at 257" in state.message


def test_a_prompt_beyond_the_embedding_ends_a_run_with_the_reason(wide: Engine) -> None:
    session = Session(wide).run(start(f"a{NAME}", raw=True))
    assert session.states == [("error", None, 0)]
    assert session.tokens == []


def test_an_end_of_text_beyond_the_vocabulary_is_said(tmp_path: pathlib.Path) -> None:
    folder = tiny.write_model(tmp_path / "m", tiny.MIXTRAL | {"eos_token_id": [1, 999]})
    assert load_folder(folder).warnings == ["end-of-text tokens 999 are not in the vocabulary"]


def test_a_model_that_can_draw_more_than_it_can_read_is_refused(tmp_path: pathlib.Path) -> None:
    folder = tiny.write_model(tmp_path / "m")
    tensors = mx.load(str(folder / "model.safetensors"))
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:200]
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    with pytest.raises(UserError, match="cannot load"):
        load_folder(folder)


# -- routers


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "nan"), (float("inf"), "(nan|inf|-inf)")])
def test_a_router_that_gives_no_number_stops_the_run(tmp_path: pathlib.Path, value: float, said: str) -> None:
    """The model could continue with its other experts; the numbers of that layer are lost, and no mean may hide it."""
    folder = tiny.write_model(tmp_path / "m")
    tensors = mx.load(str(folder / "model.safetensors"))
    name = "model.layers.1.block_sparse_moe.gate.weight"
    gate = np.array(tensors[name])
    gate[2, 0] = value
    mx.save_safetensors(str(folder / "model.safetensors"), tensors | {name: mx.array(gate)})
    session = Session(load_folder(folder)).run(start("abc", tokens=5))
    assert session.tokens == []
    (state,) = [item for item in session.items if isinstance(item, State)]
    assert (state.state, state.i) == ("error", 0)
    assert re.match(
        rf"the router of layer 1 outputs {said} for expert 2: damaged weights, or an overflow", state.message
    )


def test_a_router_that_gives_no_number_for_a_later_token_stops_the_run_there(tmp_path: pathlib.Path) -> None:
    engine = load_folder(tiny.write_model(tmp_path / "m"))
    assert isinstance(engine, MlxEngine)
    engine.reset()
    list(engine.prefill([2, 3, 4], lambda _: None))
    engine.draw(last=True)
    gate = engine._loaded.model.layers[0].block_sparse_moe.gate
    gate.weight = mx.where(mx.arange(4)[:, None] == 3, mx.nan, gate.weight)
    with pytest.raises(UserError, match="the router of layer 0 outputs nan for expert 3"):
        engine.draw(last=True)
