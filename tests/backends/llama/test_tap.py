"""The two callbacks on llama.cpp's graphs: their records, and their errors for unexpected tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from llama_cpp import llama_cpp as lib

from moe_watch.backends.engine import Engine
from moe_watch.backends.llama import bindings as llama_library
from moe_watch.backends.llama.bindings import check_layout
from moe_watch.backends.llama.compiler import compiled_tap
from moe_watch.backends.llama.context import ContextSettings, evaluate, new_context
from moe_watch.backends.llama.tap import compiled_tap as compiled_module
from moe_watch.backends.llama.tap import python_tap, router_rows
from moe_watch.backends.llama.tap.base import Tap
from moe_watch.backends.llama.tap.compiled_tap import CompiledTap
from moe_watch.backends.llama.tap.python_tap import PythonTap
from moe_watch.backends.llama.tap.router_rows import RouterRows
from moe_watch.backends.tap_rows import RecordedRouting
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Sampling
from tests.backends import llama_files
from tests.backends.llama_files import Open
from tests.backends.mlx.test_engine import begin, draw, logits, sets

IDS = list(range(2, 80))


@pytest.fixture(scope="module")
def open_gguf() -> Iterator[Open]:
    with llama_files.opening() as load_path:
        yield load_path


@pytest.fixture(scope="module")
def pocket(open_gguf: Open) -> Engine:
    return open_gguf("pocket")


def compiled(*, rows: int = 512, apart: bool = False) -> CompiledTap:
    """As for pocket."""
    return CompiledTap(compiled_tap(), rows=rows, layers=6, experts=8, experts_per_token=2, apart=apart)


def seen_by(tap: Tap, engine: Engine) -> list[RouterRows]:
    """Return a tap's rows of a prompt in a separate context."""
    settings = ContextSettings(context=256, threads=1, on_gpu=False, exact=True)
    context = new_context(engine._loaded.model, settings, tap)
    try:
        evaluate(context, IDS)
        return tap.pop()
    finally:
        lib.llama_free(context)


@pytest.mark.parametrize("apart", [False, True], ids=["together", "scores apart"])
@pytest.mark.parametrize("make", [compiled, PythonTap], ids=["compiled", "python"])
def test_every_layer_is_seen_once(make: Any, apart: bool, pocket: Engine) -> None:
    rows = seen_by(make(apart=apart), pocket)
    assert [each.layer for each in rows] == list(range(6))
    assert [each.experts.shape for each in rows] == [(len(IDS), 2)] * 5 + [(1, 2)]
    for each in rows:
        np.testing.assert_allclose(each.scores.sum(1), 1, atol=1e-5)
        np.testing.assert_array_equal(np.take_along_axis(each.scores, each.experts, 1), each.weights)
        best = np.sort(np.argsort(-each.scores, axis=1, kind="stable")[:, :2], axis=1)
        np.testing.assert_array_equal(np.sort(each.experts, axis=1), best)


def test_both_callbacks_see_the_same(open_gguf: Open, pocket: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    python = open_gguf("pocket")
    assert pocket.backend.tap.endswith("by a compiled callback")
    assert python.backend.tap.endswith("a callback in Python, slower: no C compiler (no-such-compiler) was found")
    assert isinstance(pocket._loaded.tap, CompiledTap)
    assert isinstance(python._loaded.tap, PythonTap)
    runs = []
    for engine in (pocket, python):
        prompt = begin(engine, prompt=list(range(2, 100)))
        runs.append(prompt + [token.routing for token in draw(engine, 40)])
    np.testing.assert_array_equal(*map(sets, runs))
    np.testing.assert_array_equal(*map(logits, runs))


def test_a_buffer_that_is_too_small_is_told(pocket: Engine) -> None:
    tap = compiled()
    tap._state.capacity = 64
    with pytest.raises(RuntimeError, match="its buffer is full"):
        seen_by(tap, pocket)
    assert tap.pop() == []


def test_tensors_of_another_type_are_told(pocket: Engine) -> None:
    tap = compiled()
    tap._state.type_f32 = 7
    with pytest.raises(RuntimeError, match="tensors have an unexpected type or shape"):
        seen_by(tap, pocket)


def test_only_nodes_that_pick_rows_are_looked_at(pocket: Engine) -> None:
    tap = compiled()
    tap._state.op_get_rows += 1
    assert seen_by(tap, pocket) == []


def test_an_error_in_python_comes_out_where_it_can(pocket: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_tap, "F32", 7)
    tap = PythonTap(apart=False)
    with pytest.raises(RuntimeError, match=r"ffn_moe_probs-5.* has type 0"):
        seen_by(tap, pocket)
    assert tap.pop() == []


def test_a_layer_without_all_rows_and_without_one_is_an_error() -> None:
    rows = RouterRows(0, np.zeros((2, 1), np.int32), np.zeros((2, 4)), np.zeros((2, 1)))
    with pytest.raises(RuntimeError, match="2 rows for 5 tokens"):
        router_rows.routing([rows], [0], 5, None)


def test_a_layer_that_was_not_computed_at_all_is_absent() -> None:
    assert router_rows.routing([], [0, 3], 5, np.log).experts == [None, None]
    assert router_rows.routing([], [0, 3], 5, np.log).logits == [None, None]


def test_a_layer_in_several_pieces_is_put_together() -> None:
    pieces = [RouterRows(0, np.full((n, 1), n, np.int32), np.ones((n, 4)), np.ones((n, 1))) for n in (2, 3)]
    routing = router_rows.routing(pieces, [0], 5, np.log)
    scored = router_rows.routing(pieces, [0], 5, np.log, is_scored=True)
    for each in (routing, scored):
        assert each.experts[0].ravel().tolist() == [2, 2, 3, 3, 3]
        assert each.logits[0].tolist() == np.zeros((5, 4)).tolist()


def test_another_layout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_layout()

    class Longer(ctypes.Structure):
        _fields_ = (("added", ctypes.c_int64), *llama_library.GgmlTensor._fields_)

    monkeypatch.setattr(llama_library, "GgmlTensor", Longer)
    with pytest.raises(UserError, match="has another tensor layout than moe-watch expects"):
        check_layout()


def test_routing_stays_as_it_was_read_when_the_buffer_is_full(pocket: Engine) -> None:
    """Rows are views of the tap's buffer, which later tokens must not overwrite."""
    begin(pocket, Sampling(seed=1))
    read = [token.routing for token in draw(pocket, 3 * compiled_module.TOKENS_IN_BUFFER)]
    kept = [np.array(routing.logits) for routing in read[:5]]
    draw(pocket, 3 * compiled_module.TOKENS_IN_BUFFER)
    for before, routing in zip(kept, read, strict=False):
        np.testing.assert_array_equal(np.array(routing.logits), before)
    assert len({id(routing.buffer) for routing in read if isinstance(routing, RecordedRouting)}) > 1
