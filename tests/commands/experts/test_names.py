"""Names of files that are not UTF-8: results can be read, and models are refused in one line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from moe_watch.commands.app import run
from moe_watch.sessions.experts.profile_file import read_profile
from tests.commands.test_bad_input import complaint

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")
POCKET = Path(__file__).parents[3] / "backends" / "pocket" / "pocket.gguf"


@pytest.fixture
def named(tmp_path):
    """Return a path whose name has a byte that is not UTF-8."""

    def named(ending):
        path = tmp_path / os.fsdecode(b"x\xff" + ending)
        try:
            path.touch()
        except OSError:
            pytest.skip("this file system has UTF-8 names only")
        path.unlink()
        return path

    return named


@pytest.mark.model
def test_a_profile_is_read_again_and_prunes(named, capsys):
    corpus, output, model = named(b".jsonl"), named(b".json"), named(b"-pruned")
    corpus.write_text(
        "".join(json.dumps({"text": f"def f{at}(x):\n    return x + {at}\n" * 4}) + "\n" for at in range(9))
    )
    options = ["--backend", "llama.cpp", "--saliency", "--window", "32", "-o", str(output)]
    assert run(["profile", "pocket", "--corpus", str(corpus), *options]) == 0
    assert read_profile(output).profile.calibration_corpus.endswith("x�.jsonl")
    capsys.readouterr()
    arguments = ["--keep", "6", "--by", "saliency", "--from", str(output), "--json"]
    assert run(["prune", "pocket", str(model), *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["ranking"].endswith("x�.json")


@pytest.mark.parametrize(
    "arguments",
    [("profile", "--corpus"), ("ablate", "--corpus"), ("perplexity", "--text")],
    ids=["profile", "ablate", "perplexity"],
)
def test_a_model_is_refused(named, tmp_path, capsys, arguments):
    command, option = arguments
    text, model = tmp_path / "text.txt", named(b".gguf")
    text.write_text("text")
    shutil.copy(POCKET, model)
    assert "is not valid UTF-8: rename the model's file" in complaint(capsys, command, str(model), option, str(text))
