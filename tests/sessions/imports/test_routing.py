"""Traces with routing per token: vLLM's, SGLang's, and tables."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest

import moe_watch
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Chunk, Token
from moe_watch.sessions.export.exporter import ExportPlan, export_session
from moe_watch.sessions.imports.importer import import_trace
from moe_watch.sessions.imports.traces import ImportOptions, parse_layers
from moe_watch.sessions.reading.reader import read_session
from tests.sessions.kit import EXPERTS, replayed
from tests.sessions.made_sessions import write_session

EIGHT = ImportOptions(experts=8)


def made_routing(tokens=50, layers=3, experts=8, k=2):
    """Expert ids [T, L, k], in ascending order as sessions without probabilities have them."""
    rng = np.random.default_rng(1)
    rows = [rng.choice(experts, k, replace=False) for _ in range(tokens * layers)]
    return np.sort(np.array(rows).reshape(tokens, layers, k), -1)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def imported(tmp_path):
    """Imports a file or JSON, and opens the session."""

    def run(source, options=EIGHT, **named):
        path = source
        if not hasattr(source, "suffix"):
            path = tmp_path / "trace.json"
            path.write_text(json.dumps(source))
        return moe_watch.open(import_trace(path, options, folder=tmp_path / "sessions", **named).path)

    return run


def refused(run, message, *arguments, **named):
    with pytest.raises(UserError, match=message):
        run(*arguments, **named)


# -- vLLM


def response(experts, prompt=20, **choice):
    tokens = len(experts) + 1
    return {
        "model": "Qwen/Qwen3-30B-A3B",
        "choices": [
            {
                "prompt_token_ids": list(range(100, 100 + prompt)),
                "token_ids": list(range(200, 200 + tokens - prompt)),
                "routed_experts": npy(experts.astype(np.uint8)),
                **choice,
            }
        ],
    }


def test_a_response_of_vllm_becomes_a_session(imported):
    experts = made_routing()
    session = imported(response(experts))
    assert (session.header.model.name, session.header.backend.name) == ("Qwen/Qwen3-30B-A3B", "vLLM")
    assert session.header.capture == ["experts"]
    assert session.layers.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(session.experts()[:-1], experts)
    assert (session.experts()[-1] == -1).all()  # the last token was drawn and never evaluated
    assert session.tokens()["id"].tolist() == [*range(100, 120), *range(200, 231)]
    assert session.tokens("prefill")["source"].tolist() == ["prompt"] * 20
    assert set(session.tokens()["text"]) == {""}
    refused(session.entropy, "no entropy in this recording")


def test_what_the_session_does_not_have_is_said_in_its_header(imported):
    warnings = imported(response(made_routing())).header.warnings
    assert "temperature and seed are unknown" in warnings[0]
    assert "no text" in warnings
    assert "no token ids" not in warnings
    warnings = imported({"routed_experts": made_routing().tolist()}).header.warnings
    assert {"no text", "no token ids"} < set(warnings)
    assert any("all are taken as generated" in warning for warning in warnings)


def test_its_file_is_one_that_a_replay_finds_nothing_wrong_with(imported):
    session = imported(response(made_routing()))
    items = replayed(session.path)
    assert sum(isinstance(item, Token) for item in items) == 51
    chunks = [item for item in items if isinstance(item, Chunk)]
    assert [chunk.partial for chunk in chunks] == [False, True]
    assert {chunk.pressures for chunk in chunks} == {None}
    assert items[-2].why == "imported" or items[-1].why == "imported"
    reader = read_session(session.path)
    assert all(line.event is not None for line in reader.examine())
    reader.close()


@pytest.mark.parametrize(
    "form",
    [
        lambda experts: experts.tolist(),
        lambda experts: npy(experts.astype(np.uint16)),
        lambda experts: {"data": base64.b64encode(experts.astype("<i2").tobytes()).decode(), "shape": [*experts.shape]},
        lambda experts: {
            "data": base64.b64encode(experts.astype("<i4").tobytes()).decode(),
            "shape": [*experts.shape],
            "dtype": "int32",
        },
    ],
    ids=["lists", "npy", "described", "described int32"],
)
def test_routed_experts_come_in_several_forms(imported, form):
    experts = made_routing()
    np.testing.assert_array_equal(imported({"routed_experts": form(experts)}).experts(), experts)


def test_bare_base64_needs_its_shape(imported):
    experts = made_routing()
    bare = {"routed_experts": base64.b64encode(experts.astype("<i2").tobytes()).decode()}
    refused(imported, "of unknown type: use --dtype, and --layers and --experts-per-token", bare)
    typed = ImportOptions(experts=8, dtype="int16")
    refused(imported, "bare numbers without a shape: use --layers and --experts-per-token", bare, typed)
    known = ImportOptions(experts=8, layers=[3, 4, 5], experts_per_token=2, dtype="int16")
    session = imported(bare, known)
    assert session.layers.tolist() == [3, 4, 5]
    np.testing.assert_array_equal(session.experts(), experts)
    refused(
        imported,
        "do not fit rows of 3 layers × 7 experts",
        bare,
        ImportOptions(experts=8, layers=[3, 4, 5], experts_per_token=7, dtype="int16"),
    )


def test_the_prompts_routing_beside_the_answers_is_joined(imported):
    experts = made_routing()
    apart = {"prompt_routed_experts": experts[:20].tolist(), "choices": [{"routed_experts": experts[20:].tolist()}]}
    session = imported(apart)
    np.testing.assert_array_equal(session.experts(), experts)
    assert len(session.tokens("prefill")["i"]) == 20


def test_layers_without_routing_are_left_out(imported):
    experts = made_routing(layers=4)
    experts[:, 0] = 0  # a dense layer, as vLLM fills it
    experts[7, 2] = -1  # a row that was not captured
    session = imported({"routed_experts": experts.tolist()})
    assert session.layers.tolist() == [1, 2, 3]
    assert session.experts()[7, 1].tolist() == [-1, -1]
    np.testing.assert_array_equal(session.experts()[:, 0], experts[:, 1])


def test_arrays_alone_need_to_be_told_whose_they_are(imported, tmp_path):
    experts = made_routing()
    path = tmp_path / "routing.npy"
    np.save(path, experts)
    refused(imported, "counts or expert ids: name the format: `moe-watch import FILE --from sglang`", path)
    np.testing.assert_array_equal(imported(path, form="vllm").experts(), experts)
    np.savez(tmp_path / "routing.npz", routed_experts=experts)
    options = ImportOptions(experts=8, prompt_tokens=10, model="mine")
    session = imported(tmp_path / "routing.npz", options)
    assert session.header.model.name == "mine"
    assert len(session.tokens("prefill")["i"]) == 10


def test_what_a_response_does_not_tell_is_never_guessed(imported):
    given = response(made_routing())
    refused(imported, "does not state the model's number of experts: use --experts N", given, ImportOptions())
    refused(imported, "selects expert [67] of 6: check --experts", given, ImportOptions(experts=6))
    refused(imported, "top-2, is impossible", given, ImportOptions(experts=1))
    refused(
        imported,
        "50 tokens, but 60 prompt tokens",
        {"routed_experts": made_routing().tolist()},
        ImportOptions(experts=8, prompt_tokens=60),
    )
    refused(imported, "3 layers, but --layers names 1", given, ImportOptions(experts=8, layers=[1]))
    refused(imported, "no choice 1: use --choice 0", given, ImportOptions(experts=8, choice=1))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"choices": []}, "no choice 0"),
        ({"choices": [3]}, r"choice 0: Expected `object`, got `int`"),
        ({"choices": [{"text": "x"}]}, "serve with --enable-return-routed-experts"),
        ({"routed_experts": [[1, 2], [3, 4]]}, "Expected `array`, got `int`"),
        ({"routed_experts": [[[1.5, 2]]]}, "Expected `int`, got `float`"),
        ({"routed_experts": [[[1, 2]], [[1]]]}, "not an array of numbers"),
        ({"routed_experts": [[["a", "b"]]]}, "Expected `int`, got `str`"),
        ({"routed_experts": [[[0, 0]]]}, "no routing in it"),
        ({"routed_experts": [[[1, 2, 1]]]}, "selects an expert twice"),
        ({"routed_experts": "k05VTVBZnonsense!"}, "not base64"),
        ({"routed_experts": base64.b64encode(b"\x93NUMPY\x01\x00garbage").decode()}, "not an array of numbers"),
        ({"routed_experts": {"data": "AAAA", "shape": [1, 1, 2]}}, r"3 bytes are not of shape \[1, 1, 2\]"),
        ({"routed_experts": {"data": "AAA=", "shape": [1, 1, 2], "dtype": "int32"}}, "2 bytes are not .* dtype int32"),
        ({"routed_experts": {"data": "AAAA", "shape": [-1, 1, 2]}}, r"a shape of \[-1, 1, 2\]"),
        ({"routed_experts": {"data": "AAAA", "shape": [1, 1, 2], "dtype": "object"}}, "a dtype of 'object'"),
        ({"other": 1}, "JSON of unknown format, with other"),
        ([], "counts or expert ids"),
    ],
)
def test_bad_responses_are_refused_in_a_line(imported, tmp_path, source, message):
    refused(imported, message, source)
    assert not list((tmp_path).glob("sessions/*"))


# -- SGLang, per token


def records(experts, prompt=20):
    """Passes as SGLang dumps them: the prompt in one, then token by token; eight columns, -1 where unused."""
    wide = np.full((*experts.shape[:2], 8), -1)
    wide[..., : experts.shape[2]] = experts
    spans = [(0, prompt), *((at, at + 1) for at in range(prompt, len(experts)))]
    return [
        {
            "forward_pass_id": number,
            "input_ids": list(range(500 + first, 500 + last)),
            "positions": list(range(first, last)),
            "topk_ids_of_layer": wide[first:last].transpose(1, 0, 2).tolist(),
        }
        for number, (first, last) in enumerate(spans)
    ]


def test_records_of_one_request_become_tokens(imported):
    experts = made_routing()
    session = imported({"records": records(experts)})
    assert session.header.backend.name == "SGLang"
    np.testing.assert_array_equal(session.experts(), experts)
    assert session.tokens()["id"].tolist() == list(range(500, 550))
    assert len(session.tokens("prefill")["i"]) == 20
    assert any("taken as the prompt" in warning for warning in session.header.warnings)


def test_records_of_several_requests_are_refused(imported):
    passes = records(made_routing())
    refused(imported, "more than one request", {"records": [*passes, *passes]})
    passes[1]["positions"] = ["x"]
    refused(imported, r"Expected `int`, got `str` - at `\$.records\[1\].positions\[0\]`", {"records": passes})
    del passes[1]["positions"]
    refused(imported, "a record without positions", {"records": passes})
    refused(imported, "does not fit input_ids", {"records": [passes[0] | {"input_ids": [1], "positions": [0]}]})


# -- tables


def test_an_exported_routing_table_comes_back(imported, tmp_path):
    path = write_session(tmp_path / "made.moe.jsonl", 30)
    export_session(path, ExportPlan("csv", tmp_path / "routing.csv", table="routing"))
    back, made = imported(tmp_path / "routing.csv", ImportOptions(experts=EXPERTS)), moe_watch.open(path)
    np.testing.assert_array_equal(back.experts(), np.sort(made.experts(), -1))
    np.testing.assert_array_equal(back.usage(), made.usage())
    np.testing.assert_array_equal(back.churn(), made.churn())
    assert back.layers.tolist() == made.layers.tolist()
    assert back.tokens()["phase"].tolist() == made.tokens()["phase"].tolist()


def test_a_table_may_be_plain_and_have_holes(imported, tmp_path):
    path = tmp_path / "plain.csv"
    path.write_text("token,layer,expert_1,expert_2\n11,5,0,3\n10,2,1,2\n10,5,,\n\n")
    session = imported(path, ImportOptions(experts=4, prompt_tokens=1))
    assert session.layers.tolist() == [2, 5]
    assert session.experts().tolist() == [[[1, 2], [-1, -1]], [[-1, -1], [0, 3]]]
    assert session.tokens()["phase"].tolist() == ["prefill", "decode"]
    assert session.tokens()["id"].tolist() == [-1, -1]


@pytest.mark.parametrize("heading", ["token,layer,expert_1,expert_1", "token,layer,layer,expert_1"])
def test_a_column_occurs_once(imported, tmp_path, heading):
    path = tmp_path / "twice.csv"
    path.write_text(f"{heading}\n0,0,1,2\n1,0,1,2\n")
    refused(imported, f"line 1: column {heading.split(',')[2]!r} occurs twice: remove or rename one", path)


def test_a_row_for_each_expert_is_read_when_that_is_said(imported, tmp_path):
    path = tmp_path / "long.csv"
    path.write_text("token,layer,expert,weight\n" + "".join(f"{t},0,{e},0.5\n" for t in range(3) for e in (t, 7 - t)))
    refused(imported, "line 3: token 0 twice in layer 0: give one run, or use --experts-per-token N", path)
    told = ImportOptions(experts=8, experts_per_token=2)
    assert imported(path, told).experts().tolist() == [[[0, 7]], [[1, 6]], [[2, 5]]]
    refused(
        imported,
        "2 experts per token, not 3: leave out --experts-per-token",
        path,
        ImportOptions(experts=8, experts_per_token=3),
    )
    path.write_text(path.read_text() + "3,0,1,0.5\n")
    refused(imported, "line 8: 1 expert, but 2 in the rows before", path, told)


def test_columns_about_experts_are_no_experts(imported, tmp_path):
    path = tmp_path / "more.csv"
    path.write_text("token,layer,expert_1,expert2,expert_bytes,experts_used\n0,0,1,2,3,2\n")
    assert imported(path).experts().tolist() == [[[1, 2]]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n", "text of unknown format, with columns nothing"),
        ("expert_1\n1\n", "no column called token among expert_1"),
        ("token,layer\n1,2\n", "no column of experts"),
        ("token,layer,expert_1\n", "no rows"),
        ("token,layer,expert_1\n1,2\n", "line 2: 2 cells instead of 3"),
        ("token,layer,expert_1\n1,2,x\n", "line 2: 'x' is not an index"),
        ("token,layer,expert_1,expert_2\n1,2,3,\n", "line 2: '' is not an index"),
        ("token,layer,expert_1\n1,-2,3\n", "'-2' is not an index"),
        ("token,layer,expert_1\n1,2,3\n1,2,4\n", "token 1 twice in layer 2"),
        ("token,layer,expert_1\n1,2,9\n", "selects expert 9 of 8"),
        ("token,layer,expert_1\n0,0,1\n16000000,1,1\n" + "".join(f"1,{n},1\n" for n in range(2, 99)), "have no row"),
        ("token,layer,expert_1\n" + "".join(f"{n},{n},1\n" for n in range(5000)), "for 5,000 tokens × 5,000"),
        ("token,layer,expert_1\n99999999999,2,3\n", "is not an index"),
    ],
)
def test_bad_tables_are_refused_with_their_line(imported, tmp_path, content, message):
    path = tmp_path / "bad.csv"
    path.write_text(content)
    refused(imported, message, path)


# -- all


def test_a_session_is_written_where_it_is_wanted_and_never_over_another(imported, tmp_path):
    given = response(made_routing())
    assert imported(given).path.name.startswith("Qwen-Qwen3-30B-A3B-")
    assert imported(given, output=tmp_path / "here.moe.jsonl").path == tmp_path / "here.moe.jsonl"
    refused(imported, "exists already", given, output=tmp_path / "here.moe.jsonl")
    assert imported(given, output=tmp_path / "here.moe.jsonl", force=True).path == tmp_path / "here.moe.jsonl"
    assert len(imported(given, output=tmp_path / "small.moe.jsonl.zst")) == 51


def test_a_file_that_looks_like_another_format_is_refused(imported, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("token,layer,expert_1\n1,2,3\n")
    refused(imported, "looks like csv, not vllm", path, form="vllm")
    refused(imported, "No such file", tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text("{")
    refused(imported, "not JSON", tmp_path / "bad.json")


@pytest.mark.parametrize("name", ["zero.gguf", "zero.csv", "zero.json", "zero.npz", "zero.pt"])
def test_an_empty_file_is_called_that(imported, tmp_path, name):
    (tmp_path / name).touch()
    refused(imported, rf"{name}: the file is empty: give a trace", tmp_path / name)


@pytest.mark.parametrize(("text", "layers"), [("1-3", [1, 2, 3]), ("0", [0]), (" 0, 2-3 ,7", [0, 2, 3, 7])])
def test_layers_are_typed_as_ranges(text, layers):
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "3-1", "1,1", "2,1", "a", "1-", "-1", "0-99999999"])
def test_layers_that_cannot_be_are_refused(text):
    with pytest.raises(UserError, match="--layers is"):
        parse_layers(text)
