"""Forks of models with other kinds of cache: windows, recurrent states, both, compressed, in chunks."""

from __future__ import annotations

import pathlib
import shutil

import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from moe_watch.backends.engine import Engine
from moe_watch.routing.events import Sampling
from tests.backends import llama_files, tiny
from tests.backends.conftest import load_folder
from tests.backends.engines.test_fork import Facts, facts, settle
from tests.backends.mlx.test_engine import draw

MODELS = pathlib.Path(__file__).parents[2] / "truth" / "models"
SAMPLED = Sampling(seed=5, stop="never")
BEFORE, AFTER = 30, 30
KINDS = ["gpt_oss", "lfm2_moe", "jamba", "qwen3_next", "kimi_linear", "deepseek_v2"]


def begin(engine: Engine) -> None:
    engine.reset()
    engine.configure(SAMPLED, reseed=True)
    prompt = [2 + 7 * n % (engine.vocabulary - 3) for n in range(30)]
    assert len(list(engine.prefill(prompt, lambda _: None))) >= 1


def assert_forks_leave_no_trace(engine: Engine) -> None:
    begin(engine)
    expected = facts(draw(engine, BEFORE + AFTER))
    begin(engine)
    drawn: list[Facts] = facts(settle(engine, BEFORE))
    with engine.fork() as rewind:
        for seed in range(3):
            rewind()
            assert drawn + facts(settle(engine, AFTER)) == expected
            rewind()
            engine.configure(Sampling(seed=seed), reseed=True)
            list(engine.prefill([5, 6, 7], lambda _: None))
            settle(engine, AFTER)
    assert drawn + facts(settle(engine, AFTER)) == expected


@pytest.mark.parametrize("name", [*KINDS, "llama4_text", "deepseek_v32"])
def test_mlx(name: str, tmp_path: pathlib.Path) -> None:
    folder = pathlib.Path(shutil.copytree(MODELS / name, tmp_path / name))
    tiny.write_tokenizer(folder)
    assert_forks_leave_no_trace(load_folder(folder))


@pytest.mark.parametrize("name", [*KINDS, "granitemoehybrid", "gemma4_text"])
def test_llama_cpp(name: str) -> None:
    with llama_files.opening() as open_gguf:
        assert_forks_leave_no_trace(open_gguf(MODELS / name / "model.gguf"))
