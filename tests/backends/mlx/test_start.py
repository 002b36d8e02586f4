"""The embedded model starts without transformers, and computes the same as with it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import mlx_lm.utils
import numpy as np
import pytest

from moe_watch.backends.mlx.engine import load
from moe_watch.backends.model_files.catalog import POCKET_FOLDER, ModelLocation, locate
from moe_watch.backends.protocol import EngineOptions
from moe_watch.backends.text.tokenizer import TextCodec
from moe_watch.backends.text.tokenizer_file import TokenizerFile
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Sampling

TEXTS = ("", "The", " the  river\n\nran", "naïve — 模型 \N{ROCKET}", "</s> and <s>", "\x00\ud7ff", "a" * 5000)


@pytest.fixture(scope="module")
def full() -> Any:
    return mlx_lm.utils.load_tokenizer(POCKET_FOLDER, eos_token_ids=1)


def test_the_tokenizer_is_the_one_that_transformers_builds(full: Any) -> None:
    light = TokenizerFile(POCKET_FOLDER, [1])
    assert light.backend_tokenizer.to_str() == full.backend_tokenizer.to_str()
    assert light.eos_token_ids == full.eos_token_ids
    assert light.has_chat_template == full.has_chat_template
    for text in TEXTS:
        for special in (True, False):
            ids = light.encode(text, add_special_tokens=special)
            assert ids == full.encode(text, add_special_tokens=special)
            assert light.decode(ids, skip_special_tokens=False) == full.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("text", TEXTS)
def test_special_tokens_that_a_text_spells_are_plain_text_when_asked_for(full: Any, text: str) -> None:
    """The codec of a folder is over the tokenizer that transformers builds, the embedded model's over the file."""
    light, spells = TokenizerFile(POCKET_FOLDER, [1]), "</s>" in text
    for first in (True, False):
        parsed, plain = (
            light.encode(text, add_special_tokens=first, split_special_tokens=each) for each in (False, True)
        )
        assert plain == full.encode(text, add_special_tokens=first, split_special_tokens=True)
        assert (plain != parsed) == spells
        assert light.decode(plain, skip_special_tokens=False).endswith(text)
        assert light.encode(text, add_special_tokens=first) == parsed


def test_runs_are_bit_identical() -> None:
    pocket = locate("pocket", "mlx")
    runs = [run(pocket), run(replace(pocket, origin="folder"))]
    assert runs[0] == runs[1]


def run(location: ModelLocation) -> list[Any]:
    engine = load(location, options=EngineOptions(), progress=lambda _: None)
    engine.configure(Sampling(seed=3, stop="never"), reseed=True)
    list(engine.prefill(engine.encode(TEXTS[3], turn=False, first=True), lambda _: None))
    detokenizer = engine.detokenizer()
    tokens = [engine.draw() for _ in range(60)]
    logits = [np.concatenate(token.routing.logits).tobytes() for token in tokens]
    facts = [(t.id, t.logprob, t.top_margin, t.choice_gap, detokenizer.add(t.id)) for t in tokens]
    return [engine.model, engine.backend, engine.warnings, engine.vocabulary, logits, facts]


def test_a_turn_is_refused_as_the_model_has_no_template() -> None:
    codec: TextCodec = load(locate("pocket", "mlx"), options=EngineOptions(), progress=lambda _: None)._loaded.text
    with pytest.raises(UserError, match=r"the chat template of pocket fails \(the model has none\): use --raw"):
        codec.encode_turn("hello")


def in_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


LOAD = """
import sys
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions
def load(location):
    return catalog.load_engine("mlx", location, options=EngineOptions(), progress=lambda _: None)
pocket = catalog.locate("pocket", "mlx")
"""


def test_the_embedded_model_imports_no_transformers_and_others_do() -> None:
    heavy = "print(sorted({'transformers', 'huggingface_hub'} & sys.modules.keys()))\n"
    both = "from dataclasses import replace\nother = load(replace(pocket, origin='folder'))\n"
    registered = (
        "from mlx_lm import tokenizer_utils\nimport transformers\n"
        "print(issubclass(tokenizer_utils.NewlineTokenizer, transformers.PreTrainedTokenizerFast))\n"
    )
    printed = in_python(f"{LOAD}engine = load(pocket)\n{heavy}{both}{heavy}{registered}")
    assert printed.splitlines() == ["[]", "['huggingface_hub', 'transformers']", "True"]


def test_an_mlx_lm_that_needs_more_of_transformers_is_imported_with_it() -> None:
    code = (
        "import sys\nfrom moe_watch.backends.system import deferred_imports\n"
        "del deferred_imports.NAMES['transformers']['PreTrainedTokenizerFast']\n"
        "deferred_imports.import_mlx_lm()\n"
        "print([name for name in ('mlx_lm', 'transformers', 'huggingface_hub') if name in sys.modules])\n"
        "from mlx_lm.tokenizer_utils import AutoTokenizer\nprint(AutoTokenizer.__module__.split('.')[0])\n"
    )
    assert in_python(code).splitlines() == ["[]", "transformers"]
