"""Models whose MoE layers select different numbers of experts, as Nemotron-3 Puzzle's do, from engine to reader."""

from __future__ import annotations

import csv
import json
import pathlib
from contextlib import closing
from typing import Any

import gguf
import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the llama.cpp engine is not installed: pip install moe-watch[llama]")

import moe_watch
from moe_watch.backends.generation.observation import Evaluated, Observer, TokenFacts
from moe_watch.backends.layer_checks import check_same_experts
from moe_watch.backends.llama.engine import load
from moe_watch.backends.mlx import loading as mlx_loading
from moe_watch.backends.mlx.engine import load as load_mlx
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions
from moe_watch.commands.app import run
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Header, Token
from moe_watch.routing.row_layout import RowLayout
from moe_watch.sessions.comparing.tokens import compare_tokens
from moe_watch.sessions.reading.reader import read_session
from tests.truth.mlx_comparison import MODELS

EVEN = MODELS / "nemotron_h" / "model.gguf"
"""Four blocks, of which 1 and 3 are MoE layers with 3 of 8 experts."""
K = [3, 2]
PROMPT = "def parse_config("
TOKENS = 60


def with_k(path: pathlib.Path, by_block: list[int]) -> pathlib.Path:
    """Write the same model with another number of experts per token in each block, 0 in those without experts.

    The vocabulary is replaced by one that can encode a prompt.
    """
    reader = gguf.GGUFReader(EVEN)
    architecture = reader.fields["general.architecture"].contents()
    width = reader.fields[f"{architecture}.expert_feed_forward_length"].contents()
    arrays: dict[str, list[Any]] = {
        "tokenizer.ggml.tokens": ["<s>", "</s>", *map(chr, range(33, 127)), "Ġ", "ab", *(f"<{n}>" for n in range(30))],
        f"{architecture}.expert_used_count": by_block,
        f"{architecture}.expert_feed_forward_length": [width if k else 0 for k in by_block],
    }
    writer = gguf.GGUFWriter(path, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        if name in arrays:
            kind = gguf.GGUFValueType.UINT32 if isinstance(arrays[name][0], int) else gguf.GGUFValueType.STRING
            writer.add_key_value(name, arrays[name], gguf.GGUFValueType.ARRAY, sub_type=kind)
        else:
            kind, *of = field.types
            writer.add_key_value(name, field.contents(), kind, sub_type=of[0] if of else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("by-layer")


@pytest.fixture(scope="module")
def uneven(folder: pathlib.Path) -> pathlib.Path:
    return with_k(folder / "uneven.gguf", [0, 3, 0, 2])


def record(model: pathlib.Path, output: pathlib.Path, *options: str) -> pathlib.Path:
    drawing = () if options else ("--prompt", PROMPT, "--tokens", str(TOKENS), "--seed", "3")
    command = ["record", str(model), "--output", str(output), "--chunk-size", "4", "--threads", "1"]
    assert run([*command, *drawing, *options]) == 0
    return output


@pytest.fixture(scope="module")
def session(folder: pathlib.Path, uneven: pathlib.Path) -> pathlib.Path:
    return record(uneven, folder / "uneven.moe.jsonl")


def tokens(path: pathlib.Path) -> tuple[Header, list[Token]]:
    with closing(read_session(path)) as reader:
        return reader.header, [event for event in reader if isinstance(event, Token)]


def test_an_array_of_equal_numbers_is_one_number(folder: pathlib.Path) -> None:
    path = with_k(folder / "even.gguf", [0, 3, 0, 3])
    engine = load(catalog.locate(str(path), "llama.cpp"), options=EngineOptions(threads=1), progress=lambda _: None)
    assert (engine.model.experts_per_token, engine.model.schema) == (3, 1)
    engine.close()


def test_the_header_says_it_and_rows_are_flat(session: pathlib.Path) -> None:
    header, recorded = tokens(session)
    assert (header.schema, header.model.layers, header.model.experts_per_token) == (2, [1, 3], K)
    assert {len(token.experts) for token in recorded} == {len(token.weights or []) for token in recorded} == {sum(K)}
    assert {len(token.entropy or []) for token in recorded} == {2}


def test_routing_is_that_of_the_even_model_as_far_as_it_must_be(folder: pathlib.Path, session: pathlib.Path) -> None:
    """The models differ in the last MoE layer only: the uneven one selects two of the even one's three experts."""
    model = with_k(folder / "same.gguf", [0, 3, 0, 3])
    even = record(model, folder / "same.moe.jsonl", "--teacher", str(session))
    layout = RowLayout(K)
    compared = 0
    for ours, theirs in zip(tokens(session)[1], tokens(even)[1], strict=True):
        first, last = layout.experts(ours).tolist()
        expected = RowLayout([3, 3]).experts(theirs).tolist()
        assert first == expected[0]
        assert layout.table(np.array(ours.weights, float))[0].tolist() == (theirs.weights or [])[:3]
        if last[0] >= 0:  # llama.cpp computes the last layer of a prompt for its last token only
            assert set(last[:2]) < set(expected[1])
            assert last[2] == -1
            assert sum((ours.weights or [])[3:]) == pytest.approx(25_000, abs=2)  # the gate's scale is 2.5
            compared += 1
    assert compared >= TOKENS


def test_verify_finds_nothing_and_a_replay_shows_the_same(
    session: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["verify", str(session)]) == 0
    capsys.readouterr()
    assert run(["replay", str(session), "--headless", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["experts_per_token"] == K
    decode = summary["usage"]["decode"]
    assert [sum(counts) for counts in decode["counts"]] == [k * rows for k, rows in zip(K, decode["rows"], strict=True)]
    assert summary["churn"] is not None
    assert run(["replay", str(session), "--headless"]) == 0
    assert "2 layers × 8 experts, top-2 to 3 by layer" in capsys.readouterr().out


def test_a_damaged_row_is_found(session: pathlib.Path, tmp_path: pathlib.Path) -> None:
    lines = session.read_bytes().splitlines()
    at = max(n for n, line in enumerate(lines) if line.startswith(b'{"event":"token"'))
    token = json.loads(lines[at])
    for experts, reason in (
        ([*token["experts"][:3], 1, 1], "layer 3 selects an expert twice"),
        (token["experts"][:4], "experts holds 4 values instead of 5"),
        ([*token["experts"][:2], None, *token["experts"][3:]], "layer 1 is partly null"),
    ):
        path = tmp_path / "damaged.moe.jsonl"
        path.write_bytes(b"\n".join([*lines[:at], json.dumps(token | {"experts": experts}).encode(), *lines[at + 1 :]]))
        with closing(read_session(path)) as reader, pytest.raises(UserError, match=reason):
            list(reader)


def test_arrays_are_filled_up_and_exports_leave_columns_empty(session: pathlib.Path, tmp_path: pathlib.Path) -> None:
    opened = moe_watch.open(session)
    experts, weights = opened.experts("decode"), opened.weights("decode")
    assert experts.shape == weights.shape == (TOKENS, 2, 3)
    assert (experts[:, 1, 2] == -1).all()
    assert np.isnan(weights[:, 1, 2]).all()
    assert (experts[:, 0] >= 0).all()
    assert np.allclose(np.nansum(weights, -1), 2.5, atol=3e-4)
    assert opened.counts().sum(-1).tolist() == [TOKENS * k for k in K]
    assert np.allclose(opened.usage().sum(-1), 1)
    assert not np.isnan(opened.churn("decode")).any()
    assert run(["export", str(session), "--to", "csv", "--output", str(tmp_path / "tables")]) == 0
    with (tmp_path / "tables" / "routing.csv").open(newline="") as file:
        decoded = [row for row in csv.DictReader(file) if row["phase"] == "decode"]
    assert [row["expert_3"] != "" for row in decoded] == [True, False] * TOKENS
    assert [row["weight_3"] != "" for row in decoded] == [True, False] * TOKENS


def test_a_run_agrees_with_itself(session: pathlib.Path) -> None:
    found = compare_tokens(session, session)
    assert not isinstance(found, str)
    assert found.routing is not None
    assert (found.routing.order == found.routing.rows).all()
    assert (found.routing.kept == found.routing.choices).all()
    assert found.routing.difference.tolist() == [0, 0]


def test_with_another_number_it_is_another_shape(folder: pathlib.Path, session: pathlib.Path) -> None:
    turned = record(with_k(folder / "turned.gguf", [0, 2, 0, 3]), folder / "turned.moe.jsonl")
    found = compare_tokens(session, turned)
    assert not isinstance(found, str)
    assert found.not_comparable == "the models select different numbers of experts in some layers"


def test_a_continued_file_and_the_tap_switched_off_keep_the_layout(uneven: pathlib.Path) -> None:
    engine = load(catalog.locate(str(uneven), "llama.cpp"), options=EngineOptions(threads=1), progress=lambda _: None)
    engine.observe(False)
    [routing] = engine.prefill([1, 2], lambda _: None)
    facts = [TokenFacts(i=i, t=0.0, source="prompt", id=i, text="") for i in range(2)]
    seen = Observer(engine.model).tokens([Evaluated(facts, routing)])
    assert [token.experts for token in seen] == [[None] * sum(K)] * 2
    engine.close()


def test_mlx_shows_such_a_model_too(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = mlx_loading.open_location

    def with_one_expert_in_layer_2(*args: Any, **options: Any) -> Any:
        model, *others = opened(*args, **options)
        model.model.layers[2].block_sparse_moe.num_experts_per_tok = 1
        return model, *others

    monkeypatch.setattr(mlx_loading, "open_location", with_one_expert_in_layer_2)
    engine = load_mlx(catalog.locate("pocket", "mlx"), options=EngineOptions(), progress=lambda _: None)
    assert engine.model.experts_per_token == [2, 2, 1, 2, 2, 2]
    ids = engine.encode(PROMPT, turn=False, first=True)
    steps = [
        Evaluated([TokenFacts(i=0, t=0.0, source="prompt", id=i, text="") for i in ids], routing)
        for routing in engine.prefill(ids, lambda _: None)
    ]
    seen = Observer(engine.model).tokens(steps)
    assert {len(token.experts) for token in seen} == {11}
    layout = RowLayout.of(engine.model)
    weights = np.array([layout.table(np.array(token.weights, float), 0.0) for token in seen])
    assert np.allclose(weights.sum(-1), 10_000, atol=2)
    engine.close()


def test_layers_with_different_numbers_of_experts_are_refused_with_both_numbers() -> None:
    check_same_experts([(1, 8), (3, 8)])
    with pytest.raises(UserError, match="layer 1 has 8 experts and layer 3 has 6: a session has one number"):
        check_same_experts([(1, 8), (3, 6)])
