"""Types, offsets, phases and fill: an import never reads them wrongly."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

import moe_watch
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Change
from moe_watch.sessions.imports.importer import import_trace, read_trace
from moe_watch.sessions.imports.traces import ImportOptions
from moe_watch.sessions.reading.reader import SessionReader
from moe_watch.sessions.verifying.file import verify
from tests.sessions.imports import foreign_files as made
from tests.sessions.imports.foreign_files import ALONE, BOTH, EXPERTS, LAYERS, PROMPT, TOKENS, K

START = 3
SHAPED = ImportOptions(experts=EXPERTS, experts_per_token=K, layers=list(range(LAYERS)))


@pytest.fixture
def trace(tmp_path):
    """Reads a file of JSON or text as a trace."""

    def read(content, options=ALONE):
        path = tmp_path / "trace"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_trace(path, options)

    return read


def refused(run, said, *arguments):
    with pytest.raises(UserError) as caught:
        run(*arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def said_in(warnings, text):
    return any(text in each for each in warnings)


# -- phases


def table(phase_of, columns="token,phase,layer,expert_1,expert_2"):
    rows = [
        f"{t},{phase_of(t)},{layer},{row[0]},{row[1]}"
        for t, token in enumerate(made.routing())
        for layer, row in enumerate(token)
    ]
    return "\n".join([columns, *rows]) + "\n"


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("prefill", "decode"),
        ("Prefill", "Decode"),
        (" PREFILL ", "DECODE"),
        ("prompt", "generation"),
        ("prompt", "completion"),
        ("prompt", "generated"),
        ("pp", "tg"),
        ("0", "1"),
    ],
)
def test_a_phase_is_understood(trace, prompt, answer):
    found = trace(table(lambda t: prompt if t < PROMPT else answer))
    assert found.prompt_tokens == PROMPT
    assert said_in(found.warnings, "phase 0 is taken as prefill") == (prompt == "0")


@pytest.mark.parametrize("phase", ["", "thinking", "2", "true", "-", "prefil", "eos"])
def test_a_phase_that_is_not_understood_is_refused(trace, phase):
    told = table(lambda t: phase if t == 7 else "prefill" if t < PROMPT else "decode")
    refused(trace, f"line 30: a phase of {phase!r}: name phases prefill and decode", told)


def test_numbered_phases_the_other_way_round_are_refused(trace):
    refused(trace, "phase 0 comes after phase 1", table(lambda t: int(t < PROMPT)))


def test_a_table_without_phases_is_warned_of_and_can_be_told_them(trace):
    plain = table(lambda t: "x", "token,note,layer,expert_1,expert_2")
    found = trace(plain)
    assert found.prompt_tokens == 0
    assert said_in(found.warnings, "does not state which tokens are the prompt's")
    told = trace(plain, ImportOptions(experts=EXPERTS, prompt_tokens=4))
    assert (told.prompt_tokens, told.warnings) == (4, [])


def test_the_passes_of_a_dump_say_which_are_the_prompt_s(trace):
    passes = made.sglang_passes(made.routing())
    stated = [each | {"forward_mode": 1 if at < 3 else 2} for at, each in enumerate(passes)]
    found = trace({"records": stated})
    assert (found.prompt_tokens, found.warnings) == (PROMPT + 2, [])
    mixed = [each | {"forward_mode": 3} for each in passes]
    assert said_in(trace({"records": mixed}).warnings, "passes of more than one token are taken as the prompt")
    assert trace({"records": mixed}).prompt_tokens == PROMPT


def with_prompt(tokens):
    return ImportOptions(experts=EXPERTS, experts_per_token=K, prompt_tokens=tokens)


def in_passes():
    passes = made.sglang_passes(made.routing())
    return {"records": [each | {"forward_mode": 1 if at < 3 else 2} for at, each in enumerate(passes)]}


@pytest.mark.parametrize(
    ("content", "stated"),
    [
        (table(lambda t: "prefill" if t < PROMPT else "decode"), PROMPT),
        (made.lines(made.moe_trace()), PROMPT),
        (in_passes(), PROMPT + 2),
        (made.sglang_generate(), PROMPT),
    ],
    ids=["table", "json lines", "passes", "response"],
)
def test_a_prompt_that_contradicts_the_file_is_refused(trace, content, stated):
    assert trace(content, with_prompt(stated)).prompt_tokens == stated
    said = f"{stated} prompt tokens, not {stated + 1}: leave out --prompt-tokens"
    refused(trace, said, content, with_prompt(stated + 1))


def test_a_prompt_that_is_only_assumed_can_be_told_otherwise(trace):
    numbered = table(lambda t: "0" if t < PROMPT else "1")
    assert trace(numbered, with_prompt(2)).prompt_tokens == 2
    mixed = {"records": [each | {"forward_mode": 3} for each in made.sglang_passes(made.routing())]}
    assert trace(mixed, with_prompt(2)).prompt_tokens == 2


def test_a_prompt_longer_than_the_trace_is_refused(trace):
    plain = table(lambda t: "x", "token,note,layer,expert_1,expert_2")
    assert trace(plain, with_prompt(TOKENS)).prompt_tokens == TOKENS
    said = f"{TOKENS} tokens, but {TOKENS + 1} prompt tokens: check --prompt-tokens"
    refused(trace, said, plain, with_prompt(TOKENS + 1))


def test_a_token_of_two_phases_is_refused(trace):
    lines = table(lambda t: "prefill" if t < PROMPT else "decode").splitlines()
    lines[2] = lines[2].replace("prefill", "decode")
    refused(trace, "line 3: token 0 has another phase in other layers", "\n".join(lines))


def test_json_lines_have_phases_too(trace):
    rows = made.moe_trace()
    assert trace(made.lines([row | {"phase": row["phase"].title()} for row in rows])).prompt_tokens == PROMPT
    refused(trace, "record 1: a phase of 'warm-up'", made.lines([row | {"phase": "warm-up"} for row in rows]))
    without = [{key: value for key, value in row.items() if key != "phase"} for row in rows]
    assert said_in(trace(made.lines(without)).warnings, "does not state which tokens are the prompt's")
    refused(trace, "some tokens have a phase and some have none", made.lines([*rows[:20], *without[20:]]))


# -- offsets


def without_prefix():
    return made.evaluated()[START:]


def assert_placed(found, start=START):
    expected = made.routing()
    expected[:start], expected[-1] = -1, -1
    np.testing.assert_array_equal(found.experts, expected)
    assert found.prompt_tokens == PROMPT
    assert said_in(found.warnings, f"rows begin at token {start}")


@pytest.mark.parametrize(
    ("response", "options"),
    [
        (made.vllm_response(made.described(without_prefix(), start=START)), ALONE),
        (made.vllm_response(without_prefix().tolist(), routed_experts_prompt_start=START), ALONE),
        (made.vllm_response(without_prefix().tolist()), ImportOptions(experts=EXPERTS, start=START)),
        (made.vllm_response(made.npy64(without_prefix())), ImportOptions(experts=EXPERTS, start=START)),
        (
            made.sglang_generate(routed_experts=made.b64(without_prefix(), "<i4"), routed_experts_start_len=START)
            | {"input_ids": made.PROMPT_IDS},
            BOTH,
        ),
    ],
    ids=["start", "prompt start", "told, lists", "told, npy", "start length"],
)
def test_rows_that_begin_later_are_put_where_they_belong(trace, response, options):
    found = trace(response, options)
    assert_placed(found)
    assert found.ids.tolist() == [*made.PROMPT_IDS, *made.ANSWER_IDS]


def test_rows_that_begin_later_do_not_need_the_answers_ids(trace):
    response = made.vllm_response(made.described(without_prefix(), start=START))
    del response["choices"][0]["token_ids"]
    found = trace(response)
    np.testing.assert_array_equal(found.experts[START:], without_prefix())
    assert (found.experts[:START] == -1).all()
    assert found.prompt_tokens == PROMPT
    assert found.ids.tolist() == [*made.PROMPT_IDS, *[-1] * (TOKENS - 1 - PROMPT)]


def test_rows_that_fit_no_offset_are_refused(trace):
    short = made.vllm_response(without_prefix().tolist())
    refused(
        trace,
        "8 rows for 12 tokens: give one whole response, or the number",
        short,
    )
    wrong = made.vllm_response(made.described(without_prefix(), start=1))
    refused(trace, "8 rows from token 1 on for 12 tokens", wrong)
    stated = made.vllm_response(made.described(without_prefix(), start=START), routed_experts_prompt_start=1)
    refused(trace, "rows begin at token 3, not at 1", stated)
    told = ImportOptions(experts=EXPERTS, start=4)
    refused(trace, "rows begin at token 3", made.vllm_response(made.described(without_prefix(), start=START)), told)
    negative = made.vllm_response(made.described(without_prefix(), start=-3))
    refused(trace, "rows begin at token -3", negative)
    apart = made.vllm_response(made.described(without_prefix(), start=3))
    apart["prompt_routed_experts"] = made.evaluated()[:START].tolist()
    refused(trace, "rows begin at token 3, and the prompt's rows are apart", apart)


def test_the_prompt_is_as_long_as_the_usage_says(trace):
    response = made.vllm_response(usage={"prompt_tokens": PROMPT, "completion_tokens": TOKENS - PROMPT})
    del response["prompt_token_ids"], response["choices"][0]["token_ids"]
    found = trace(response)
    assert (found.prompt_tokens, len(found.experts), found.ids) == (PROMPT, TOKENS, None)
    response["usage"]["completion_tokens"] = 30
    refused(trace, "11 rows for 35 tokens", response)


def test_the_usage_of_several_choices_is_of_all_of_them(trace):
    response = made.vllm_response(usage={"prompt_tokens": PROMPT, "completion_tokens": 3 * (TOKENS - PROMPT)})
    response["choices"] *= 3
    for choice in response["choices"]:
        choice.pop("token_ids", None)
    found = trace(response, ImportOptions(experts=EXPERTS, choice=2))
    assert (found.prompt_tokens, len(found.experts)) == (PROMPT, TOKENS - 1)
    assert found.ids.tolist() == [*made.PROMPT_IDS, *[-1] * (TOKENS - 1 - PROMPT)]


def test_positions_after_a_cached_prefix_name_the_flag(trace):
    passes = made.sglang_passes(made.routing(), first=START)
    said = "positions begin at 3: SGLang took the tokens before from its radix cache"
    refused(trace, said, {"records": passes})
    refused(trace, "--disable-radix-cache", {"records": passes})


# -- types


def bare(dtype, array=None):
    encoded = made.b64(made.evaluated() if array is None else array, dtype)
    return made.vllm_response(encoded)


@pytest.mark.parametrize("dtype", ["<u1", "<i2", "<u2", "<i4", "<i8"])
def test_bare_numbers_are_of_the_only_type_that_gives_a_row_per_token(trace, dtype):
    found = trace(bare(dtype), SHAPED)
    np.testing.assert_array_equal(found.experts[:-1], made.evaluated())


def test_bare_numbers_are_not_read_by_guess(trace):
    response = bare("<i4")
    refused(trace, "bare numbers of unknown type: use --dtype", response)
    del response["prompt_token_ids"]
    refused(trace, "bare numbers of unknown type: use --dtype", response, SHAPED)
    halves = ImportOptions(experts=EXPERTS, experts_per_token=K, layers=list(range(LAYERS)), dtype="int16")
    refused(trace, ["selects an expert twice", "expert 0"][1], response, halves)
    refused(trace, "22 rows of int16 for 12 tokens", bare("<i4"), halves)


def test_int32_read_as_int16_is_found_out_by_the_expert_in_every_row(trace):
    """With distinct ids beside it the zero of each upper half is no impossible row."""
    upper = {"routed_experts": made.b64(np.maximum(made.evaluated(), 1), "<i4")}
    halves = ImportOptions(experts=EXPERTS, experts_per_token=K, layers=list(range(LAYERS)), dtype="int16")
    refused(trace, "expert 0 is selected by every token in every layer", upper, halves)


def test_sglangs_numbers_are_int32_as_it_documents(trace):
    np.testing.assert_array_equal(trace(made.sglang_generate(), BOTH).experts[:-1], made.evaluated())
    layers = ImportOptions(experts=EXPERTS, layers=[3, 4, 5, 6])
    found = trace(made.sglang_generate(), layers)
    assert (found.shape.layers, found.shape.experts_per_token) == ([3, 4, 5, 6], K)
    cut = made.sglang_generate()
    cut["meta_info"]["routed_experts"] = cut["meta_info"]["routed_experts"][:-4]
    refused(trace, "bytes are not a multiple of int32", cut, BOTH)
    wider = ImportOptions(experts=EXPERTS, experts_per_token=3)
    refused(trace, "bare numbers without a shape", made.sglang_generate(), wider)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64"])
def test_a_type_that_is_not_stated_follows_from_shape_and_length(trace, dtype):
    payload = made.described(made.evaluated(), dtype)
    del payload["dtype"]
    np.testing.assert_array_equal(trace(made.vllm_response(payload)).experts[:-1], made.evaluated())
    payload["shape"][0] -= 1
    refused(trace, "bytes are not of shape [10, 4, 2]", made.vllm_response(payload))


def test_a_type_that_is_stated_is_believed_and_checked(trace):
    payload = made.described(made.evaluated(), "uint8")
    payload["dtype"] = "int32"
    refused(trace, "88 bytes are not of shape [11, 4, 2] and dtype int32", made.vllm_response(payload))


def test_dynamo_sends_base85(trace):
    payload = made.described(made.evaluated(), "int32")
    payload["data"] = base64.b85encode(made.evaluated().astype("<i4").tobytes()).decode()
    del payload["dtype"]
    np.testing.assert_array_equal(trace(made.vllm_response(payload)).experts[:-1], made.evaluated())
    payload["shape"][0] += 1
    refused(trace, "bytes are not of shape [12, 4, 2]", made.vllm_response(payload))


# -- ids


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda experts: experts + 200, "token 0: layer 0 selects expert"),
        (lambda experts: np.where(experts == experts[4, 1, 0], experts[4, 1, 1], experts), "selects an expert twice"),
    ],
)
def test_ids_that_no_such_model_has_are_refused(trace, change, said):
    refused(trace, said, made.vllm_response(change(made.evaluated()).tolist()))


def test_one_expert_in_every_row_is_warned_of(trace):
    experts = np.maximum(made.evaluated(), 1)
    experts[..., 0] = 0
    found = trace(made.vllm_response(experts.tolist()))
    assert said_in(found.warnings, "expert 0 is selected by every token in every layer")
    assert not said_in(trace(made.vllm_response()).warnings, "every token in every layer")


def test_counts_of_more_selections_than_tokens_are_refused(trace):
    table = made.counts()
    table[2] = 0
    table[2, 5] = TOKENS * K
    path = {"logical_count": table.tolist()}
    refused(trace, "layer 2 selected expert 5 24 times in 12 tokens", path, BOTH)


def test_the_numbers_that_a_file_states_are_not_overruled(trace):
    refused(trace, "16 experts, not 8: leave out --experts", made.bigmoeonedge(), ImportOptions(experts=8))
    told = ImportOptions(experts_per_token=3)
    refused(trace, "2 experts per token, not 3: leave out --experts-per-token", made.bigmoeonedge(), told)
    refused(
        trace,
        "16 experts, not 8: leave out --experts",
        made.coli_usage(),
        ImportOptions(experts=8, experts_per_token=2),
    )


# -- fill


@pytest.mark.parametrize("fill", [0, -1, 255, 65535])
def test_rows_of_fill_are_absent(trace, fill):
    experts = made.evaluated()
    experts[:4] = fill
    found = trace(made.vllm_response(experts.tolist()))
    assert (found.experts[:4] == -1).all()
    np.testing.assert_array_equal(found.experts[4:-1], made.evaluated()[4:])
    assert said_in(found.warnings, "4 of 11 tokens have no routing (0 to 3)")


def test_a_layer_that_lacks_some_rows_is_named(trace):
    experts = made.evaluated()
    experts[2:5, 1] = -1
    found = trace(made.vllm_response(experts.tolist()), ImportOptions(experts=EXPERTS, layers=[3, 5, 7, 9]))
    assert said_in(found.warnings, "layer 5 has no routing at 3 of 11 tokens")


def test_columns_of_fill_are_no_selections(trace):
    for fill in (-1, 255):
        found = trace({"records": made.sglang_passes(made.routing(), fill=fill)})
        np.testing.assert_array_equal(found.experts, made.routing())
        assert said_in(found.warnings, "6 columns hold 255 in every row") == (fill == 255)


def top_1():
    experts = made.routing()[:-1, :, :1].copy()
    experts[0] = experts[0] % 3 + 1
    return experts


def test_dense_layers_of_a_model_with_one_expert_per_token_are_left_out(trace):
    experts = top_1()
    experts[:, [0, 2]] = 0
    found = trace(made.vllm_response(made.npy64(experts.astype(np.uint8))))
    assert found.shape.layers == [1, 3]
    np.testing.assert_array_equal(found.experts[:-1], experts[:, [1, 3]])
    assert said_in(found.warnings, "layers 0, 2: expert 0 at every token")


def test_expert_0_of_a_model_with_one_expert_per_token_is_an_expert(trace):
    experts = top_1()
    experts[5, 1] = 0
    assert trace(made.vllm_response(experts.tolist())).experts[5, 1].tolist() == [0]
    experts[:4] = 0
    found = trace(made.vllm_response(experts.tolist()))
    assert (found.experts[:4] == -1).all()
    assert found.experts[5, 1].tolist() == [0]


def test_nothing_but_zeros_is_refused(trace):
    for width in (1, 2):
        zeros = np.zeros((TOKENS - 1, LAYERS, width), np.uint8)
        refused(trace, "no routing in it", made.vllm_response(made.npy64(zeros)))


def test_tokens_without_routing_are_so_in_the_session(tmp_path):
    """Routing was not observed there, as with the tap off: neither a fault of the file nor a selection."""
    experts = made.evaluated()
    experts[4:6] = 0
    path = tmp_path / "trace"
    path.write_text(json.dumps(made.vllm_response(experts.tolist())))
    found = import_trace(path, ALONE, folder=tmp_path / "sessions").path
    assert verify(found).findings == []
    changes = [(event.i, event.tap) for event in SessionReader(found) if isinstance(event, Change)]
    assert changes == [(4, False), (6, True), (TOKENS - 1, False), (TOKENS, True)]
    session = moe_watch.open(found)
    assert np.flatnonzero((session.experts() == -1).all((1, 2))).tolist() == [4, 5, TOKENS - 1]
    assert session.counts("prefill").sum() + session.counts("decode").sum() == (TOKENS - 3) * LAYERS * K
