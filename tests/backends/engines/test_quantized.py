"""Quantised models, made with the engines' own quantisers: they run, record and replay, and their routing drifts."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

from moe_watch.backends.model_files import catalog
from moe_watch.backends.model_files.gguf import read_gguf
from moe_watch.commands.app import run
from moe_watch.routing.events import Header
from moe_watch.routing.router.agreement import Agreement
from moe_watch.sessions.comparing.tokens import compare_tokens
from moe_watch.sessions.reading.reader import read_session
from tests.backends import tiny
from tests.backends.quantized import Variant, made, quantize_folder, quantize_gguf, record

SHAPE = tiny.MIXTRAL | {"hidden_size": 256, "intermediate_size": 256}
"""Rows of 256, as K-quants need them."""
KINDS = ("Q8_0", "Q4_K_M", "8-bit", "4-bit")
PROMPT = "def parse("
PROMPT_TOKENS = len(PROMPT) + 1
"""One token for each byte, and the token that begins the text."""
TOKENS = 40

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Variant]:
    """Return one random model, stored in each format."""
    folder = tmp_path_factory.mktemp("quantized")
    plain, file = made(SHAPE, folder)
    found = {"float32": Variant("llama.cpp", "float32", file)}
    for kind in KINDS[:2]:
        found[kind] = Variant("llama.cpp", kind, quantize_gguf(file, folder / f"{kind}.gguf", kind))
    for kind, bits in zip(KINDS[2:], (8, 4), strict=True):
        found[kind] = Variant("mlx", kind, quantize_folder(plain, folder / kind, bits))
    return found


@dataclass(frozen=True)
class Recorded:
    """A session, and the summary that was printed when it was recorded."""

    path: Path
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def recorded(models: dict[str, Variant], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recorded]:
    """Each of them over the tokens that float32 drew."""
    folder = tmp_path_factory.mktemp("recorded")
    paths = {name: folder / f"{name}.moe.jsonl" for name in models}
    own = ("--prompt", PROMPT, "--tokens", str(TOKENS), "--seed", "3")
    options = {name: ("--teacher", str(paths["float32"])) for name in models} | {"float32": own}
    return {
        name: Recorded(path, record(models[name], path, "--chunk-size", "2", *options[name]))
        for name, path in paths.items()
    }


def header(session: Recorded) -> Header:
    with closing(read_session(session.path)) as reader:
        return reader.header


def drift(recorded: dict[str, Recorded], kind: str) -> Agreement:
    found = compare_tokens(recorded["float32"].path, recorded[kind].path)
    assert not isinstance(found, str)
    assert (found.tokens, found.ended) == (PROMPT_TOKENS + TOKENS, "")
    assert found.routing is not None
    return found.routing


@pytest.mark.parametrize("kind", KINDS)
def test_a_replay_shows_the_numbers_of_the_run(
    recorded: dict[str, Recorded], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    session = recorded[kind]
    assert session.summary["tokens"] == {"prompt": PROMPT_TOKENS, "injected": 0, "generated": TOKENS}
    assert session.summary["pressure"]["fit"] is not None
    assert run(["replay", str(session.path), "--headless", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == session.summary


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_there_and_routing_is_much_the_same(recorded: dict[str, Recorded], kind: str) -> None:
    routing = drift(recorded, kind)
    assert routing.rows.tolist() == [PROMPT_TOKENS + TOKENS, TOKENS + 1]
    assert (routing.weighed == routing.rows).all()
    kept = routing.kept.sum() / routing.choices.sum()
    assert kept > (0.9 if kind in {"Q8_0", "8-bit"} else 0.65)


@pytest.mark.parametrize(("fine", "coarse"), [KINDS[:2], KINDS[2:]])
def test_fewer_bits_drift_further(recorded: dict[str, Recorded], fine: str, coarse: str) -> None:
    near, far = drift(recorded, fine), drift(recorded, coarse)
    assert near.sets.sum() > far.sets.sum()
    assert near.usage_distance.mean() < far.usage_distance.mean()


def test_headers_name_the_types_that_the_tensors_really_have(recorded: dict[str, Recorded]) -> None:
    said = {name: header(session).model.quantization for name, session in recorded.items()}
    assert said["float32"] is None
    assert said["Q8_0"] == "Q8_0 99 %, F32 under 1 %"
    assert said["Q4_K_M"] is not None
    assert [part.split()[0] for part in said["Q4_K_M"].split(", ")] == ["Q4_K", "Q6_K", "F32"]
    assert (said["8-bit"], said["4-bit"]) == ("8-bit affine, groups of 64", "4-bit affine, groups of 64")


def test_the_header_names_whose_tokens_were_taken(recorded: dict[str, Recorded]) -> None:
    teacher = header(recorded["4-bit"]).teacher
    assert teacher is not None
    assert (teacher.backend, teacher.quantization) == ("llama.cpp", None)


def test_rows_too_short_for_a_k_quant_are_stored_otherwise(tmp_path: Path) -> None:
    path = quantize_gguf(catalog.POCKET_GGUF, tmp_path / "pocket.gguf", "Q4_K_M")
    types = {tensor.name: tensor.dtype for tensor in read_gguf(path).tensors}
    assert types["blk.0.ffn_gate_exps.weight"] == "Q5_0"
    assert types["blk.0.ffn_down_exps.weight"] in {"Q4_K", "Q6_K"}
    assert types["blk.0.ffn_gate_inp.weight"] == "F32"


def test_what_llama_cpp_cannot_quantise_is_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=r"llama\.cpp cannot quantise"):
        quantize_gguf(broken, tmp_path / "out.gguf", "Q8_0")
