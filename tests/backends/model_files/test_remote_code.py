"""Python code of a model: not run without the flag, named if it is needed, run with the flag."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from moe_watch.backends.engine import Engine
from moe_watch.backends.mlx.engine import load
from moe_watch.backends.model_files import catalog
from moe_watch.backends.model_files.remote_code import files_with_code
from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.errors import UserError
from tests.backends import tiny

TOKENIZER = """
import pathlib
from transformers import PreTrainedTokenizer

pathlib.Path({marker!r}).touch()

class OwnTokenizer(PreTrainedTokenizer):
    vocab_size = 256

    def get_vocab(self):
        return {{chr(index): index for index in range(2, 256)}} | {{"<s>": 0, "</s>": 1}}

    def _tokenize(self, text):
        return list(text)

    def _convert_token_to_id(self, token):
        return self.get_vocab().get(token, 2)

    def _convert_id_to_token(self, index):
        return {{0: "<s>", 1: "</s>"}}.get(index, chr(index))

    def convert_tokens_to_string(self, tokens):
        return "".join(tokens)

    def save_vocabulary(self, *args, **options):
        return ()
"""

CONFIG = """
import pathlib
from transformers import PreTrainedConfig

pathlib.Path({marker!r}).touch()

class OwnConfig(PreTrainedConfig):
    model_type = "kimi_k2"
"""


@pytest.fixture
def marker(tmp_path: pathlib.Path) -> pathlib.Path:
    """Exists once the model's code has run."""
    return tmp_path / "code has run"


@pytest.fixture
def with_code(tmp_path: pathlib.Path, marker: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A model whose tokenizer is Python code, as Kimi-K2's is."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder = tiny.write_model(tmp_path / "own")
    (folder / "tokenizer.json").unlink()
    (folder / "tiktoken.model").touch()
    settings = {"tokenizer_class": "OwnTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    settings |= {"auto_map": {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "tokenization_own.py").write_text(TOKENIZER.format(marker=str(marker)))
    return folder


def opened(folder: pathlib.Path, **options: Any) -> Engine:
    return load(catalog.locate(str(folder)), options=EngineOptions(**options), progress=lambda _: None)


def test_a_tokenizer_that_is_code_is_named_and_not_run(with_code: pathlib.Path, marker: pathlib.Path) -> None:
    with pytest.raises(UserError) as caught:
        opened(with_code)
    assert str(caught.value) == (
        "own needs Python code from its folder (tokenization_own.py), which is not run without your consent: "
        "read that code, then give --trust-remote-code to run it with your rights"
    )
    assert not marker.exists()


def test_a_config_that_is_code_is_named_and_not_run(with_code: pathlib.Path, marker: pathlib.Path) -> None:
    (with_code / "configuration_own.py").write_text(CONFIG.format(marker=str(marker)))
    config = json.loads((with_code / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "configuration_own.OwnConfig"}
    (with_code / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        UserError, match=r"\(configuration_own\.py, tokenization_own\.py\), which is not run without your consent"
    ):
        opened(with_code)
    assert not marker.exists()


def test_with_the_flag_the_code_runs_and_the_header_says_so(with_code: pathlib.Path, marker: pathlib.Path) -> None:
    engine = opened(with_code, trust_remote_code=True)
    assert marker.exists()
    assert engine.encode("ab", turn=False, first=False) == [97, 98]
    assert engine.backend.settings["trust_remote_code"] is True


def test_a_package_that_the_code_needs_is_named(with_code: pathlib.Path) -> None:
    (with_code / "tokenization_own.py").write_text("import a_package_of_nobody\n\nclass OwnTokenizer:\n    pass\n")
    with pytest.raises(UserError, match=r"own \(.*a_package_of_nobody.*\): install the missing package$"):
        opened(with_code, trust_remote_code=True)


def test_nothing_is_said_of_trust_that_was_not_given(tmp_path: pathlib.Path) -> None:
    assert "trust_remote_code" not in opened(tiny.write_model(tmp_path / "m")).backend.settings


def test_a_model_with_code_that_is_not_needed_is_loaded_without(tmp_path: pathlib.Path) -> None:
    """Most DeepSeek repositories name such code, and mlx-lm has its own for all of it."""
    folder = tiny.write_model(tmp_path / "m", tiny.MIXTRAL | {"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}})
    (folder / "modeling_x.py").write_text("raise SystemExit")
    assert opened(folder).warnings == []


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({}, []),
        ({"auto_map": {"AutoConfig": "configuration_x.X", "AutoModel": "other--modeling_x.X"}},
         ["configuration_x.py", "other--modeling_x.py"]),
        ({"auto_map": ["what"]}, []),
        ({"auto_map": {"AutoConfig": 5, "AutoModel": [None, "nothing"]}}, []),
        ({"model_file": "arch.py"}, ["arch.py"]),
    ],
)  # fmt: skip
def test_files_that_a_config_names(config: dict[str, Any], found: list[str], tmp_path: pathlib.Path) -> None:
    assert files_with_code(tmp_path, config) == found
    (tmp_path / "tokenizer_config.json").write_text("[" * 100_000)
    assert files_with_code(tmp_path, config) == found


def test_an_architecture_that_is_code_runs_with_the_flag_only(tmp_path: pathlib.Path, marker: pathlib.Path) -> None:
    """The settings that such code reads are unknown, unlike the settings of mlx-lm's code."""
    folder = tiny.write_model(tmp_path / "own", tiny.MIXTRAL | {"model_file": "arch.py"})
    code = "import pathlib\nfrom mlx_lm.models import mixtral\nfrom mlx_lm.models.mixtral import ModelArgs\n"
    code += f"pathlib.Path({str(marker)!r}).touch()\nclass Model(mixtral.Model):\n    pass\n"
    (folder / "arch.py").write_text(code)
    with pytest.raises(UserError, match=r"own needs Python code from its folder \(arch\.py\)"):
        opened(folder)
    assert not marker.exists()
    engine = opened(folder, trust_remote_code=True)
    assert marker.exists()
    assert engine.model.experts == 4
    assert engine.warnings == ["not known whether the model's own code applies config.json"]
