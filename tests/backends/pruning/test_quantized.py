"""Pruned files with quantized experts against the whole file with the same experts masked, on llama.cpp.

Weights are copied, so the router's own product is all that may differ: it has fewer columns. In a batch, ggml
multiplies float32 matrices in another order of additions if the number of rows is no multiple of four. Quantized layers
round their inputs to 8 bits and amplify this; the tests show that nothing else differs.
"""

from __future__ import annotations

import ctypes
import pathlib
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from llama_cpp import llama_cpp as lib

from moe_watch.backends.llama.bindings import GgmlTensor, tensor_get, tensor_set
from moe_watch.backends.llama.context import ContextSettings, evaluate, new_context
from moe_watch.backends.llama.engine import LlamaEngine
from moe_watch.backends.llama.loading import load_model
from moe_watch.backends.llama.model import open_model
from moe_watch.backends.model_files import catalog
from moe_watch.backends.model_files.gguf import read_gguf
from moe_watch.backends.protocol import EngineOptions
from moe_watch.backends.prune_record import record_of_gguf
from moe_watch.routing.router.masks import ExpertMask
from tests.backends import llama_files, tiny
from tests.backends.pruning.pruned_files import Kept, mask_of, prune
from tests.backends.quantized import quantize_gguf
from tests.truth.llama_comparison import ignore, run_pieces
from tests.truth.mlx_comparison import Array, EngineRun

EXPERTS, KEEP = 8, 6
CONFIG: dict[str, Any] = tiny.MIXTRAL | {
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_local_experts": EXPERTS,
    "num_hidden_layers": 3,
}
"""Rows of 256 numbers, as K-quants need them."""
IDS = [tiny.BOS, *(random.Random(3).randrange(2, 258) for _ in range(127))]
SAME_SETS = 0.99
LOGITS, WEIGHTS = "ffn_moe_logits", "ffn_moe_weights_norm"
NAMED = re.compile(rf"({LOGITS}|{WEIGHTS})-(\d+)")


@pytest.fixture(scope="module", params=["F16", "Q4_K_M", "Q8_0", "IQ4_NL", "MXFP4_MOE"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, ...]:
    """A whole file with experts of one type, and the pruned one."""
    folder = tmp_path_factory.mktemp(request.param)
    whole = quantize_gguf(llama_files.write_gguf(folder / "f32.gguf", CONFIG), folder / "whole.gguf", request.param)
    prune(whole, folder / "pruned.gguf", keep=KEEP)
    return whole, folder / "pruned.gguf"


def kept_of(pruned: pathlib.Path) -> Kept:
    record = record_of_gguf(read_gguf(pruned))
    assert record is not None
    return record.kept


def run(path: pathlib.Path, pieces: list[list[int]], mask: ExpertMask | None = None) -> EngineRun:
    loaded = load_model(catalog.locate(str(path)), options=EngineOptions(threads=1), progress=ignore)
    engine = LlamaEngine(loaded)
    try:
        if mask is not None:
            engine.mask(mask)
        return run_pieces(engine, loaded, pieces)
    finally:
        engine.close()


@pytest.mark.parametrize("pieces", [[IDS], [[token] for token in IDS]], ids=["at once", "token by token"])
def test_the_same_experts_are_selected(files: tuple[pathlib.Path, ...], pieces: list[list[int]]) -> None:
    whole, pruned = files
    kept = kept_of(pruned)
    numbers = np.array(list(kept.values()))
    seen, expected = run(pruned, pieces), run(whole, pieces, mask_of(kept, EXPERTS))
    computed = expected.experts[..., 0] >= 0
    original = numbers[np.arange(len(numbers))[None, :, None], seen.experts]
    same = (np.sort(original) == np.sort(expected.experts)).all(-1)[computed]
    assert same.mean() >= SAME_SETS


def test_token_by_token_the_output_is_the_same(files: tuple[pathlib.Path, ...]) -> None:
    """The products of single rows do not depend on the number of rows."""
    whole, pruned = files
    pieces = [[token] for token in IDS]
    seen, expected = run(pruned, pieces), run(whole, pieces, mask_of(kept_of(pruned), EXPERTS))
    largest = np.abs(seen.output_logits - expected.output_logits).max(-1)
    assert (largest < 1e-4).mean() >= SAME_SETS


def test_without_the_mask_the_whole_file_selects_others(files: tuple[pathlib.Path, ...]) -> None:
    whole, pruned = files
    numbers = np.array(list(kept_of(pruned).values()))
    seen, expected = run(pruned, [IDS]), run(whole, [IDS])
    original = numbers[np.arange(len(numbers))[None, :, None], seen.experts]
    assert (np.sort(original) == np.sort(expected.experts)).all(-1).mean() < 0.9


# -- with the same router


class Nodes:
    """Callback of a context that reads the router's nodes, and may write into them first."""

    user_data = None

    def __init__(self, change: Callable[[str, int, Array], Array | None]) -> None:
        self.callback = lib.ggml_backend_sched_eval_callback(self._call)
        self.seen: dict[tuple[str, int], Array] = {}
        """Values as they were computed, before a change."""
        self._change = change

    def _call(self, address: int, ask: bool, _: Any) -> bool:
        node = GgmlTensor.from_address(address)
        found = NAMED.fullmatch(node.name.decode())
        if found is None or ask:
            return found is not None or not ask
        name, layer = found[1], int(found[2])
        values = np.empty((node.ne[1] * node.ne[2], node.ne[0]), np.float32)
        tensor_get(ctypes.addressof(node), values.ctypes.data, 0, values.nbytes)
        self.seen[name, layer] = values.copy()
        changed = self._change(name, layer, values)
        if changed is not None:
            changed = np.ascontiguousarray(changed, np.float32)
            tensor_set(ctypes.addressof(node), changed.ctypes.data, 0, changed.nbytes)
        return True


def nodes_of(
    path: pathlib.Path, change: Callable[[str, int, Array], Array | None]
) -> tuple[dict[tuple[str, int], Array], Array]:
    """Router nodes and the last token's logits [V] of one batch."""
    parts, size = [read_gguf(path)], path.stat().st_size
    opened = open_model(catalog.locate(str(path)), parts, EngineOptions(threads=1), size, ignore)
    nodes = Nodes(change)
    settings = ContextSettings(context=512, threads=1, on_gpu=False, exact=True)
    context = new_context(opened.handle, settings, nodes)  # type: ignore[arg-type]  # no tap, but called the same way
    try:
        evaluate(context, IDS)
        last = np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), (CONFIG["vocab_size"],)).copy()
    finally:
        lib.llama_free(context)
        lib.llama_model_free(opened.handle)
    return nodes.seen, last


def test_the_router_s_rounding_is_the_only_difference(files: tuple[pathlib.Path, ...]) -> None:
    """With the masked run's router outputs written into the pruned run, all else is bit-identical."""
    whole, pruned = files
    kept = kept_of(pruned)

    def switch_off(name: str, layer: int, values: Array) -> Array | None:
        if name == LOGITS:
            values[:, [expert for expert in range(EXPERTS) if expert not in kept[layer]]] = -np.inf
            return values
        return None

    masked, expected = nodes_of(whole, switch_off)

    def of_masked_run(name: str, layer: int, _: Array) -> Array:
        found = masked[name, layer]
        return found[:, kept[layer]] if name == LOGITS else found

    seen, logits = nodes_of(pruned, of_masked_run)
    for layer in kept:
        of_masked = masked[LOGITS, layer][:, kept[layer]]
        assert np.abs(seen[LOGITS, layer] - of_masked).max() < 1e-4
    np.testing.assert_array_equal(logits, expected)
