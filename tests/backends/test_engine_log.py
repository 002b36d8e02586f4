"""Warnings that an engine logs while it loads a model are in the header: each kind of message once, and counted."""

from __future__ import annotations

import logging
import pathlib
import warnings
from typing import Any

import pytest

from moe_watch.backends import engine_log
from moe_watch.backends.engine_log import summarize
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions
from tests.backends import pocket_variants
from tests.backends.pocket_variants import TYPES, number

BOS = "tokenizer.ggml.bos_token_id"

FIELD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no pre-tokenizer": (
        {"dropped": ["tokenizer.ggml.pre"]},
        [
            "llama.cpp logs: missing pre-tokenizer type, using: 'default'",
            "llama.cpp logs: GENERATION QUALITY WILL BE DEGRADED!",
            "llama.cpp logs: CONSIDER REGENERATING THE MODEL",
        ],
    ),
    "first token out of range": (
        {"changed": {BOS: number(99_999)}},
        [f"llama.cpp logs: bad special token: '{BOS}' = 99999, using default id 11"],
    ),
    "last token is -1": (
        {"changed": {"tokenizer.ggml.eos_token_id": number(2**32 - 1)}},
        [
            "llama.cpp logs: bad special token: 'tokenizer.ggml.eos_token_id' = 4294967295, using default id 11",
            "llama.cpp logs: special_eos_id is not in special_eog_ids - the tokenizer config may be incorrect",
        ],
    ),
    "no last token": (
        {"dropped": ["tokenizer.ggml.eos_token_id"]},
        ["llama.cpp logs: special_eos_id is not in special_eog_ids - the tokenizer config may be incorrect"],
    ),
    "the default pre-tokenizer": ({"changed": {"tokenizer.ggml.pre": (TYPES.STRING, "default")}}, []),
    "nothing wrong": ({}, []),
}


@pytest.mark.parametrize("case", FIELD)
def test_what_llama_cpp_warns_of_stands_in_the_header(case: str, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")
    variant, expected = FIELD[case]
    location = catalog.locate(str(pocket_variants.write(tmp_path / "m.gguf", **variant)))
    engine = catalog.load_engine("llama.cpp", location, options=EngineOptions(threads=1), progress=lambda _: None)
    try:
        assert [warning for warning in engine.warnings if warning.startswith("llama.cpp logs")] == expected
    finally:
        engine.close()


def test_messages_that_differ_in_names_and_numbers_are_one_line() -> None:
    said = [
        "model has unused tensor blk.0.extra.weight (size = 256 bytes) -- ignoring",
        "model has unused tensor blk.1.other_name.weight (size = 16 bytes) -- ignoring",
        "************",
        "  ",
        "no pre-tokenizer",
        "no pre-tokenizer",
        "token 7 '<a>' is odd\x1b[31m\n",
        "token 8 '<b c>' is odd\x1b[31m\n",
        'token 9 "x" is odd\x1b[31m\n',
    ]
    assert summarize("engine", said) == [
        "engine logs: model has unused tensor blk.0.extra.weight (size = 256 bytes) -- ignoring (and 1 more like it)",
        "engine logs: no pre-tokenizer",
        "engine logs: token 7 '<a>' is odd [31m (and 2 more like it)",
    ]
    [long] = summarize("engine", ["x" * 10_000])
    assert long == f"engine logs: {'x' * engine_log.LONGEST}…", "that it was cut off is seen"


def test_what_python_packages_warn_of_is_heard_and_still_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: shown.append(str(message)))
    apart = logging.getLogger("tests.apart")
    apart.propagate = False
    try:
        with warnings.catch_warnings(), engine_log.captured_warnings() as said:
            warnings.simplefilter("always")
            warnings.warn("the tokenizer is odd", UserWarning, stacklevel=1)
            logging.getLogger("tests.any").warning("%d keys are unused", 3)
            apart.error("no such template")
            apart.info("all is well")
    finally:
        apart.propagate = True
    assert said == [("", "the tokenizer is odd"), ("tests", "3 keys are unused"), ("tests", "no such template")]
    logging.getLogger("tests.any").warning("later")
    assert len(said) == 3
    assert shown == ["the tokenizer is odd"]


def test_warnings_of_a_loading_engine_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "showwarning", lambda *_: None)

    class Loaded:
        warnings = ("known",)

    class Module:
        @staticmethod
        def load(*_: Any, **__: Any) -> Loaded:
            logging.getLogger("transformers.tokenization").warning("a slow tokenizer")
            logging.getLogger().warning("weights are odd")
            installed = "/lib/python3.11/site-packages/mlx_lm/utils.py"
            warnings.warn_explicit("an old format", UserWarning, installed, 1)
            return Loaded()

    monkeypatch.setattr(catalog.importlib, "import_module", lambda _: Module)
    location = catalog.locate("pocket", "mlx")
    engine = catalog.load_engine("mlx", location, options=EngineOptions(), progress=lambda _: None)
    assert engine.warnings == [
        "known",
        "transformers logs: a slow tokenizer",
        "mlx logs: weights are odd",
        "mlx-lm logs: an old format",
    ]
