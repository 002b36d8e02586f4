"""llama.cpp must route pocket's GGUF exactly as `transformers` routes the safetensors."""

from __future__ import annotations

import ctypes
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from llama_cpp import llama_cpp as llama
from tokenizers import Tokenizer

Floats = npt.NDArray[np.float32]
Golden = dict[str, npt.NDArray[Any]]
TOLERANCE = 1e-3
GGML_TYPE_F32 = 0


def ggml_library() -> ctypes.CDLL:
    """The library that holds tensors, with the three functions that read one."""
    folder = pathlib.Path(llama.__file__).with_name("lib")
    (path,) = (path for path in folder.glob("libggml-base.*") if path.suffix in (".so", ".dylib"))
    library = ctypes.CDLL(str(path))
    library.ggml_get_name.restype, library.ggml_get_name.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    library.ggml_nbytes.restype, library.ggml_nbytes.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
    library.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    return library


class RouterReader:
    """Keeps the router logits of every layer of a pass, by layer."""

    def __init__(self) -> None:
        self.logits: dict[int, Floats] = {}
        self.library = ggml_library()
        self.callback = llama.ggml_backend_sched_eval_callback(self._on_node)

    def _on_node(self, tensor: int, ask: bool, user_data: object) -> bool:
        name, _, layer = self.library.ggml_get_name(tensor).decode().partition("-")
        wanted = name == "ffn_moe_logits" and layer.isdigit()
        if wanted and not ask:
            values = np.empty(self.library.ggml_nbytes(tensor) // 4, np.float32)
            self.library.ggml_backend_tensor_get(tensor, values.ctypes.data, 0, values.nbytes)
            self.logits[int(layer)] = values
        return wanted or not ask


@llama.llama_log_callback
def silent(level: int, text: bytes, user_data: object) -> None:
    """llama.cpp's log is of no use in a test."""


@pytest.fixture(scope="module")
def model(pocket_folder: pathlib.Path) -> Iterator[Any]:
    llama.llama_log_set(silent, ctypes.c_void_p(0))
    path = str(pocket_folder / "pocket.gguf").encode()
    loaded = llama.llama_model_load_from_file(path, llama.llama_model_default_params())
    assert loaded, "llama.cpp could not load pocket.gguf"
    yield loaded
    llama.llama_model_free(loaded)


def evaluate(model: Any, ids: list[int], vocabulary: int) -> tuple[Floats, Floats]:
    """Router logits [T, L, E] and output logits [T, vocabulary], with nothing rounded on the way."""
    reader = RouterReader()
    settings = llama.llama_context_default_params()
    settings.n_ctx, settings.n_threads, settings.n_threads_batch = 256, 1, 1
    settings.type_k = settings.type_v = GGML_TYPE_F32
    settings.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.cb_eval = reader.callback
    context = llama.llama_init_from_model(model, settings)
    batch = llama.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for position, token in enumerate(ids):
        batch.token[position], batch.pos[position], batch.logits[position] = token, position, True
        batch.n_seq_id[position], batch.seq_id[position][0] = 1, 0
    assert llama.llama_decode(context, batch) == 0
    outputs = np.ctypeslib.as_array(llama.llama_get_logits(context), (len(ids), vocabulary)).copy()
    llama.llama_batch_free(batch)
    llama.llama_free(context)
    layers = [reader.logits[layer].reshape(len(ids), -1) for layer in sorted(reader.logits)]
    return np.stack(layers, axis=1), outputs


@pytest.fixture(scope="module")
def evaluated(model: Any, golden: Golden, pocket_config: dict[str, Any]) -> tuple[Floats, Floats]:
    return evaluate(model, golden["ids"].tolist(), pocket_config["vocab_size"])


def test_llama_routes_as_transformers(evaluated: tuple[Floats, Floats], golden: Golden) -> None:
    router_logits, output_logits = evaluated
    k = golden["experts"].shape[-1]
    selected = np.argsort(-router_logits, axis=-1, kind="stable")[..., :k]
    np.testing.assert_array_equal(np.sort(selected, axis=-1), np.sort(golden["experts"], axis=-1))
    np.testing.assert_allclose(router_logits, golden["router_logits"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(output_logits[-1], golden["last_logits"], rtol=0, atol=TOLERANCE)


def test_llama_continues_greedily_as_transformers(evaluated: tuple[Floats, Floats], golden: Golden) -> None:
    first = int(golden["prompt_tokens"])
    np.testing.assert_array_equal(evaluated[1][first - 1 : -1].argmax(axis=-1), golden["ids"][first:])


@pytest.mark.parametrize("text", ["def f(x):\n    return x", "naïve 🐍 — 中文\t\r\n", "  spaces  it's 1234567 "])
def test_llama_reads_text_as_the_tokenizer_does(model: Any, pocket_folder: pathlib.Path, text: str) -> None:
    expected = Tokenizer.from_file(str(pocket_folder / "tokenizer.json")).encode(text).ids
    found = (ctypes.c_int32 * 256)()
    raw = text.encode()
    count = llama.llama_tokenize(llama.llama_model_get_vocab(model), raw, len(raw), found, 256, True, False)
    assert list(found[:count]) == expected
